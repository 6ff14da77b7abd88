"""Groups (patient, slide, case) of images, and splits that never divide a group."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from factory.ingest.pairing import Source
from manifests.errors import UserError
from manifests.limits import read_text
from manifests.schema import SPLITS


def assign_groups(
    sources: Sequence[Source], pattern: str | None, table: Mapping[str, str] | None
) -> tuple[dict[str, str], list[str]]:
    """Returns uri -> group id, and faults, a line each; without pattern or table every image is a group.

    Args:
        pattern: its first group, found in the stem, is the group id.
        table: name (stem or file name) -> group id; takes precedence over the pattern.
    """
    groups: dict[str, str] = {}
    problems: list[str] = []
    for source in sources:
        if table is not None:
            group = _look_up(table, source)
            missing = "a line in --groups with its name, got none. Add it"
        else:
            match = re.search(pattern, source.stem) if pattern is not None else None
            group = match[1] if match else (source.stem if pattern is None else None)
            missing = f"a name that --group-pattern {pattern!r} fits, got none. Change the pattern or use --groups"
        if group:
            groups[source.uri] = group
        else:
            problems.append(f"{source.uri}: expected {missing}")
    return groups, problems


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that is no regular expression or has no group."""
    try:
        count = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--group-pattern: expected a regular expression, got {pattern!r} ({error}).") from error
    if count < 1:
        raise UserError(f"--group-pattern: expected one group in parentheses, got {pattern!r}. Write e.g. '^(case..)'.")


def splits_from_table(
    sources: Sequence[Source], groups: Mapping[str, str], table: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Returns group id -> split from a table of group ids, stems or file names, and faults, a line each."""
    splits: dict[str, str] = {}
    problems: list[str] = []
    for source in sources:
        group = groups.get(source.uri)
        if group is None:
            continue
        split = table.get(group) or _look_up(table, source)
        if split is None:
            problems.append(f"{source.uri}: expected a line in --splits for it or its group {group}, got none. Add it")
        elif splits.setdefault(group, split) != split:
            problems.append(
                f"{source.uri}: expected group {group} in one split, got {splits[group]} and {split}. "
                "A group in two splits leaks: correct --splits or the groups"
            )
    return splits, problems


def draw_splits(tiles: Mapping[str, int], shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Assign whole groups to splits so that the shares of tiles are as near as possible to those requested.

    Groups are taken from the largest to the smallest, equal ones in an order that the seed draws; each goes to the
    split that is furthest below its share. The last groups go to splits that would stay empty, train first, then test.

    Args:
        tiles: group id -> number of tiles. shares: of train, val and test; sum 1. seed: of the order.
    """
    order = np.random.default_rng(seed).permutation(sorted(tiles)).tolist()
    order.sort(key=lambda group: -tiles[group])
    total = sum(tiles.values())
    wanted: dict[str, float] = {name: share * total for name, share in zip(SPLITS, shares, strict=True) if share > 0}
    filled = dict.fromkeys(wanted, 0)
    splits: dict[str, str] = {}
    for position, group in enumerate(order):
        empty: list[str] = [name for name in ("train", "test", "val") if name in wanted and not filled[name]]
        if len(order) - position <= len(empty):
            chosen = empty[0]
        else:
            chosen = max(wanted, key=lambda name: wanted[name] - filled[name])
        splits[group] = chosen
        filled[chosen] += max(tiles[group], 1)
    return splits


def read_splits(path: Path) -> dict[str, str]:
    """The file of --splits: columns name (or group) and split."""
    table = read_table(path, "--splits", ("name", "group", "name_or_group"), "split")
    for key, split in table.items():
        if split not in SPLITS:
            raise UserError(f"{path}: {key}: expected a split of {', '.join(SPLITS)}, got {split!r}.")
    return table


def parse_shares(text: str) -> tuple[float, float, float]:
    """``0.8,0.1,0.1`` -> shares of train, val and test, whose sum is 1."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--split: expected three shares, got {text!r}. Write e.g. --split 0.8,0.1,0.1.") from error
    if not all(0 <= share <= 1 for share in (train, val, test)) or abs(train + val + test - 1) > 1e-6:
        raise UserError(f"--split: expected shares of train, val and test with sum 1, got {text!r}.")
    return train, val, test


def _look_up(table: Mapping[str, str], source: Source) -> str | None:
    return table.get(source.stem) or table.get(source.image.name)


def read_table(path: Path, option: str, keys: Sequence[str], value: str) -> dict[str, str]:
    """A CSV file with a column of keys, named by one of several names, and one of values; every key once."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: expected a CSV file in UTF-8, got {path} ({type(error).__name__}).") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [name.strip() for name in reader.fieldnames or ()]
    key = next((name for name in keys if name in columns), None)
    if key is None or value not in columns:
        raise UserError(f"{path}: expected the columns {keys[0]} and {value}, got {', '.join(columns) or 'none'}.")
    reader.fieldnames = columns
    table: dict[str, str] = {}
    try:
        for row in reader:
            name, entry = (row[key] or "").strip(), (row[value] or "").strip()
            if not name or not entry:
                raise UserError(f"{path}: line {reader.line_num}: expected {key} and {value}, got an empty one.")
            if table.setdefault(name, entry) != entry:
                raise UserError(f"{path}: line {reader.line_num}: expected {name} once, got it as {table[name]} too.")
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: expected CSV, got {error}.") from error
    return table
