"""Help of both programs: groups of options, examples, the version, and what a bare program prints."""

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer.main
from typer.core import TyperCommand

from factory.annotate import TOOLS
from factory.core.command_line import Terminated
from factory.ingest.config import AIR_THRESHOLDS
from factory.joint import FITTED
from factory.masks import MASKS
from factory.renderers import RENDERERS
from factory.score.features import EXTRACTORS
from factory.train.generator import trainers
from manifests import SCHEMES
from segment.network import NETWORKS
from segment.predict import FORMATS
from tests.conftest import Outcome, assert_refused

Cli = Callable[..., Outcome]


@pytest.mark.parametrize("words", [("factory",), ("segment",), ("factory", "annotate")], ids=" ".join)
def test_a_bare_program_prints_its_help(cli: Cli, words: tuple[str, ...]) -> None:
    bare = cli(*words)
    assert (bare.code, bare.err) == (0, "")
    assert bare.out == cli(*words, "--help").out == cli(*words, "-h").out
    assert "Usage: " in bare.out


@pytest.mark.parametrize("program", ["factory", "segment"])
def test_version_is_that_of_the_distribution(cli: Cli, program: str) -> None:
    assert cli(program, "--version").out.strip() == version("pathology-tile-factory")


def commands(program: str) -> Iterator[tuple[str, Any]]:
    """Every command of a program, groups opened, by its words."""
    waiting = [(program, typer.main.get_command(importlib.import_module(f"{program}.cli").app))]
    for words, command in waiting:
        below = getattr(command, "commands", {})
        waiting += [(f"{words} {name}", each) for name, each in below.items()]
        if not below:
            yield words, command


COMMANDS = [*commands("factory"), *commands("segment")]


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_every_command_shows_examples_that_parse(cli: Cli, words: str, command: Any) -> None:
    shown = cli(*words.split(), "--help").out
    assert len(command.examples) >= 2
    for example in command.examples:
        assert example in shown
        assert len(example) <= 110
        assert shlex.split(example)[: len(words.split())] == words.split()
        with command.make_context(words, shlex.split(example)[len(words.split()) :]) as context:
            assert context.params


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_options_are_in_groups_where_there_are_many(words: str, command: Any) -> None:
    options = [param for param in command.params if param.param_type_name == "option"]
    if len(options) > 6:
        assert all(param.rich_help_panel for param in options), words


@pytest.mark.parametrize(
    ("words", "option", "names"),
    [
        ("factory make", "--masks", MASKS),
        ("factory make", "--renderer", RENDERERS),
        ("factory make", "--scheme", SCHEMES),
        ("factory make", "--joint", FITTED),
        ("factory train", "name", trainers()),
        ("factory train", "--scheme", SCHEMES),
        ("factory score", "--features", EXTRACTORS),
        ("factory ingest", "--stain", AIR_THRESHOLDS),
        ("factory annotate export", "--tool", TOOLS),
        ("segment train", "--net", NETWORKS),
        ("segment train", "--scheme", SCHEMES),
        ("segment predict", "--format", FORMATS),
    ],
)
def test_allowed_values_are_listed(words: str, option: str, names: Iterable[str]) -> None:
    (param,) = (param for param in dict(COMMANDS)[words].params if option in (param.name, *param.opts))
    assert set(names) <= set(re.findall(r"[\w/-]+", param.help))


@pytest.mark.parametrize("program", ["factory", "segment"])
def test_completion_scripts_are_offered(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = '{program}'; from {program}.cli import main; main()"],
        env={f"_{program.upper()}_COMPLETE": "complete_bash", "COMP_WORDS": f"{program} sco", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.split() == ["score"]


@pytest.mark.parametrize("program", ["factory", "segment"])
def test_help_imports_nothing_heavy(program: str) -> None:
    heavy = (
        "{'torch', 'zarr', 'dask', 'numba', 'cv2', 'numpy', 'pyarrow', 'rich', 'pydantic', 'yaml'} & set(sys.modules)"
    )
    code = f"import sys\nfrom {program}.cli import app\ntry:\n app(['--help'])\nexcept SystemExit:\n print({heavy})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("set()\n")
    importlib.import_module(f"{program}.cli")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("make", "--n", "1e6"), r"--n: expected a whole number, got '1e6'\. Write 1000000\.$"),
        (("make", "--n", "2.5"), r"--n: expected a whole number, got '2\.5'\. Write for example --n 100\.$"),
        (("make", "--mpp", "50%"), r"--mpp: expected a number, got '50%'\. Write 0\.5\.$"),
        (("make", "--mpp", "0,25"), r"--mpp: expected a number, got '0,25'\. Write 0\.25\.$"),
        (("score", "--split", "tset"), r"--split: expected one of train, val, test, all, got 'tset'\. Did you mean"),
        (("score", "--n", "3"), r"--n: expected 16 or more, got 3\."),
    ],
)
def test_a_value_of_the_wrong_type_is_explained(cli: Cli, words: tuple[str, ...], message: str) -> None:
    assert_refused(cli("factory", *words), message)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("factory", "render", "--seed", "1"), "What is finished is kept. To go on: factory render --seed 1"),
        (("factory", "train", "depas"), "What was kept before stays. To go on: factory train depas --resume"),
        (
            ("factory", "train", "depas", "--resume"),
            "What was kept before stays. To go on: factory train depas --resume",
        ),
        (("factory", "quiz", "a b"), "Nothing is kept. To start again: factory quiz 'a b'"),
        (("factory", "annotate", "export", "a", "--out", "b"), "again: factory annotate export a --out b"),
        (("segment", "compare", "--seeds", "2"), "What is finished is kept. To go on: segment compare --seeds 2"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 1)])
def test_an_interrupted_command_says_which_command_goes_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], advice: str, stop: type[BaseException], code: int
) -> None:
    def interrupted(*arguments: object) -> None:
        raise stop

    monkeypatch.setattr(TyperCommand, "invoke", interrupted)
    kind = "interrupted" if code == 130 else "terminated"
    assert_refused(cli(*words), rf"^error: {kind}\. .*{re.escape(advice)}$", code)
