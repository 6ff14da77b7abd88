"""Labels of a generated image by streaming, against upsampling its features: time, memory, disk, equality.

One thread, time of the processor, a process for every way; random weights and features with the channels of the
published StyleGAN2. A case is SIDE:BLOCKS[:MEMBERS], blocks from the last one or "all"; the published way reads 5.

`python -m bench labelling` is a quick look at 256 x 256. The figures of docs/results/reports/labelling.md:
`python -m bench.labelling --cases 1024:all 1024:5 4096:5 --memory 4096:5 4096:all --sampling 256:all --results
docs/results/reports`; cases of other runs stay in that file.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.alone import measured, show_machine
from bench.labelling_report import write_report
from bench.labelling_ways import MARGIN, PRECISIONS, STREAMING, WAYS

CALL = """
import json, sys
from pathlib import Path
from factory.core.malloc import keep_freed_memory
keep_freed_memory()
import torch
torch.set_num_threads(1)
from bench import labelling_ways
name, words, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
print(json.dumps(getattr(labelling_ways, name)(*words, folder)))
"""


def main(words: Sequence[str] = ()) -> None:
    """Measure what is asked; without words, a quick look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=["256:all", "256:5:10"], help="times, and labels that differ")
    parser.add_argument("--memory", nargs="*", default=["256:5"], help="of labels alone, and with the generator")
    parser.add_argument("--sampling", nargs="*", default=["256:all"], help="an image against an image with labels")
    parser.add_argument("--results", type=Path, help="folder for labelling.json and labelling.md")
    arguments = parser.parse_args(list(words))
    show_machine()
    found: dict[str, dict[str, Any]] = {"cases": {}, "memory": {}, "sampling": {}}
    for part, measure in (("cases", time_of), ("memory", memory_of), ("sampling", sampling_of)):
        for case in getattr(arguments, part):
            before = os.getloadavg()[1]
            found[part][case] = {**measure(*parse_case(case)), "load": [round(before, 1), round(os.getloadavg()[1], 1)]}
            print(f"{part}, {case}: done", flush=True)
    write_report(found, arguments.results)


def parse_case(text: str) -> tuple[int, int | None, int]:
    """Side, blocks (None for all) and members of SIDE:BLOCKS[:MEMBERS]."""
    side, blocks, members = [*text.split(":"), "1"][:3]
    return int(side), None if blocks == "all" else int(blocks), int(members)


def _call(name: str, words: Sequence[object], folder: Path) -> Any:
    return measured(CALL, name, json.dumps(words), folder)


def time_of(side: int, blocks: int | None, members: int) -> dict[str, Any]:
    """Seconds of every way, and labels that are others than those of the network as it was trained."""
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
        folder = Path(name)
        ways = {way: _call("timed", [way, side, blocks, members], folder) for way in WAYS}
        labels = {way: np.load(folder / f"{way}.npy") for way in WAYS if "seconds" in ways[way]}
        if members == 1:
            plain, margins = np.load(folder / "plain.npy"), np.load(folder / "margins.npy")
            for way, said in labels.items():
                other = said != plain
                ways[way] |= {
                    "differ": int(other.sum()),
                    "largest_margin": float(margins[other].max()) if other.any() else 0.0,
                    "beyond": int((other & (margins >= MARGIN)).sum()),
                }
        else:
            for way, said in labels.items():
                ways[way]["differ"] = int((said != labels[STREAMING]).sum())
    return {"ways": ways}


def memory_of(side: int, blocks: int | None, members: int) -> dict[str, Any]:
    """Bytes on disk, and memory of labels alone and of the whole pass."""
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
        folder = Path(name)
        disk = _call("stored", [side, blocks], folder)
        alone = _call("memory_alone", [side, blocks], folder)
        in_all = {}
        for precision in PRECISIONS:
            _call("write_pair", [side, blocks, members, precision], folder)
            in_all[precision] = _call("memory_in_all", [], folder)
        return {"disk": disk, "alone": alone, "in_all": in_all}


def sampling_of(side: int, blocks: int | None, members: int) -> dict[str, Any]:
    """Seconds of an image and of a labelled one, in both number formats."""
    found = {}
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
            _call("write_pair", [side, blocks, members, precision], Path(name))
            found[precision] = _call("sampling", [precision], Path(name))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
