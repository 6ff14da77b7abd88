"""Configuration: frozen models beside the code they configure, YAML that holds only differences, and a digest."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from factory.core.shipped import shipped_configs
from factory.core.yaml_text import parse_yaml
from manifests.errors import UserError, shown
from manifests.limits import CONFIG_BYTES, read_bytes, reads


class Config(BaseModel):
    """Base of every configuration: immutable, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of keys -> their names now, for the message that a file with a former name gets."""
    added: ClassVar[frozenset[str]] = frozenset()
    """Keys that earlier releases did not have. A default of theirs is not written, so that fingerprints stay."""
    paths: ClassVar[frozenset[str]] = frozenset()
    """Keys that name a file or folder, or several; names of starters are none. Workers elsewhere get absolute paths."""

    @model_serializer(mode="wrap")
    def _without_added(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the fields, without the default of an added one."""
        fields: dict[str, Any] = write(self)
        for name in self.added & fields.keys():
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                del fields[name]
        return fields

    def with_absolute_paths(self) -> Self:
        """The config with every path absolute, for a process in another folder."""

        def absolute(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(absolute, value))
            is_name = value == "starter" or (Path(value).name == value and not Path(value).exists())
            return value if is_name else str(Path(value).absolute())

        return self.model_copy(update={name: absolute(getattr(self, name)) for name in self.paths})


ConfigT = TypeVar("ConfigT", bound=Config)


def parse(
    model: type[ConfigT], values: Mapping[str, Any], where: str, options: Mapping[str, str] | None = None
) -> ConfigT:
    """Build a config from plain values, laid over the defaults mapping by mapping.

    Args:
        model: the config class.
        values: key -> value; nested mappings for nested configs may name just what differs.
        where: file or flag named in an error.
        options: dotted key -> option that gave its value, named in an error instead; see `option_names`.

    Raises:
        UserError: for an unknown key (with the nearest known one) or a value of the wrong form.
    """
    laid = dict(values)
    for name, value in values.items():
        default = model.model_fields[name].get_default() if name in model.model_fields else None
        if isinstance(default, BaseModel) and isinstance(value, Mapping):
            laid[name] = merge(default.model_dump(), value)
    try:
        return model.model_validate(laid)
    except ValidationError as error:
        raise UserError(_explain(model, error, where, options or {})) from error


def option_names(typed: Mapping[str, Any], section: str = "") -> dict[str, str]:
    """Dotted keys -> options of the values that were typed: ``{"plan.mpp": "--mpp"}``; None was not typed."""
    return {f"{section}{key}": f"--{key.replace('_', '-')}" for key, value in typed.items() if value is not None}


def _explain(model: type[BaseModel], error: ValidationError, where: str, options: Mapping[str, str]) -> str:
    """The first complaint of pydantic in our words, with how many follow."""
    complaints = error.errors(include_url=False)
    first = complaints[0]
    path = ".".join(str(part) for part in first["loc"])
    key = next((key for key in options if f"{path}.".startswith(f"{key}.")), None)
    places = [where if key is None else options[key], *([path] if path not in ("", key) else [])]
    place = ": ".join(places)
    more = f" ({len(complaints) - 1} more)" if len(complaints) > 1 else ""
    if first["type"] == "extra_forbidden":
        holder, key = _model_at(model, first["loc"][:-1]), str(first["loc"][-1])
        if holder is not None and key in holder.renamed:
            return f"{place}: this key is now called {holder.renamed[key]}. Write {holder.renamed[key]}.{more}"
        known = list(holder.model_fields) if holder else []
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
        return f"{place}: expected a known key, got {key!r}. {hint}{more}"
    reason = shown(first["msg"]).removeprefix("Value error, ").replace("Input should be", "expected").rstrip(".")
    says_what_it_got = first["type"] == "value_error" and ", got " in reason
    if not path or says_what_it_got:  # a rule over several keys has no value of its own
        return f"{place}: {reason}.{more}"
    return f"{place}: {reason}, got {shown(repr(first.get('input')))}.{more}"


def _model_at(model: type[BaseModel], path: Sequence[int | str]) -> type[Config] | None:
    """The nested config that `path` leads to; None where it leads to another kind of value."""
    for part in path:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model if issubclass(model, Config) else None


@reads("a YAML file")
def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises a UserError when the file is missing, is not YAML or is not a mapping."""
    try:
        document = parse_yaml(read_bytes(path, CONFIG_BYTES))
    except OSError as error:
        raise UserError(f"{path}: expected a YAML file, got {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or a date like 2020-13-01
        raise UserError(f"{path}: expected YAML, got {shown(str(error).splitlines()[0])}.") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, got a {type(document).__name__}.")
    return document


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def resolve_config(
    model: type[ConfigT],
    folder: str,
    name: str | None,
    assignments: Sequence[str],
    typed: Mapping[str, Any],
    where: str,
    options: Mapping[str, str] | None = None,
) -> ConfigT:
    """Lay typed values over ``--set`` over ``--config`` over the defaults of the model.

    Args:
        model: class of the configuration. folder: of ``configs/``, with the shipped files.
        name: of ``--config``, a YAML file or the name of a shipped one; None for none.
        assignments: ``KEY=VALUE`` words. typed: values of options, without those that were not typed.
        where: named in an error. options: as for `parse`; by default the options are named as their keys.
    """
    values: dict[str, Any] = {}
    if name is not None:
        shipped, path = shipped_configs(folder), Path(name)
        if not path.is_file() and name not in shipped:
            known = ", ".join(shipped)
            raise UserError(f"--config: expected a YAML file or a shipped name ({known}), got {name!r}.")
        values = read_yaml(path if path.is_file() else shipped[name])
    values = merge(merge(values, parse_assignments(assignments)), typed)
    return parse(model, values, where, option_names(typed) if options is None else options)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``["renderer.blur_px=1.2"]`` -> ``{"renderer": {"blur_px": 1.2}}``; values are YAML."""
    values: dict[str, Any] = {}
    for word in assignments:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise UserError(f"--set: expected KEY=VALUE, got {word!r}. Write for example --set renderer.blur_px=1.2.")
        try:
            value = parse_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"--set {key}: expected a YAML value, got {shown(text)!r}.") from error
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merge(values, value)
    return values


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    """``512x1024`` -> (512, 1024), height and width; ``512`` is a square. Raises a UserError for another form."""
    match = re.fullmatch(r"([1-9]\d{0,5})(?:[xX]([1-9]\d{0,5}))?", text, re.ASCII)
    if not match:
        raise UserError(
            f"{option}: expected HEIGHTxWIDTH in pixels or one side of a square, got {text!r}. "
            f"Write for example {option} 512x1024."
        )
    return int(match[1]), int(match[2] or match[1])


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical form, in hex: the fingerprint that goes into rows and ledger records."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
