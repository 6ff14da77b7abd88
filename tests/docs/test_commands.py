"""Every command line in README and docs is parsed by the command that it names, without running it."""

import argparse
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import generate
import pytest
from config_roots import SHIPPED

import bench.__main__
from factory.core.config import parse, parse_assignments, read_yaml, resolve_config
from factory.core.registry import resolve
from factory.core.shipped import shipped_configs
from factory.joint import FITTED
from factory.make.resolve import resolve_joint, resolve_make
from factory.masks import MASKS
from factory.renderers import COLLECTED, RENDERERS
from factory.train.generator import resolve_trainer
from factory.train.labeller import resolve_labeller
from manifests import SCHEMES
from segment.compare.config import CompareConfig
from segment.train.config import TrainConfig
from tests.docs.pages import ROOT, CommandLine, command_lines, inline_commands, name_of, paths

COMMANDS = dict(generate.commands())
LINES = sorted({line for path in paths() for line in command_lines(path)})
INLINE = sorted({line for path in paths() for line in inline_commands(path)})
PROGRAMS = [line for line in LINES if line.words[0] in ("factory", "segment")]
MODULES = [line for line in LINES if line.words[:2] == ("python", "-m")]
MADE = [line for line in LINES if line.words[0] == "make"]
OTHERS = {
    "python",
    "pip",
    "cp",
    "cd",
    "for",
    "done",
    ".",
    "git",
    "aws",
    "dask",
    ".venv/bin/pytest",
    "factory",
    "segment",
    "make",
}


