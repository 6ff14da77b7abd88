"""Tiles of stained nuclei in rows, their points, and a segmenter that finds dark pixels, for tests of the audit."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from factory.core.runs import RunSpec, open_run, write_shard
from manifests import Dataset, DatasetInfo, LabelScheme, Tile, get_scheme, open_dataset
from manifests.store import Layout
from segment.audit.annotated import POINTS
from segment.network.head import Head
from segment.network.instances import InstanceConfig
from segment.network.weights import Weights

IHC, NUCLEI, PDL1 = get_scheme("ihc"), get_scheme("nuclei"), get_scheme("pdl1")
BLUE, BROWN = (np.array(v) / np.linalg.norm(v) for v in ([0.65, 0.70, 0.29], [0.27, 0.57, 0.78]))
SIZE, RADIUS, PITCH, COLUMNS, CELLS = (96, 144), 7, 24, 6, 24

Cli = Callable[..., Any]


class Darkness(torch.nn.Module):
    """A segmenter whose nuclei are the dark pixels of the input."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        dark = 40 * (0.4 - image.mean(1, keepdim=True))
        return torch.cat([-dark, dark], 1)


def segmenter_weights(
    path: Path, network: torch.nn.Module | None = None, scheme: LabelScheme = NUCLEI, **card: Any
) -> Weights:
    path.write_bytes(b"weights")
    card = {"mix": "real", "groups": ["seen"], "trained_on": {"real": {}}, "sources": {"real": []}, "mpp": [0.5]} | card
    network = (network or Darkness()).eval()
    return Weights(network, scheme, Head(len(scheme), False), InstanceConfig(), card, "cpu", path)


def write_cells(
    out: Path,
    positives: list[int],
    *,
    requests: dict[int, float] | None = None,
    source: str = "synthetic",
    regions: Mapping[int, Sequence[int]] | None = None,
    **row: Any,
) -> Dataset:
    """Tiles of 24 nuclei in rows, the first so many of them brown, composed by Beer-Lambert.

    With scheme ki67 each nucleus lies in the middle of a square of the mask, of the class `regions` gives for it; by
    default positive where it is brown.
    """
    scheme = get_scheme(row.get("label_scheme", "ihc"))
    info = DatasetInfo(source == "synthetic", "tests", (scheme,), licences=("test",))
    spec = RunSpec(out, {"positives": positives, "requests": requests or {}}, Layout(len(positives), *SIZE, 4), info)

    def sample(index: int) -> tuple[np.ndarray, Tile, dict[str, object]]:
        semantic, instance, stain = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.int32), np.zeros((*SIZE, 3))
        rows, columns = np.indices(SIZE)
        for cell in range(CELLS):
            y, x = PITCH // 2 + PITCH * (cell // COLUMNS), PITCH // 2 + PITCH * (cell % COLUMNS)
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= RADIUS**2
            brown = cell < positives[index]
            semantic[disc], instance[disc] = 2 if brown else 1, 3 * cell + 5
            stain[disc] = 0.9 * BROWN if brown else 0.7 * BLUE
        if scheme.name == "ki67":
            brown_first = [2] * positives[index] + [1] * (CELLS - positives[index])
            squares = np.array((regions or {}).get(index, brown_first), np.uint8).reshape(-1, COLUMNS)
            semantic, instance = squares.repeat(PITCH, 0).repeat(PITCH, 1), np.zeros(SIZE, np.int32)
        elif scheme.name != "ihc":  # no outlines: all positive tumour, or all tissue
            semantic, instance = np.full(SIZE, 1 if scheme.name == "tissue" else 3, np.uint8), np.zeros(SIZE, np.int32)
        image = np.rint(256 * 10.0**-stain - 1).astype(np.uint8)
        values = {
            "sample_id": f"{source}-{index}",
            "split": ("train", "val", "test", "test")[index % 4],
            "source": source,
            "group_id": f"{source}-{index}",
            "height": SIZE[0],
            "width": SIZE[1],
            "mpp": 0.5,
            "label_scheme": "ihc",
            "label_origin": "exact",
            "request_tps": (requests or {}).get(index, positives[index] / CELLS if source == "synthetic" else None),
        }
        return image, Tile(semantic, instance, 0.5, scheme), values | row

    with open_run(spec) as run:
        for number in run.todo:
            run.add(write_shard(spec, number, (sample(index) for index in spec.layout.rows(number))))
        run.finish()
    return open_dataset(out)


def write_points(dataset: Dataset, positives: list[int]) -> None:
    """Points on the cells of `write_cells`, and one lymphocyte in each tile."""
    rows = []
    for sample, positive in zip(dataset, positives, strict=True):
        name = {"sample_id": sample.row["sample_id"]}
        rows.append({**name, "x": 1.0, "y": 1.0, "class": "lymphocyte"})
        for cell in range(CELLS):
            x, y = PITCH * (cell % COLUMNS + 0.5), PITCH * (cell // COLUMNS + 0.5)
            rows.append({**name, "x": x, "y": y, "class": "positive" if cell < positive else "negative"})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    (dataset.root / POINTS).write_bytes(sink.getvalue())


def audit_command(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``call("synth", ...)`` runs the command with a segmenter that finds dark pixels; ``card`` has fields of its card.

    ``segmenter`` gives another network, and the scheme of its classes.
    """

    def call(*arguments: object, card: dict[str, Any] | None = None, segmenter: tuple[Any, ...] = ()) -> Any:
        weights = segmenter_weights(folder / "segmenter.safetensors", *segmenter, **(card or {}))
        monkeypatch.setattr("segment.network.weights.load_weights", lambda path, device: weights)
        return cli("segment", "audit", *arguments, "--weights", "segmenter.safetensors", "--device", "cpu")

    return call
