"""Every command, with each of its options missing, misspelt and of the wrong type: one line that says what to write."""

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factory.core.wording import file_size, plural, read_number
from tests.conftest import Outcome, assert_refused
from tests.factory.commands.test_help import COMMANDS

Cli = Callable[..., Outcome]


def required(command: Any, but: Any = None) -> list[str]:
    """Words for what a command cannot do without, except one parameter."""
    words: list[str] = []
    for param in command.params:
        if param.required and param is not but:
            choices = typing.get_args(typing.get_type_hints(command.callback)[param.name])
            value = str(choices[0]) if choices and isinstance(choices[0], str) else "1"
            words += [value] if param.param_type_name == "argument" else [param.opts[0], value]
    return words


def is_refused(outcome: Outcome, folder: Path) -> None:
    """Exit code 2, one line, in our words, and nothing on disk."""
    assert_refused(outcome, "^error: ")
    for word in ("Traceback", "pydantic", "Input should", "unable to parse", "Value error", "Invalid value"):
        assert word not in outcome.err + outcome.out
    assert list(folder.iterdir()) == []


def wrong_values(command: Any, param: Any) -> list[str]:
    """Values of another type than that of an option, where its type refuses any."""
    annotation = str(typing.get_type_hints(command.callback)[param.name])
    if param.is_flag:
        return []
    if "int" in annotation:
        return ["many", "1e6", "2.5", ""]
    if "float" in annotation:
        return ["many", "50%", "0,5", ""]
    return ["no-such-choice", ""] if "Literal" in annotation else []


OPTIONS = [
    (f"{words} {param.opts[0]}", words, command, param)
    for words, command in COMMANDS
    for param in command.params
    if param.param_type_name == "option"
]


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_an_unknown_option_is_refused(cli: Cli, tmp_path: Path, words: str, command: Any) -> None:
    is_refused(cli(*words.split(), *required(command), "--no-such-option"), tmp_path)
    is_refused(cli(*words.split(), *required(command), *["too", "many", "words"] * 9, "--no-such-option"), tmp_path)


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_what_is_required_is_missed(cli: Cli, tmp_path: Path, words: str, command: Any) -> None:
    for param in command.params:
        if param.required:
            is_refused(cli(*words.split(), *required(command, but=param)), tmp_path)


@pytest.mark.parametrize(("words", "command", "param"), [o[1:] for o in OPTIONS], ids=[o[0] for o in OPTIONS])
def test_an_option_misspelt_without_a_value_or_of_the_wrong_type_is_refused(
    cli: Cli, tmp_path: Path, words: str, command: Any, param: Any
) -> None:
    name = param.opts[0]
    is_refused(cli(*words.split(), *required(command), f"{name}x"), tmp_path)
    if not param.is_flag:
        is_refused(cli(*words.split(), *required(command, but=param), name), tmp_path)
    for value in wrong_values(command, param):
        refused = cli(*words.split(), *required(command, but=param), name, value)
        is_refused(refused, tmp_path)
        assert f"{name}: expected " in refused.err
    if param.is_flag:
        is_refused(cli(*words.split(), *required(command), f"{name}=yes"), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("factory make --tps 50%", r"--tps: expected shares from 0 to 1, got '50%'\. Write 0\.5\.$"),
        ("factory make --tps 1%-50%", r"--tps: expected shares from 0 to 1, got '1%-50%'\. Write 0\.01-0\.5\.$"),
        ("factory make --tps 50", r"--tps: expected a share from 0 to 1, got 50\. Write 0\.5 for 50 %\.$"),
        ("factory make --tps 1-50", r"--tps: expected a share from 0 to 1, got 50\. Write 0\.5 for 50 %\.$"),
        ("factory make --size 500", r"^error: --size: expected multiples of 32, got 500\. Use 480 or 512\.$"),
        ("factory make --size big", r"--size: expected HEIGHTxWIDTH in pixels or one side of a square, got 'big'\."),
        (
            "factory inspect data/nope",
            r"data/nope: expected a data set, got no such folder\. Make one with factory",
        ),
        (
            "factory verify data/nope",
            r"data/nope: expected a data set, got no such folder\. Make one with factory",
        ),
        ("factory score data/nope", r"data/nope: expected a data set, got no such folder\. Make one with factory"),
        (
            "factory make --scheme mine.yaml",
            r"mine\.yaml: classes\.0 \(tumour\): expected colour, got none\. Write for",
        ),
        ("factory make --n 100000000", r"expected room for about \d+ TB, got .* free\. Free some|less than or equal"),
        ("segment evaluate --weights nuclei_hee", r"nuclei_hee: expected a safetensors file"),
    ],
)
def test_a_message_says_what_to_write_instead(cli: Cli, tmp_path: Path, words: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nclasses: [{id: 0, name: tumour}]\n")
    refused = cli(*words.split())
    assert_refused(refused, message, code=refused.code)
    assert refused.code in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_numbers_have_the_unit_and_the_plural_that_fit() -> None:
    assert [plural(1, "shard"), plural(0, "shard"), plural(1000, "tile")] == ["1 shard", "0 shards", "1,000 tiles"]
    sizes = [999, 1500, 45e6, 123e6, 3.44e9, 2e13]
    assert [file_size(size) for size in sizes] == ["999 bytes", "1.5 kB", "45 MB", "123 MB", "3.4 GB", "20 TB"]
    texts = ["50%", "0,5", "1e6", "many", "nan", ""]
    assert [read_number(text) for text in texts] == [0.5, 0.5, 1e6, None, None, None]
