"""The Python functions: the same bytes as the commands, and the examples of the documentation."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import factory
from factory.api.arguments import assignment_words, request_text, size_text
from factory.core.config import parse_assignments
from manifests.errors import UserError
from tests.conftest import Outcome
from tests.kill_after_every_operation import tree

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/how-to/python.md"


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert len(names["tiles"]) == len(names["other"]) == len(names["real"]) == 8  # type: ignore[arg-type]


def test_function_and_command_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    asked = ("--tps", "0.01-0.5", "--n", "3", "--size", "64x96", "--split", "0.5,0.25,0.25", "--set", "shard=2")
    assert cli("factory", "make", *asked, "--out", "typed").code == 0
    made = factory.make("called", tps=(0.01, 0.5), n=3, size=(64, 96), split=(0.5, 0.25, 0.25), set={"shard": 2})
    assert len(made) == 3
    assert tree(Path("typed")) == tree(Path("called"))
    assert cli("factory", "render", "typed", "--split", "all", "--out", "typed-again").code == 0
    factory.render("called", "called-again", split="all")
    assert [row["image_sha256"] for row in factory.render("typed", "again", split="all").table.to_pylist()] == [
        row["image_sha256"] for row in factory.render("called", "called-again", split="all").table.to_pylist()
    ]


def test_what_the_command_refuses_the_function_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Did you mean polygons"):
        factory.make(masks="polygon")
    with pytest.raises(UserError, match="multiples of 32"):
        factory.make(size=100)
    with pytest.raises(UserError, match="expected a data set"):
        factory.render("nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["make", "render", "ingest"])
def test_a_function_has_the_options_of_its_command(name: str) -> None:
    import importlib

    command = inspect.signature(getattr(importlib.import_module(f"factory.commands.{name}"), name)).parameters
    function = inspect.signature(getattr(factory, name)).parameters
    renamed = {"assignments": "set", "masks": "data" if name == "render" else "masks"}
    wanted = {renamed.get(option, option) for option in command} - {"dry_run", "sheet"}
    assert wanted == set(function) - {"on_tiles"}


def test_requests_and_values_are_written_as_on_the_command_line() -> None:
    assert request_text((0.01, 0.5)) == "0.01-0.5"
    assert request_text((200, 400)) == "200-400"
    assert request_text(1e-5) == "0.00001"
    assert request_text("beta:2,5") == "beta:2,5"
    assert (size_text((512, 1024)), size_text(256), size_text(None)) == ("512x1024", "256", None)
    values = {"renderer.scanner.jpeg_quality": (80, 95), "masks.name": "yes: no", "a.b": 1e-7, "c": None, "d": True}
    words = parse_assignments(assignment_words(values))
    assert words["renderer"] == {"scanner": {"jpeg_quality": [80, 95]}}
    assert (words["masks"], words["a"], words["c"], words["d"]) == ({"name": "yes: no"}, {"b": 1e-7}, None, True)


def test_the_names_stay_functions_and_importing_them_is_light() -> None:
    program = (
        "import sys, factory\n"
        "assert not {'torch', 'zarr', 'dask', 'pyarrow', 'cv2', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
        "import factory.make.replay, factory.ingest.writing, factory.commands.make\n"
        "from factory.make import report\n"
        "assert callable(factory.make) and callable(factory.ingest) and callable(factory.render)\n"
        "assert factory.__version__.count('.') >= 1\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
