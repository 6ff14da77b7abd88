"""The YAML files that ship with the package, by name; free of heavy imports, so that help texts can list them."""

from __future__ import annotations

from pathlib import Path


def configs_dir() -> Path:
    """Folder of the shipped YAML files: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).resolve().parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "configs"


def shipped_configs(folder: str) -> dict[str, Path]:
    """Shipped files of one folder of ``configs/``, by the name that ``--config`` takes for them."""
    return {path.stem: path for path in sorted((configs_dir() / folder).glob("*.yaml"))}
