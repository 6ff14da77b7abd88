"""YAML with limits: aliases are counted as often as they are used, before anything is built of them."""

from __future__ import annotations

from typing import Any

import yaml

from manifests.limits import CONFIG_BYTES, CONFIG_VALUES, DEPTH, DIGITS, LimitError

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Bounded(_Loader):  # type: ignore[misc]
    """Refuses whole numbers of absurd width, which no other limit sees: ``0xfff...``."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > DIGITS:
            raise LimitError(f"a number of {len(node.value)} digits")
        number: int = super().construct_yaml_int(node)
        return number


_Bounded.add_constructor("tag:yaml.org,2002:int", _Bounded.construct_yaml_int)


def parse_yaml(text: str | bytes) -> Any:
    """The values of a YAML document; nothing is built of tags but plain values.

    Raises:
        yaml.YAMLError: for other text.
        ValueError: for a document that is too large, too deep, or contains itself; and for text that is no UTF-8.
    """
    if len(text) > CONFIG_BYTES:
        raise LimitError(f"more than {CONFIG_BYTES:,} bytes")
    _check_size(text)
    return yaml.load(text, _Bounded)


def _check_size(text: str | bytes) -> None:
    """Refuse a document of too many values or characters, written out, from its events: nothing is built."""
    open_nodes: list[tuple[str | None, list[int]]] = [(None, [0, 0])]  # anchor, and values and characters inside
    sizes: dict[str, list[int]] = {}
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_nodes):
                raise LimitError(f"a document without an end: *{event.anchor} stands inside itself")
            _add(open_nodes, sizes.get(str(event.anchor), [1, 0]))
        elif isinstance(event, yaml.ScalarEvent):
            size = [1, len(event.value)]
            if event.anchor:
                sizes[event.anchor] = size
            _add(open_nodes, size)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, [1, 0]))
            if len(open_nodes) > DEPTH:
                raise LimitError(f"more than {DEPTH} lists and mappings within each other")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            if anchor:
                sizes[anchor] = size
            _add(open_nodes, size)


def _add(open_nodes: list[tuple[str | None, list[int]]], size: list[int]) -> None:
    total = open_nodes[-1][1]
    total[0], total[1] = total[0] + size[0], total[1] + size[1]
    if total[0] > CONFIG_VALUES or total[1] > CONFIG_BYTES:
        raise LimitError(f"more than {CONFIG_VALUES:,} values or {CONFIG_BYTES:,} characters")
