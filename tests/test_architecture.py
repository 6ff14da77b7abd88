"""The import rules that are derived from the folders and the tables of names; the others stand in pyproject.toml."""

from pathlib import Path

import grimp
import pytest

from factory.masks import MASKS
from factory.renderers import RENDERERS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("table", [MASKS, RENDERERS], ids=["masks", "renderers"])
def test_files_of_one_table_never_import_each_other(table: dict[str, str]) -> None:
    graph = grimp.build_graph("factory", cache_dir=None)
    modules = {target.split(":")[0] for target in table.values()}
    assert modules <= graph.modules
    for module in modules:
        assert not graph.find_modules_directly_imported_by(module) & (modules - {module})


@pytest.mark.parametrize("package", ["factory", "segment"])
def test_the_root_of_a_package_holds_its_command_line_and_folders_only(package: str) -> None:
    files = {path.name for path in (ROOT / package).iterdir() if path.is_file()}
    assert files == {"__init__.py", "cli.py"}
