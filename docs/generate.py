"""Writes the generated pages of the reference: commands, configuration, parts, label schemes, columns of a manifest.

`conf.py` calls `write_all` before a build. ``python docs/generate.py`` does the same without Sphinx. The pages come
from the code alone, so that they cannot differ from it: the command line from the typer applications, the configuration
from the pydantic models and the shipped YAML files, the columns from ``manifests.SCHEMA``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from config_pages import configuration_pages
from manifest_columns import MEANINGS
from page_text import cell, paragraphs, sentence, table

import factory
import factory.cli
import segment
import segment.cli
from factory.core.config import parse, read_yaml
from factory.core.registry import resolve
from factory.core.shipped import shipped_configs
from factory.joint import FITTED, JOINT
from factory.masks import MASKS
from factory.nets.unet import UNetShape
from factory.renderers import RENDERERS
from factory.train.generator import trainer_class, trainers
from factory.train.labeller import LabellerRunConfig
from manifests import IGNORE, SCHEMA, SCHEMES
from manifests.schema import ACHIEVED

PROGRAMS = {"factory": factory.cli.app, "segment": segment.cli.app}
_TRAINERS = {"cyclegan": "masks/cyclegan", "cyclegan_images": "renderers/cyclegan", "hdgan": "hdgan"}
"""Presets whose first word is not the name of their trainer -> that name."""
_DEFAULT = re.compile(r"\s*\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\s*$")


def write_all(docs: Path) -> None:
    """Write every generated page below ``docs/reference`` and remove generated pages whose source is gone.

    Args:
        docs: the folder of the documentation.
    """
    pages = {**command_pages(), **configuration_pages(), **table_pages()}
    reference = docs / "reference"
    for name, text in pages.items():
        path = reference / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for folder in ("commands", "configuration", "tables"):
        for path in (reference / folder).glob("*.md"):
            if f"{folder}/{path.name}" not in pages:
                path.unlink()


# Commands


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name, e.g. ``factory annotate export``; groups are left out."""
    for program, app in PROGRAMS.items():
        yield from _leaves(program, typer.main.get_command(app))


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child, below in children.items():
        yield from _leaves(f"{name} {child}", below)


def command_pages() -> dict[str, str]:
    """Return a page for each command and the list of all, by path below ``docs/reference``."""
    pages, rows, names = {}, [], []
    for name, command in commands():
        page = name.replace(" ", "-")
        pages[f"commands/{page}.md"] = _command_page(name, command)
        rows.append((f"[`{name}`]({page}.md)", sentence(command.help)))
        names.append(page)
    pages["commands/index.md"] = "\n".join(
        [
            "# Commands",
            "",
            "These pages are made from the commands themselves. `factory COMMAND --help` prints the same.",
            "",
            *table(("command", "does"), rows),
            "",
            "Exit codes: 0 done; 1 something failed, or a verification found a fault; 2 the request, a configuration "
            "or an input is wrong (one line says what was expected, what was found and what to do); 130 interrupted.",
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *names,
            "```",
            "",
        ]
    )
    return pages


