"""Sums of several images: every metric is computed from sums, so adding the sums scores the images as one."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import reduce
from typing import Any, ClassVar, Self, TypeVar


class Sums:
    """Base of metric results: frozen dataclasses of sums. ``a + b`` is the result of both images taken as one.

    Numbers are added, tuples element by element, mappings key by key, nested results by their own rule.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __add__(self, other: Self) -> Self:
        return type(self)(*(_added(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


SumsT = TypeVar("SumsT", bound=Sums)


def pool(parts: Sequence[SumsT]) -> SumsT:
    """The result of one or more images taken as one. In general it is not the mean of the images' values."""
    return reduce(operator.add, parts)


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, tuple):
        return tuple(_added(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Mapping):
        shared = {key: _added(one[key], other[key]) for key in one.keys() & other.keys()}
        return dict(sorted({**one, **other, **shared}.items()))
    return one + other
