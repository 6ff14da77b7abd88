"""The tables of `bench.labelling`, printed, and written as labelling.json and labelling.md into a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.labelling_ways import MARGIN, PRECISIONS, STREAMING, shapes_of, size_of
from factory.joint.features import need_bytes
from manifests.files import write_atomic

NAME = "labelling"
_PUBLISHED = (4096, 5)
_IMAGES = 16


def write_report(found: dict[str, dict[str, Any]], results: Path | None) -> None:
    """Print the tables.

    Args:
        found: of the cases of ``cases``, ``memory`` and ``sampling``. results: a folder, whose other cases stay.
    """
    if results is not None:
        path = results / f"{NAME}.json"
        there = json.loads(path.read_text()) if path.exists() else {}
        found = {part: {**there.get(part, {}), **cases} for part, cases in found.items()}
        results.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(found, indent=1, sort_keys=True).encode() + b"\n")
    text = "\n".join(
        [
            "# Labels read off a generator: time, memory, disk",
            "",
            f"`python -m bench.labelling` (its first lines say with what): one thread, torch {torch.__version__}, "
            "random weights and features, channels of the published generator (base 32768, at most 512). Seconds are "
            "the processor's, as other work ran on the same cores (load average before and after beside each). The "
            "peers run the same network, folded as ours is; their tiles of 128 were the fastest of 64, 128 and 256.",
            *_times(found["cases"]),
            *_memory(found["memory"]),
            *_disk(),
            *_sampling(found["sampling"]),
            "",
        ]
    )
    print(text)
    if results is not None:
        write_atomic(results / f"{NAME}.md", text.encode())


def _times(cases: Mapping[str, Any]) -> Iterator[str]:
    for case in sorted(cases, key=lambda text: (int(text.split(":")[0]), text)):
        found = cases[case]
        side, blocks, members = [*case.split(":"), "1"][:3]
        ways, ours = found["ways"], found["ways"][STREAMING]["seconds"]
        yield from (
            "",
            f"## {side} x {side}, {blocks} blocks ({_channels(int(side), blocks)} channels), {members} classifiers",
            "",
            "| | seconds | of streaming | MB before -> peak | labels that differ | their largest margin |",
            "|---|---|---|---|---|---|",
        )
        for way, each in ways.items():
            if "skipped" in each:
                yield f"| {way} | not run: {each['skipped']} | | | | |"
                continue
            kind = f" ({each['format']})" if "format" in each else ""
            margin = f"{each['largest_margin']:.1e}" if "largest_margin" in each else "-"
            yield (
                f"| {way}{kind} | {each['seconds']:.2f} | {each['seconds'] / ours:.2f} | {each['before_mb']:.0f} -> "
                f"{each['peak_mb']:.0f} | {each['differ']} | {margin} |"
            )
        reference = "the network as it was trained, tile by tile" if members == "1" else "streaming in fp32"
        beyond = ways[STREAMING].get("beyond")
        yield ""
        yield f"Labels are held against {reference}. Load {_load(found)}." + (
            "" if beyond is None else f" Streaming differs at {beyond} pixels with a margin of {MARGIN:g} or more."
        )


def _memory(cases: Mapping[str, Any]) -> Iterator[str]:
    if not cases:
        return
    yield from (
        "",
        "## Memory of one image",
        "",
        "Labels alone read features from disk, which count as memory; in all: the generator's pass and labels.",
        "",
        "| | channels | labels alone, GB | in all, fp32 | in all, bf16 | features on disk, MB, announced and written |",
        "|---|---|---|---|---|---|",
    )
    for case, found in cases.items():
        side, blocks = case.split(":")[:2]
        alone, disk = found["alone"], found["disk"]
        passes = (found["in_all"][precision] for precision in PRECISIONS)
        in_all = (f"{each['peak_mb'] / 1e3:.2f} GB, {each['seconds']:.1f} s" for each in passes)
        yield (
            f"| {side} x {side}, {blocks} blocks | {_channels(int(side), blocks)} | {alone['peak_mb'] / 1e3:.2f} | "
            f"{' | '.join(in_all)} | {disk['announced'] / 1e6:.1f}, {disk['bytes'] / 1e6:.1f} |"
        )


def _disk() -> Iterator[str]:
    side, blocks = _PUBLISHED
    native = need_bytes(list(shapes_of(side, blocks).values()), _IMAGES) / 1e9
    every = need_bytes(list(shapes_of(side, None).values()), _IMAGES) / 1e9
    yield from (
        "",
        f"Features of {_IMAGES} images of {side} x {side} in float16: {native:.1f} GB at native resolution (last "
        f"{blocks} blocks; all: {every:.1f} GB), {_IMAGES * size_of(shapes_of(side, blocks), side, 2):.0f} GB "
        "upsampled.",
    )


def _sampling(cases: Mapping[str, Any]) -> Iterator[str]:
    if not cases:
        return
    yield from (
        "",
        "## Sampling with labels",
        "",
        "| | image alone, ms | with labels, ms | of the rate alone | of the rate alone in bf16 | load |",
        "|---|---|---|---|---|---|",
    )
    for case, found in cases.items():
        for precision in PRECISIONS:
            each = found[precision]
            yield (
                f"| {case}, {precision} | {each['image'] * 1e3:.0f} | {each['labelled'] * 1e3:.0f} | "
                f"{each['image'] / each['labelled']:.2f} | {found['bf16']['image'] / each['labelled']:.2f} | "
                f"{_load(found)} |"
            )


def _channels(side: int, blocks: str) -> int:
    return sum(shape[0] for shape in shapes_of(side, None if blocks == "all" else int(blocks)).values())


def _load(found: Mapping[str, Any]) -> str:
    before, after = found["load"]
    return f"{before} to {after}"