def _command_page(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([name, *(_argument_usage(p) for p in arguments), "[OPTIONS]"])
    lines = [f"# `{name}`", "", *paragraphs(command.help), "", "```text", usage, "```", ""]
    lines += ["## Examples", "", "```sh", *command.examples, "```", ""]
    if arguments:
        lines += ["## Arguments", "", *_parameter_table(arguments, context), ""]
    groups: dict[str, list[Any]] = {}
    for option in options:
        groups.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
    for title, members in groups.items():
        lines += [f"## {title}", "", *_parameter_table(members, context), ""]
    return "\n".join(lines)


def _argument_usage(argument: Any) -> str:
    name = argument.name.upper()
    return (name if argument.required else f"[{name}]") + ("..." if argument.nargs == -1 or argument.multiple else "")


def _parameter_table(parameters: list[Any], context: Any) -> list[str]:
    rows = []
    for parameter in parameters:
        usage, text = parameter.get_help_record(context) or (parameter.name, parameter.help or "")
        text, default = _split_default(text)
        rows.append((f"`{usage}`", default, cell(text)))
    return table(("", "default", ""), rows)


def _split_default(text: str) -> tuple[str, str]:
    """Split ``text [default: X]`` into the text and X; other notes in brackets go back to the text."""
    default, notes = "", []
    while match := _DEFAULT.search(text):
        inside = match[1]
        if not re.match(r"default: |required|x?[<>=\d]", inside):
            break
        text = text[: match.start()]
        for part in re.split(r"; (?=required|x?[<>]|\d+<)", inside):
            if part.startswith("default: "):
                default = part.removeprefix("default: ")
            elif part == "required":
                default = "required"
            else:
                notes.append(part)
    found = re.search(r"\s*Default: ([^.]*(?:\.\d[^.]*)*)\.$", text)
    if found and not default:
        text, default = text[: found.start()], found[1]
    if notes:
        text = f"{text} ({', '.join(notes)})"
    return text, cell(default)


# Tables


def table_pages() -> dict[str, str]:
    """Return the tables that hand-written pages include, by path below ``docs/reference``."""
    return {
        "tables/columns.md": _columns(),
        "tables/schemes.md": _schemes(),
        "tables/masks.md": _parts(MASKS, "mask generator"),
        "tables/renderers.md": _parts(RENDERERS, "renderer"),
        "tables/joint.md": _parts(JOINT, "joint generator"),
        "tables/presets.md": _presets(),
        "tables/folders.md": _folders(),
        "tables/layers.md": _layers(),
    }


def _columns() -> str:
    rows = []
    for column in SCHEMA:
        kind = str(column.type).replace("list<element: ", "list<").replace("list<item: ", "list<")
        when = "measured" if column.name in ACHIEVED else "always there" if not column.nullable else ""
        rows.append((f"`{column.name}`", f"`{kind}`", when, MEANINGS[column.name]))
    return "\n".join([*table(("column", "type", "", "meaning"), rows), ""])


def _schemes() -> str:
    lines: list[str] = []
    for scheme in SCHEMES.values():
        targets = ", ".join(f"`{name}`" for name in scheme.projections)
        lines += [f"### `{scheme.name}`", ""]
        lines += [f"Reads as {targets}." if targets else "Reads as no other scheme.", ""]
        if any("tumour_positive" in label.roles for label in scheme.classes):
            basis = "instances (cells)" if scheme.tps_basis == "cells" else "pixels (area)"
            lines += [f"A requested TPS is met by {basis}.", ""]
        rows = []
        for label in scheme.classes:
            colour = f'<span class="swatch" style="background: rgb{label.colour}"></span>'
            onto = "; ".join(
                f"`{name}` {SCHEMES[name].classes[ids[label.id]].name}" for name, ids in scheme.projections.items()
            )
            rows.append((str(label.id), label.name, colour, ", ".join(label.roles), onto))
        lines += [*table(("id", "class", "colour", "counts as", "reads as"), rows), ""]
    lines += [f"{IGNORE} is *ignore* in every scheme: not labelled, left out of measures, losses and metrics.", ""]
    return "\n".join(lines)


def _parts(parts: Mapping[str, str], what: str) -> str:
    rows = []
    for name in parts:
        part = resolve(parts, name, what)
        rows.append((f"`{name}`", cell(" ".join((inspect.getdoc(part) or "").split("\n\n")[0].split()))))
    return "\n".join([*table((what, ""), rows), ""])


def _presets() -> str:
    rows = []
    for name, path in shipped_configs("train").items():
        starts = [trainer for trainer in (*_TRAINERS, *trainers()) if name == trainer or name.startswith(f"{trainer}_")]
        trainer = _TRAINERS.get(max(starts, key=len), max(starts, key=len))
        model = LabellerRunConfig if trainer in FITTED else trainer_class(trainer).Config
        config = parse(model, read_yaml(path), path.name)
        values = config.model_dump()
        size = "x".join(map(str, values["size"])) if values.get("size") else ""
        deep = values.get("architecture", "unet") == "unet"
        shapes = [value for _, value in config if isinstance(value, UNetShape) and deep]
        multiple = max([32, *(2**shape.depth for shape in shapes)]) if size else ""
        comment = " ".join(re.findall(r"^# ?(.*)$", path.read_text().split("\n\n")[0], re.MULTILINE))
        first = re.split(r"(?<=[a-z0-9)\]\"]\.) (?=[A-Z])", comment)[0]
        rows.append((f"`{name}`", f"`{trainer}`", cell(first), size, str(values.get("batch", "")), str(multiple)))
    return "\n".join([*table(("preset", "trains", "", "views", "batch", "sides are multiples of"), rows), ""])


def _folders() -> str:
    lines = []
    for package in (factory, segment):
        rows = []
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
            if module.ispkg:
                found = importlib.import_module(f"{package.__name__}.{module.name}")
                rows.append((f"`{package.__name__}/{module.name}/`", sentence(found.__doc__)))
        lines += [*table(("folder", "content"), rows), ""]
    return "\n".join(lines)


def _layers() -> str:
    document = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
    lines = []
    for contract in document["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            (package,) = contract["containers"]
            names = [" ".join(f"`{name.strip()}`" for name in re.split("[:|]", line)) for line in contract["layers"]]
            lines += [*table((package,), [(row,) for row in names]), ""]
    return "\n".join(lines)


def names_of(thing: Any) -> list[str]:
    """Return the fields of a class or the parameters of a function: the entries that its docstring may describe."""
    if inspect.isclass(thing):
        return [name for base in thing.__mro__ for name in getattr(base, "__annotations__", {})]
    return list(inspect.signature(thing).parameters) if inspect.isfunction(thing) else []


if __name__ == "__main__":
    write_all(Path(__file__).resolve().parent)
