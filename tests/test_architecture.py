"""The import rules that are derived from the folders and the tables of names; the others stand in pyproject.toml."""

from __future__ import annotations

import graphlib
import tomllib
from pathlib import Path

import grimp
import pytest

from factory.export import FORMATS as EXPORTS
from factory.masks import MASKS
from factory.renderers import RENDERERS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("factory", "segment", "manifests")


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Which module imports which, those for type checking only left out."""
    return grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)


@pytest.mark.parametrize("table", [MASKS, RENDERERS, EXPORTS], ids=["masks", "renderers", "exports"])
def test_files_of_one_table_never_import_each_other(table: dict[str, str], imports: grimp.ImportGraph) -> None:
    """Those of the joint table may: a labeller reads the features of a generator."""
    modules = {target.split(":")[0] for target in table.values()}
    assert modules <= imports.modules
    for module in modules:
        assert not imports.find_modules_directly_imported_by(module) & (modules - {module})


def test_no_module_imports_itself_by_way_of_others(imports: grimp.ImportGraph) -> None:
    order = graphlib.TopologicalSorter({m: imports.find_modules_directly_imported_by(m) for m in imports.modules})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_nothing_imports_a_command_line(imports: grimp.ImportGraph) -> None:
    commands = {module for module in imports.modules if ".commands" in module}
    for program in ("factory", "segment"):
        assert not imports.find_modules_that_directly_import(f"{program}.cli")
    for command in commands:
        users = imports.find_modules_that_directly_import(command)
        assert {user.split(".")[0] + ".cli" for user in users - commands} == users - commands


@pytest.mark.parametrize("package", ["factory", "segment"])
def test_the_root_of_a_package_holds_its_command_line_and_folders_only(package: str) -> None:
    files = {path.name for path in (ROOT / package).iterdir() if path.is_file()}
    assert files == {"__init__.py", "cli.py"}


def test_a_package_has_at_most_ten_layers() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in (rule for rule in rules if rule["type"] == "layers"):
        assert len(contract["layers"]) <= 10
