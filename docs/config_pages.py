"""Pages of the reference about configuration: the keys of the pydantic models, and the shipped YAML files."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, get_args

import yaml
from config_roots import ROOTS, SHIPPED
from page_text import cell, paragraphs, table
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from factory.core.shipped import shipped_configs

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
    lines += [*paragraphs(_before_attributes(model.__doc__ or "")), ""]
    return [*lines, *table(("key", "default", ""), list(_field_rows(model, ""))), ""]


def _field_rows(model: type[BaseModel], prefix: str, holder: BaseModel | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield key, default and meaning of each field; ``holder`` has defaults that differ from those of its class."""
    meanings = field_meanings(model)
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        text = cell(meanings.get(name, ""))
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
