"""Tables of names: `"stain": "factory.renderers.stain.stain:Stain"`, imported on first use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from manifests.errors import UserError


def resolve(table: Mapping[str, str], name: str, what: str) -> Any:
    """Import the object that a table lists under `name`.

    Args:
        table: name -> "module:attribute".
        name: of an entry.
        what: kind of the entries, for the error ("mask generator").

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{what}: expected one of {', '.join(sorted(table))}, got {name!r}.{hint}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
