"""Makes a quiz: a page that asks "real or synthetic?" and keeps the truth sealed until the end, and its key."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from factory.core.console import progress
from factory.core.datasets import check_out
from factory.core.folder import is_begun
from factory.core.page import encode_image, fill_page
from factory.quiz.key import VERSION, Key, KeyTile, Origin
from factory.quiz.report import JSON, MARKDOWN
from factory.quiz.scoring import ANSWERS_KIND
from factory.quiz.selection import Choice, Crop, choose, generator
from factory.quiz.sources import Inputs, Source, open_inputs
from manifests.checksums import SUMS
from manifests.errors import UserError
from manifests.files import sha256_file, write_atomic
from manifests.schema import DISCLAIMER

PAGE, KEY = "quiz.html", "key.json"
DEFAULT_OUT = Path("runs/quiz")
_ANSWERS = "answers"

MOST_PNG_BYTES = 24 * 2**20
"""Limit for all pictures together; above it they become JPEG."""
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Pictures:
    """Files of all tiles, in one encoding."""

    encoding: Literal["png", "jpeg"]
    files: tuple[bytes, ...]


@dataclass(frozen=True)
class Quiz:
    """A quiz that was written.

    Attributes:
        tiles: number of tiles from every data set, by (truth, name). shape: height and width shown.
        licences: of the real tiles. notes: on the choice of tiles.
    """

    page: Path
    key: Path
    tiles: dict[tuple[str, str], int]
    shape: tuple[int, int]
    encoding: str
    page_bytes: int
    licences: tuple[str, ...]
    notes: tuple[str, ...]


def make_quiz(
    synthetic: Sequence[Path],
    real: Sequence[Path],
    out: Path = DEFAULT_OUT,
    *,
    n: int = 40,
    size: tuple[int, int] | None = None,
    split: str = "test",
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Quiz:
    """Writes the page and the key of a quiz; the same inputs and seed give the same bytes.

    Args:
        synthetic, real, n, size, split: see `open_inputs`. out: folder to write to.
        seed: of the choice of tiles and pieces, and of their order. overwrite: replace an earlier quiz.
        dry_run: write nothing.
    """
    _check_free(out, overwrite=overwrite)
    inputs = open_inputs(synthetic, real, n=n, size=size, split=split)
    with progress("tiles", n) as bar:
        choice = choose(inputs, n, seed, bar.advance)
    with progress("pictures", n) as bar:
        pictures = encode(choice.crops, bar.advance)
    # The licences of the real tiles shown: of their rows, else of their data sets.
    of_rows = {crop.licence for crop in choice.crops if crop.truth == "real" and crop.licence}
    of_sets = {licence for source in inputs.real for licence in source.dataset.info.licences}
    licences = tuple(sorted(of_rows or of_sets))
    described = made_of(inputs, split, seed) | {"encoding": pictures.encoding, "licences": licences}
    key = _key(choice, pictures, described)
    page = _page(key, pictures, inputs, licences).encode()
    if not dry_run:
        out.mkdir(parents=True, exist_ok=True)
        for name in (PAGE, MARKDOWN, JSON):  # a page without its key, or scores of another quiz, would mislead
            (out / name).unlink(missing_ok=True)
        write_atomic(out / KEY, key.to_json())
        write_atomic(out / PAGE, page)
    counts = Counter((crop.truth, crop.dataset) for crop in choice.crops)
    return Quiz(
        page=out / PAGE,
        key=out / KEY,
        tiles={(source.truth, source.name): counts[source.truth, source.name] for source in inputs.all},
        shape=inputs.shape,
        encoding=pictures.encoding,
        page_bytes=len(page),
        licences=licences,
        notes=choice.notes,
    )


def encode(crops: Sequence[Crop], on_tile: Callable[[], None] = lambda: None) -> Pictures:
    """Encodes real and synthetic tiles in the same way, from their pixels alone.

    All are PNG if they take at most 24 MiB together, else JPEG of quality 95 without chroma subsampling.
    """
    files: list[bytes] = []
    for crop in crops:
        files.append(encode_image(crop.image, "png", compress_level=6))
        on_tile()
        if sum(map(len, files)) > MOST_PNG_BYTES:
            small = (encode_image(one.image, "jpeg", quality=_JPEG_QUALITY, subsampling=0) for one in crops)
            return Pictures("jpeg", tuple(small))
    return Pictures("png", tuple(files))


def _page(key: Key, pictures: Pictures, inputs: Inputs, licences: Sequence[str]) -> str:
    document = {
        "quiz": key.quiz,
        "kind": ANSWERS_KIND,
        "version": VERSION,
        "height": inputs.shape[0],
        "width": inputs.shape[1],
        "mpp": inputs.mpp,
        "licences": list(licences),
        "encoding": pictures.encoding,
        "tiles": [
            {"picture": base64.b64encode(file).decode(), "salt": tile.salt, "seal": tile.seal}
            for tile, file in zip(key.tiles, pictures.files, strict=True)
        ],
    }
    warning, scripts = f"Contains synthetic images, {DISCLAIMER}.", ("seal.js", "page.js")
    return fill_page("factory.quiz", "Real or synthetic?", document, warning=warning, scripts=scripts)


def _check_free(out: Path, *, overwrite: bool) -> None:
    check_out(out)
    is_begun(out, "a quiz", lambda name: name in (PAGE, KEY, MARKDOWN, JSON) or name.startswith(_ANSWERS))
    if not overwrite and ((out / PAGE).exists() or (out / KEY).exists()):
        raise UserError(
            f"{out}: expected a folder without a quiz, got one in it. Use another --out, or --overwrite: answers to "
            "the quiz there can then no longer be scored."
        )


def _key(choice: Choice, pictures: Pictures, made_of: dict[str, Any]) -> Key:
    rng = generator(made_of["seed"], "salts")
    names = [field.name for field in fields(Origin)]
    tiles = [
        KeyTile(
            salt=rng.bytes(16).hex(),
            image_sha256=hashlib.sha256(picture).hexdigest(),
            **{name: getattr(crop, name) for name in names},
        )
        for crop, picture in zip(choice.crops, pictures.files, strict=True)
    ]
    return Key(tuple(tiles), made_of)


def made_of(inputs: Inputs, split: str, seed: int) -> dict[str, Any]:
    """Returns seed, size and data sets, as plain values."""
    (height, width), datasets = inputs.shape, [_description(source) for source in inputs.all]
    return {"seed": seed, "height": height, "width": width, "mpp": inputs.mpp, "split": split, "datasets": datasets}


def _description(source: Source) -> dict[str, Any]:
    info = source.dataset.info
    return {
        "name": source.name,
        "truth": source.truth,
        "generator": info.generator,
        "training_sources": list(info.training_sources),
        "licences": list(info.licences),
        "sha256sums_sha256": sha256_file(source.dataset.root / SUMS),
        **({"use": DISCLAIMER} if info.is_synthetic else {}),
    }
