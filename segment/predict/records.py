"""The output folder of `segment predict`: its configuration, and a record of each finished image.

A record is written after the files that it names, so an image without one is predicted again. Only files named in
records are ever removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from factory.core.config import canonical, read_yaml
from factory.core.folder import RUN
from manifests.errors import UserError
from manifests.files import is_temporary, remove_orphans, write_atomic
from manifests.limits import read_json
from segment.predict.inputs import InputImage

RECORDS = "records"
COMMAND = "segment predict"


def check_folder(out: Path, config: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a folder with other files, before anything is written.

    Args:
        out: the folder. config: resolved and JSON-ready; everything that can change an output.
        overwrite: whether another configuration may be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder, got a file. Choose another --out.")
    if not out.is_dir() or not any(not is_temporary(path) for path in out.iterdir()):
        return
    if not (out / RUN).is_file() or read_yaml(out / RUN).get("command") != COMMAND:
        raise UserError(
            f"{out}: expected an empty folder or one that {COMMAND} wrote, got other files in it. Choose another --out."
        )
    found = read_yaml(out / RUN)
    differing = [key for key in sorted(found.keys() | config.keys()) if found.get(key) != config.get(key)]
    if differing and not overwrite:
        key = differing[0]
        raise UserError(
            f"{out}: expected the settings that it was made with, got others "
            f"({key}: {str(found.get(key))[:60]} there, {str(config.get(key))[:60]} asked). "
            "Use another --out, or --overwrite to start anew."
        )


def prepare_folder(out: Path, config: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write the configuration; with `overwrite` earlier outputs are removed first."""
    remove_orphans(out)
    if overwrite:
        for record in (out / RECORDS).glob("*.json"):
            for name in _read(record).get("files", []):
                path = out / name
                if path.resolve().is_relative_to(out.resolve()):
                    path.unlink(missing_ok=True)
            record.unlink()
    (out / RECORDS).mkdir(exist_ok=True)
    write_atomic(out / RUN, yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True).encode())


def is_done(out: Path, image: InputImage, files: Sequence[str]) -> bool:
    """Whether all outputs of an image exist; refuses those of another image of its name."""
    path = out / RECORDS / f"{image.name}.json"
    if not path.is_file():
        return False
    record = _read(path)
    if record.get("identity") != image.identity:
        raise UserError(
            f"{image.where}: expected the image that {path} was made of ({record.get('source')}), got another one of "
            "its name, or it has changed. Use another --out, or --overwrite."
        )
    return set(files) <= set(record["files"]) and all((out / name).is_file() for name in files)


def write_record(out: Path, image: InputImage, files: Sequence[str], figures: Mapping[str, Any]) -> None:
    """Record a finished image: its source, its files and figures."""
    content = {"source": image.where, "identity": image.identity, "files": sorted(files), **figures}
    write_atomic(out / RECORDS / f"{image.name}.json", (canonical(content) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a record of {COMMAND}, got a damaged file. Remove it.") from error
    if not isinstance(record, dict) or not isinstance(record.get("files"), list):
        raise UserError(f"{path}: expected a record of {COMMAND}, got other JSON. Remove it.")
    return record