def command_of(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    """Return the command that the words name and the words after its name."""
    names = [name for name in COMMANDS if tuple(name.split()) == words[: len(name.split())]]
    assert names, f"expected a command, got {' '.join(words)}"
    name = max(names, key=len)
    return COMMANDS[name], list(words[len(name.split()) :])


def values_of(line: CommandLine) -> dict[str, Any]:
    """Return the parameters that the command reads from the line."""
    command, arguments = command_of(line.words)
    context = command.make_context(command.name, arguments)
    return dict(context.params)


@pytest.mark.parametrize("line", PROGRAMS, ids=str)
def test_a_command_line_parses(line: CommandLine) -> None:
    if line.words[1:] and line.words[-1] not in ("--help", "-h", "--version"):
        assert values_of(line)


@pytest.mark.parametrize("line", PROGRAMS, ids=str)
def test_named_values_of_a_command_line_exist(line: CommandLine) -> None:
    if line.words[-1] in ("--help", "-h", "--version"):
        return
    values = values_of(line)
    if line.words[:2] in (("factory", "make"), ("factory", "plan")):
        assert values.get("masks") in (None, *MASKS)
    if line.words[:2] in (("factory", "make"), ("factory", "render")):
        assert values.get("renderer") in (None, *RENDERERS)
    for key in ("scheme", "config", "protocol"):
        value = str(values.get(key) or "")
        if value.startswith("configs/"):
            assert (ROOT / value).is_file(), value
    scheme = values.get("scheme")
    assert scheme in (None, *SCHEMES) or str(scheme).endswith(".yaml")


def is_resolvable(values: dict[str, Any]) -> bool:
    """Whether the scheme is shipped: a reader's own file is not there."""
    scheme = values.get("scheme")
    return scheme in (None, *SCHEMES) or (ROOT / str(scheme)).is_file()


@pytest.mark.parametrize("line", [line for line in PROGRAMS if line.words[1] in ("make", "plan")], ids=str)
def test_a_data_set_of_a_command_line_resolves(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = values_of(line)
    if not is_resolvable(values):
        return
    assignments = list(values.get("assignments") or ())
    names = ("tps", "tissue", "cells", "tumour", "inflammation", "n", "mpp", "seed", "scheme")
    flags = {key: values.get(key) for key in names}
    if values.get("joint"):
        assert resolve_joint(flags, {"name": values["joint"]}, values["share"], values["config"], assignments)
        return
    parts = {key: values.get(key) for key in ("masks", "renderer")}
    named = parse_assignments(assignments)
    if values.get("renderer") in COLLECTED and values.get("scheme") is None:
        flags["scheme"] = "pdl1"  # else that of the reader's bank, which is not there
    config, _ = resolve_make(flags, parts, values.get("config"), without_weights(assignments))
    for part, table in (("masks", MASKS), ("renderer", RENDERERS)):
        chosen = dict(getattr(config, part))
        keys = {**chosen, **named.get(part, {})}
        name = keys.pop("name")
        parse(resolve(table, name, part).Config, keys, str(line))


def without_weights(assignments: list[str]) -> list[str]:
    """Leave out weights that a reader trained; they are not there to be read."""
    return [word for word in assignments if ".weights=" not in word]


@pytest.mark.parametrize("line", [line for line in PROGRAMS if line.words[:2] == ("factory", "train")], ids=str)
def test_a_generator_training_of_a_command_line_resolves(line: CommandLine) -> None:
    values = values_of(line)
    typed = {key: values[key] for key in ("steps", "batch", "seed", "precision") if values[key] is not None}
    assignments = list(values["assignments"] or ())
    if values["name"] in COLLECTED:
        assert not typed.keys() - {"seed"}
        assert not assignments
    elif values["name"] in FITTED:
        assert resolve_labeller(values["config"], assignments, typed, "cpu")
    else:
        assert resolve_trainer(values["name"], values["config"], assignments, typed, "cpu")


@pytest.mark.parametrize(
    "line", [line for line in PROGRAMS if line.words[:2] in (("segment", "train"), ("segment", "compare"))], ids=str
)
def test_a_segment_training_of_a_command_line_resolves(line: CommandLine) -> None:
    values, name = values_of(line), line.words[1]
    model, folder = (TrainConfig, "segment") if name == "train" else (CompareConfig, "compare")
    assignments = list(values["assignments"] or ())
    assert resolve_config(model, folder, values["config"], assignments, {}, name)


@pytest.mark.parametrize("line", INLINE, ids=str)
def test_inline_code_names_commands_and_options_that_exist(line: CommandLine) -> None:
    words = tuple(word for word in line.words if word != "...")
    if words[1] in ("annotate", "COMMAND") or words[1].startswith("-"):
        return
    command, arguments = command_of(words)
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    for word in arguments:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{line}: {word}"


@pytest.mark.parametrize("line", MODULES, ids=str)
def test_a_module_of_a_command_line_takes_its_arguments(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    name, arguments = line.words[2], line.words[3:]
    assert importlib.util.find_spec(name), name
    if name == "bench":
        assert set(arguments[:1]) <= set(bench.__main__.NAMES)
    if not name.startswith("experiments."):
        return
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text()
    if "argparse" not in source:
        return

    class ParsedError(Exception):
        pass

    original = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *given: Any, **keywords: Any) -> None:
        original(parser, *given, **keywords)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(ParsedError):
        module.main()


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert MADE
    for line in MADE:
        assert {word for word in line.words[1:] if "=" not in word} <= targets, line


def test_folders_of_tests_in_the_docs_exist() -> None:
    named = [word for line in LINES if line.words[0] == ".venv/bin/pytest" for word in line.words[1:] if "/" in word]
    assert named
    assert all((ROOT / word).exists() for word in named)


def test_shell_blocks_have_nothing_that_is_not_checked() -> None:
    assert {line.words[0] for line in LINES} <= OTHERS
    assert len(PROGRAMS) > 100


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_shown_on_a_page(name: str) -> None:
    words = tuple(name.split())
    pages = {line.page for line in [*LINES, *INLINE] if line.words[: len(words)] == words}
    assert {page for page in pages if page.startswith("docs/how-to/")}, name


def test_the_readme_has_an_example_of_every_command_group_and_at_most_200_lines() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    for name in COMMANDS:
        assert name in "\n".join(lines), name


@pytest.mark.parametrize("path", paths(), ids=name_of)
def test_links_between_files_resolve(path: Path) -> None:
    """Sphinx checks the links of the site; this checks README and CONTRIBUTING as well."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        is_generated = any(part in target for part in ("commands/", "configuration/"))
        if not re.match(r"\w+:", target) and not is_generated:
            assert (path.parent / target).exists(), target


def test_configurations_named_by_their_path_exist() -> None:
    for path in paths():
        for named in re.findall(r"configs/[\w/]+\.yaml", path.read_text()):
            assert "NAME" in named or (ROOT / named).is_file(), f"{path}: {named}"


def test_shipped_yaml_files_stand_in_the_reference() -> None:
    page = generate.configuration_pages()["configuration/shipped.md"]
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert files == sorted(path for folder in SHIPPED for path in shipped_configs(folder).values())
    for path in files:
        assert f"### `{path.stem}`" in page
        assert read_yaml(path)
