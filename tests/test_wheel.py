"""The wheel ships every file that the packages need: modules, starter weights with their cards, configs, pages."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("factory", "segment", "manifests")


def _wheel_files(root: Path) -> set[str]:
    """Paths inside the wheel that hatchling would build; nothing is built."""
    from hatchling.builders.wheel import WheelBuilder

    return {file.distribution_path for file in WheelBuilder(str(root)).recurse_included_files()}


def _tree_files() -> set[str]:
    """Files of the packages as the wheel names them, configs inside of `factory`."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    inside = {path.relative_to(ROOT).as_posix() for path in files if path.is_file() and "__pycache__" not in path.parts}
    configs = {f"factory/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    return (inside - {"manifests/pyproject.toml"}) | configs


def test_wheel_holds_every_file_of_the_packages() -> None:
    wheel = _wheel_files(ROOT)
    assert wheel == _tree_files()


@pytest.mark.parametrize(
    "pattern",
    ["factory/starter/*.safetensors", "factory/starter/*.json", "segment/starter/*.safetensors", "factory/**/page.html",
     "factory/**/page.css", "factory/**/page.js", "configs/train/*.yaml", "configs/schemes/*.yaml"],
)  # fmt: skip
def test_wheel_holds_package_data(pattern: str) -> None:
    wheel = _wheel_files(ROOT)
    found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)]
    assert found
    assert {f"factory/{name}" if name.startswith("configs/") else name for name in found} <= wheel


def test_wheel_of_the_contract_holds_its_modules() -> None:
    modules = {f"manifests/{path.name}" for path in (ROOT / "manifests").glob("*.py")}
    assert modules <= _wheel_files(ROOT / "manifests")
