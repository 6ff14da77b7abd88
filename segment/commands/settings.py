"""A command's configuration from what was typed: defaults, then the YAML, then --set, then flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from factory.core.config import Config, merge, parse, parse_assignments, read_yaml
from factory.core.shipped import configs_dir
from manifests.errors import UserError

AnyConfig = TypeVar("AnyConfig", bound=Config)


def resolve(
    model: type[AnyConfig],
    name: str | None,
    assignments: list[str],
    flags: dict[str, Any],
    *,
    command: str,
    shipped: str,
) -> AnyConfig:
    """The configuration that a command runs with.

    Args:
        model: what it is. name: of --config: a YAML file or a shipped one. assignments: of --set.
        flags: values of other options, those that were given.
        command: named in an error where no file is. shipped: folder of ``configs/`` with the shipped ones.

    Raises:
        UserError: for an unknown file, key or value.
    """
    values: dict[str, Any] = {}
    if name is not None:
        known = {path.stem: path for path in sorted((configs_dir() / shipped).glob("*.yaml"))}
        if not Path(name).exists() and name not in known:
            raise UserError(f"--config: expected a YAML file or a shipped name ({', '.join(known)}), got {name!r}.")
        values = read_yaml(Path(name) if Path(name).exists() else known[name])
    values = merge(merge(values, parse_assignments(assignments)), flags)
    return parse(model, values, name or command)
