"""Label schemes in YAML files: every fault of a file is named, by its key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.config import read_yaml
from manifests.errors import UserError
from manifests.labels import APPEARANCES, IGNORE, NUCLEUS_LOOKS, REGION_LOOKS, ROLES, SCHEMES, LabelScheme, get_scheme

_KEYS = ("name", "classes", "projections", "tps_basis")
_CLASS_KEYS = ("id", "name", "colour", "roles", "appearance")
_EXAMPLES = {"id": "0", "name": "tumour", "colour": "[200, 30, 30]"}
_TPS_BASES = ("area", "cells")

SUFFIXES = (".yaml", ".yml", ".json")


def load_scheme(name: str) -> LabelScheme:
    """Return a shipped label scheme by name, or one from a YAML or JSON file.

    Raises:
        UserError: for an unknown name, and a file with faults: the first of them, and how many follow.
    """
    if Path(name).suffix.lower() not in SUFFIXES:
        return get_scheme(name)
    document = read_yaml(Path(name))
    if faults := faults_of(document):
        more = f" ({len(faults) - 1} more: factory scheme check {name})" if len(faults) > 1 else ""
        raise UserError(f"{name}: {faults[0]}{more}")
    return LabelScheme.from_dict(_plain(document))


def faults_of(document: Mapping[str, Any]) -> list[str]:
    """Name every fault of a scheme, each with its key; empty without one."""
    faults = [*_unknown(document, _KEYS, "")]
    name = document.get("name")
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
        faults.append(f"name: expected letters, digits, _ and -, got {_got(name)}.")
    classes = document.get("classes")
    if not isinstance(classes, list) or not 1 <= len(classes) <= IGNORE:
        return [*faults, f"classes: expected a list of 1 to {IGNORE} classes, got {_got(classes)}."]
    for number, entry in enumerate(classes):
        faults += _faults_of_class(number, entry)
    entries = [entry for entry in classes if isinstance(entry, Mapping)]
    faults += _repeated([entry.get("name") for entry in entries])
    basis = document.get("tps_basis", "area")
    if basis not in _TPS_BASES:
        faults.append(f"tps_basis: expected area or cells, got {_got(basis)}.")
    faults += _faults_of_projections(document.get("projections", {}), len(classes))
    if not faults and name in SCHEMES and LabelScheme.from_dict(_plain(document)) != SCHEMES[name]:
        faults.append(f"name: expected one that is not shipped, got {name}, which has other classes. Rename it.")
    return faults


def _faults_of_class(number: int, entry: Any) -> Iterator[str]:
    where = f"classes.{number}"
    if not isinstance(entry, Mapping):
        yield f"{where}: expected {{id, name, colour}}, got {_got(entry)}."
        return
    if isinstance(entry.get("name"), str):
        where += f" ({entry['name']})"
    yield from _unknown(entry, _CLASS_KEYS, f"{where}: ")
    for key in ("id", "name", "colour"):
        if key not in entry:
            yield f"{where}: expected {key}, got none. Write for example {key}: {_EXAMPLES[key]}."
    if "id" in entry and (type(entry["id"]) is not int or entry["id"] != number):
        yield f"{where}: id: expected {number}, as ids run from 0 in order, got {_got(entry['id'])}."
    if "name" in entry and not (isinstance(entry["name"], str) and entry["name"].strip() and "=" not in entry["name"]):
        yield f"{where}: name: expected text without =, got {_got(entry['name'])}. Put it in quotes."
    if "colour" in entry and _rgb(entry["colour"]) is None:
        yield f"{where}: colour: expected [R, G, B] from 0 to 255 or '#rrggbb', got {_got(entry['colour'])}."
    roles = entry.get("roles", [])
    for role in [roles] if isinstance(roles, str) else roles if isinstance(roles, list) else [roles]:
        if role not in ROLES[:-1]:
            yield f"{where}: roles: expected {', '.join(ROLES[:-1])}, got {_got(role)}.{_near(role, ROLES)}"
    look = entry.get("appearance", "")
    known = NUCLEUS_LOOKS if "nucleus" in (roles or ()) else REGION_LOOKS
    if look not in ("", *known):
        yield f"{where}: appearance: expected {', '.join(known)}, got {_got(look)}.{_near(look, APPEARANCES)}"


def _faults_of_projections(projections: Any, count: int) -> Iterator[str]:
    if not isinstance(projections, Mapping):
        yield f"projections: expected SCHEME: [class for each class], got {_got(projections)}."
        return
    for target, values in projections.items():
        where = f"projections.{target}"
        if not isinstance(values, list) or len(values) != count:
            yield f"{where}: expected a list of {count}, one for each class, got {_got(values)}."
            continue
        names = SCHEMES[target].names if target in SCHEMES else ()
        known = ", ".join(names) or "ids from 0 to 254"
        for place, value in enumerate(values):
            most = len(names) if names else IGNORE
            is_id = type(value) is int and (0 <= value < most or value == IGNORE)
            if not is_id and value not in names:
                yield f"{where}.{place}: expected a class of {target} ({known}) or {IGNORE}, got {_got(value)}."


def _repeated(names: Sequence[Any]) -> Iterator[str]:
    for number, name in enumerate(names):
        if isinstance(name, str) and name in names[:number]:
            yield f"classes.{number} ({name}): name: expected each name once, got that of classes.{names.index(name)}."


def _unknown(document: Mapping[str, Any], known: Sequence[str], where: str) -> Iterator[str]:
    for key in document:
        if key not in known:
            hint = _near(key, known) or f" Known: {', '.join(known)}."
            yield f"{where}{key}: expected a known key, got {_got(key)}.{hint}"


def _near(word: Any, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _got(value: Any) -> str:
    return "none" if value is None else repr(value)[:60]


def _rgb(colour: Any) -> list[int] | None:
    """Three levels, from a list or ``#rrggbb``; None for anything else."""
    if isinstance(colour, str) and len(colour) == 7 and colour[0] == "#":
        try:
            return list(bytes.fromhex(colour[1:]))
        except ValueError:
            return None
    is_list = isinstance(colour, list) and len(colour) == 3
    return colour if is_list and all(type(level) is int and 0 <= level <= 255 for level in colour) else None


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """A scheme as `LabelScheme.from_dict` reads it: colours and projections as numbers, roles as a list."""
    classes = [
        {
            **entry,
            "colour": _rgb(entry["colour"]),
            "roles": [entry["roles"]] if isinstance(entry.get("roles"), str) else entry.get("roles", []),
        }
        for entry in document["classes"]
    ]
    projections = {
        target: [SCHEMES[target].names.index(value) if isinstance(value, str) else value for value in values]
        for target, values in document.get("projections", {}).items()
    }
    return {**document, "classes": classes, "projections": projections}
