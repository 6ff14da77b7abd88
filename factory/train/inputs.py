"""Inputs of a training run: its configuration, as typed and from a file, and the digests of its data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from factory.core.config import Config, digest, merge, parse, parse_assignments, read_yaml
from factory.core.shipped import shipped_configs
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.table import MANIFEST

ConfigT = TypeVar("ConfigT", bound=Config)


def resolve_config(
    model: type[ConfigT],
    shipped: str,
    config: str | None,
    assignments: Sequence[str],
    typed: Mapping[str, Any],
    device: str,
) -> ConfigT:
    """Lay typed values over ``--set`` over ``--config`` over the defaults of the model.

    Args:
        model: class of the configuration. shipped: name in ``configs/train`` of the file that is used without
            ``--config``; on a CPU the one ending in ``_light``.
        config: a YAML file, or the name of a shipped one; None takes `shipped`.
        assignments: ``KEY=VALUE`` words. typed: fields as typed. device: where training runs.

    Raises:
        UserError: for an unknown key or file, or a value of the wrong form.
    """
    path = _config_path(config or (f"{shipped}_light" if device == "cpu" else shipped))
    values = merge(merge(read_yaml(path), parse_assignments(assignments)), typed)
    return parse(model, values, config or path.name)


def _config_path(name: str) -> Path:
    shipped = shipped_configs("train")
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"--config: expected a YAML file or one of {', '.join(shipped)}, got {name!r}.")
    return path


def manifest_digest(root: Path) -> str:
    """Return the sha256 of a data set's manifest."""
    path = root / MANIFEST
    return sha256_file(path) if path.is_file() else digest([sha256_file(p) for p in sorted(root.glob("manifest/*"))])
