"""Writes the generated pages of the reference: commands, configuration, parts, label schemes, columns of a manifest.

`conf.py` calls `write_all` before a build. ``python docs/generate.py`` does the same without Sphinx. The pages come
from the code alone, so that they cannot differ from it: the command line from the typer applications, the configuration
from the pydantic models and the shipped YAML files, the columns from ``manifests.SCHEMA``.
"""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import pkgutil
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from config_roots import ROOTS, SHIPPED
from manifest_columns import MEANINGS
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

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
_CONFIGURATION = f"""# Configuration

Every command that computes has one configuration. Values are laid over each other in this order: the defaults of the
model, the shipped file of the scheme or preset, `--config FILE`, `--set KEY=VALUE`, and options such as `--tps`. The
result is written to `run.yaml` and hashed into every row. An unknown key is refused with the nearest known one; a
former name of a key is refused with its name today.

```{{toctree}}
:maxdepth: 1

{chr(10).join([*ROOTS, "shipped"])}
```
"""
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
        rows.append((f"[`{name}`]({page}.md)", _sentence(command.help)))
        names.append(page)
    pages["commands/index.md"] = "\n".join(
        [
            "# Commands",
            "",
            "These pages are made from the commands themselves. `factory COMMAND --help` prints the same.",
            "",
            *_table(("command", "does"), rows),
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
    lines = [f"# `{name}`", "", *_paragraphs(command.help), "", "```text", usage, "```", ""]
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
        rows.append((f"`{usage}`", default, _cell(text)))
    return _table(("", "default", ""), rows)


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
    return text, _cell(default)


# Configuration


def configuration_pages() -> dict[str, str]:
    """Return the pages of configuration keys and the page of shipped YAML files, by path below ``docs/reference``."""
    pages = {}
    for page, (title, text, roots) in ROOTS.items():
        seen: dict[type[BaseModel], str] = {}
        lines = [f"# {title}", "", *textwrap.dedent(text).strip().splitlines(), ""]
        for heading, model in roots():
            lines += _model_section(heading, model, seen)
        pages[f"configuration/{page}.md"] = "\n".join(lines)
    pages["configuration/shipped.md"] = _shipped_page()
    pages["configuration/index.md"] = _CONFIGURATION
    return pages


def _model_section(heading: str, model: type[BaseModel], seen: dict[type[BaseModel], str]) -> list[str]:
    lines = [f"## {heading}", ""]
    if model in seen:
        return [*lines, f"The keys of {seen[model]}.", ""]
    seen[model] = heading
    lines += [*_paragraphs(_before_attributes(model.__doc__ or "")), ""]
    return [*lines, *_table(("key", "default", ""), list(_field_rows(model, ""))), ""]


def _field_rows(model: type[BaseModel], prefix: str, holder: BaseModel | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield key, default and meaning of each field; ``holder`` has defaults that differ from those of its class."""
    meanings = field_meanings(model)
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        text = _cell(meanings.get(name, ""))
        text = text[:1].upper() + text[1:]
        is_required = field.default is PydanticUndefined and field.default_factory is None
        value = (
            getattr(holder, name) if holder else None if is_required else field.get_default(call_default_factory=True)
        )
        if nested is not None:
            if text:
                yield f"`{prefix}{name}`", "", text
            yield from _field_rows(nested, f"{prefix}{name}.", value)
            continue
        shown = "required" if is_required and holder is None else f"`{_shown(value)}`"
        yield f"`{prefix}{name}`", shown, " ".join(part for part in (text, _limits(field)) if part)


def _nested(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _limits(field: Any) -> str:
    bounds = []
    for entry in field.metadata:
        for attribute, sign in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
            if (value := getattr(entry, attribute, None)) is not None:
                bounds.append(f"{sign} {value}")
    choices = [value for value in get_args(field.annotation) if isinstance(value, str)]
    limits = "; ".join([*(["one of " + ", ".join(f"`{c}`" for c in choices)] if choices else []), *bounds])
    return f"({limits})" if limits else ""


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
    return text if len(text) < 90 else text[:87] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(below) for below in value]
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    return value if isinstance(value, bool | int | float | str | None) else str(value)


@cache
def field_meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings of a config class and its bases say of each field: field -> text.

    Read are ``Attributes:`` of the class docstring, where one entry may name several fields and a line may hold several
    entries, and the string below a field.
    """
    meanings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not (issubclass(base, BaseModel) and base is not BaseModel and base.__module__.split(".")[0] != "pydantic"):
            continue
        names = set(base.__annotations__) | set(model.model_fields)
        meanings |= _attributes_section(base.__dict__.get("__doc__") or "", names)
        meanings |= _strings_below_fields(base)
    return meanings


def _attributes_section(docstring: str, names: set[str]) -> dict[str, str]:
    _, found, section = inspect.cleandoc(docstring).partition("Attributes:")
    if not found:
        return {}
    section = re.split(r"\n(?=\S)", section.lstrip("\n").replace("\n\n", "\n"), maxsplit=1)[0]
    section = " ".join(section.split())
    entry = re.compile(r"(?:(?<=^)|(?<=[.;] ))((?:\w+, )*\w+(?: and \w+)?): ")
    starts = [m for m in entry.finditer(section) if set(re.split(r", | and ", m[1])) <= names]
    meanings = {}
    for number, match in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(section)
        for name in re.split(r", | and ", match[1]):
            meanings[name] = section[match.end() : end].strip()
    return meanings


def _strings_below_fields(model: type[BaseModel]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    meanings = {}
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if is_text and isinstance(following.value.value, str):
                meanings[statement.target.id] = " ".join(following.value.value.split())
    return meanings


def _before_attributes(docstring: str) -> str:
    return inspect.cleandoc(docstring).partition("Attributes:")[0]


def _shipped_page() -> str:
    lines = [
        "# Shipped configurations",
        "",
        "These YAML files are part of the installed package. A file holds only what differs from the defaults. A name "
        "without folder and suffix is enough where the text says NAME alone.",
        "",
    ]
    for folder, (title, use) in SHIPPED.items():
        lines += [f"## {title}", "", use, ""]
        for path in shipped_configs(folder).values():
            lines += [f"### `{path.stem}`", "", f"`configs/{folder}/{path.name}`", ""]
            lines += ["```yaml", path.read_text().rstrip(), "```", ""]
    return "\n".join(lines)


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
    return "\n".join([*_table(("column", "type", "", "meaning"), rows), ""])


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
        lines += [*_table(("id", "class", "colour", "counts as", "reads as"), rows), ""]
    lines += [f"{IGNORE} is *ignore* in every scheme: not labelled, left out of measures, losses and metrics.", ""]
    return "\n".join(lines)


def _parts(table: Mapping[str, str], what: str) -> str:
    rows = []
    for name in table:
        part = resolve(table, name, what)
        rows.append((f"`{name}`", _cell(" ".join((inspect.getdoc(part) or "").split("\n\n")[0].split()))))
    return "\n".join([*_table((what, ""), rows), ""])


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
        rows.append((f"`{name}`", f"`{trainer}`", _cell(first), size, str(values.get("batch", "")), str(multiple)))
    return "\n".join([*_table(("preset", "trains", "", "views", "batch", "sides are multiples of"), rows), ""])


def _folders() -> str:
    lines = []
    for package in (factory, segment):
        rows = []
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
            if module.ispkg:
                found = importlib.import_module(f"{package.__name__}.{module.name}")
                rows.append((f"`{package.__name__}/{module.name}/`", _sentence(found.__doc__)))
        lines += [*_table(("folder", "content"), rows), ""]
    return "\n".join(lines)


def _layers() -> str:
    document = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
    lines = []
    for contract in document["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            (package,) = contract["containers"]
            names = [" ".join(f"`{name.strip()}`" for name in re.split("[:|]", line)) for line in contract["layers"]]
            lines += [*_table((package,), [(row,) for row in names]), ""]
    return "\n".join(lines)


def names_of(thing: Any) -> list[str]:
    """Return the fields of a class or the parameters of a function: the entries that its docstring may describe."""
    if inspect.isclass(thing):
        return [name for base in thing.__mro__ for name in getattr(base, "__annotations__", {})]
    return list(inspect.signature(thing).parameters) if inspect.isfunction(thing) else []


# Markdown


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows),
    ]


def _cell(text: str) -> str:
    """Escape plain text for a table cell; names in double or single backticks stay code."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", " ".join(text.split()))
    return "".join(_code(part) if part.startswith("`") else _escaped(part) for part in parts)


def _code(text: str) -> str:
    return f"`{text.strip('`')}`"


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]~$])", r"\\\1", html.escape(text, quote=False))


def _paragraphs(text: str | None) -> list[str]:
    lines = []
    for paragraph in inspect.cleandoc(text or "").replace("\b", "").split("\n\n"):
        lines += [_cell(paragraph), ""]
    return lines[:-1]


def _sentence(text: str | None) -> str:
    return _cell(inspect.cleandoc(text or "").split("\n\n")[0])


if __name__ == "__main__":
    write_all(Path(__file__).resolve().parent)
