"""Scoring weights: on whole images, with figures that can be derived by hand, and nothing undefined in a mean."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from factory.ingest.request import Request
from factory.ingest.writing import ingest
from manifests.dataset import Dataset, open_dataset
from manifests.labels import LabelScheme, get_scheme
from manifests.tile import Tile
from segment.data.sources import Source
from segment.data.whole_images import WholeImage, tile_images
from segment.evaluate import report
from segment.evaluate.evaluate import ImageScore, evaluate, summarise
from segment.network.head import Head
from segment.network.instances import InstanceConfig, read_tile
from segment.network.weights import Weights

pytestmark = pytest.mark.usefixtures("one_thread")

NUCLEI = get_scheme("nuclei")


class Threshold(torch.nn.Module):
    """A network that finds dark pixels: the logit of a nucleus is 4 where red is below its mean, else -4."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red = images[:, :1]
        nucleus = torch.where(red < red.mean(dim=(2, 3), keepdim=True) - 0.05, 4.0, -4.0)
        return torch.cat([torch.zeros_like(nucleus), nucleus], dim=1)


def weights_of(network: torch.nn.Module) -> Weights:
    return Weights(network, NUCLEI, Head(2), InstanceConfig(min_area_um2=0), {}, "cpu", Path("w.safetensors"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two images of 64x96: dark discs on a bright ground, some of them across the border of 32x32 tiles."""
    for name, centres in (("one", [(16, 16), (32, 40), (80, 50)]), ("two", [(64, 32)])):
        instance = np.zeros((64, 96), np.uint16)
        for number, centre in enumerate(centres):
            cv2.circle(instance, centre, 6, 3 + number, -1)
        image = np.where(instance[..., None] > 0, 40, 220).astype(np.uint8).repeat(3, axis=2)
        for folder, pixels in (("images", image), ("instances", instance)):
            (tmp_path / "source" / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "source" / folder / f"{name}.png"), pixels)
    return tmp_path / "source"


def ingested(source: Path, out: Path, size: str | None) -> Dataset:
    ingest(Request(source=source, out=out, mpp=0.5, size=size), workers=1)
    return open_dataset(out)


def figures_of(scores: list[ImageScore]) -> dict[str, dict[str, float]]:
    return {score.name: score.figures for score in scores}


def test_tiles_of_an_image_are_scored_as_the_image_and_tile_wise_figures_are_others(
    source: Path, tmp_path: Path
) -> None:
    weights = weights_of(Threshold())
    whole, tiled = (ingested(source, tmp_path / name, size) for name, size in (("whole", None), ("tiled", "32x32")))
    expected = evaluate(weights, [(Source("real", whole), whole)])
    scores = evaluate(weights, [(Source("real", tiled), tiled)])
    np.testing.assert_equal(figures_of(scores), figures_of(expected))
    assert [score.group for score in scores] == [score.group for score in expected]
    nuclei = [score.nuclei.basic.panoptic.tp for score in scores if score.nuclei]
    assert nuclei == [3, 1]

    by_tile = evaluate(weights, [(Source("real", tiled), tiled)], images=tile_images)
    assert len(by_tile) == 12
    found = [score.nuclei.basic.panoptic for score in by_tile if score.nuclei]
    assert sum(part.tp + part.fn for part in found) > sum(nuclei)


def test_a_perfect_prediction_scores_one_and_an_empty_one_zero(source: Path, tmp_path: Path) -> None:
    dataset = ingested(source, tmp_path / "whole", None)
    (perfect, *_), (empty, *_) = (
        evaluate(weights_of(network), [(Source("real", dataset), dataset)])
        for network in (Threshold(), torch.nn.Conv2d(3, 2, 1).apply(_always_background))
    )
    ones = {"aji", "aji_plus", "pq", "foreground_dice", "object_dice", "f1_50", "f1_90", "boundary_f1", "mean_iou"}
    assert {name: perfect.figures[name] for name in ones} == dict.fromkeys(ones, 1.0)
    assert perfect.figures["hd95_um"] == 0
    assert perfect.figures["cross_entropy"] == pytest.approx(math.log1p(math.exp(-4)), rel=1e-4)
    assert [empty.figures[name] for name in ("aji", "pq", "foreground_dice", "boundary_f1")] == [0, 0, 0, 0]
    assert empty.figures["hd95_um"] == math.inf
    assert empty.figures["wrecall"] == 1 - (dataset[0].tile.instance > 0).mean()


def _always_background(layer: torch.nn.Module) -> None:
    assert isinstance(layer, torch.nn.Conv2d)
    torch.nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    layer.bias.data = torch.tensor([1.0, 0.0])


def test_what_is_not_finite_is_left_out_of_the_mean_counted_and_null_in_json(source: Path, tmp_path: Path) -> None:
    dataset = ingested(source, tmp_path / "whole", None)
    scores = evaluate(
        weights_of(torch.nn.Conv2d(3, 2, 1).apply(_always_background)), [(Source("real", dataset), dataset)]
    )
    summary = summarise(scores, NUCLEI)
    assert math.isnan(summary["mean"]["hd95_um"])
    assert summary["left_out"] == {"hd95_um": 2}
    header = {"weights": "w", "step": 1, "split": "test", "scheme": "nuclei", "unit": "whole image"}
    document = report.evaluation_document(scores, header, NUCLEI)
    assert json.loads(json.dumps(document, allow_nan=False))["sources"]["real"]["mean"]["hd95_um"] is None


def test_ignored_pixels_count_for_neither_side(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("real", n=1)
    known = evaluate(weights_of(Threshold()), [(Source("real", dataset), dataset)])[0]

    def half_labelled(rows: Dataset) -> Iterator[WholeImage]:
        for whole in tile_images(rows):
            whole.tile.semantic[:, 48:] = 255
            yield whole

    scored = evaluate(weights_of(Threshold()), [(Source("real", dataset), dataset)], images=half_labelled)[0]
    assert scored.confusion.sum() == 64 * 48 < known.confusion.sum()
    assert scored.nuclei is not None
    assert scored.nuclei.basic.foreground.truth_px == int((dataset[0].tile.instance[:, :48] > 0).sum())


def test_types_of_nuclei_have_their_own_quality_and_a_mean_of_these(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, scheme = ingested(source, tmp_path / "whole", None), get_scheme("nuclei_types")

    def typed(rows: Dataset) -> Iterator[WholeImage]:
        for whole in tile_images(rows):
            tile = whole.tile
            label = np.where(tile.instance > 3, 3, 1)  # the first nucleus of each image, with id 3, is neoplastic
            classes = np.where(tile.instance > 0, label, 0).astype(np.uint8)
            yield dataclasses.replace(whole, tile=Tile(classes, tile.instance, tile.mpp, scheme))

    def read_all_neoplastic(maps: object, scheme: LabelScheme, mpp: float, config: object) -> Tile:
        found = read_tile(maps, NUCLEI, mpp, config)  # type: ignore[arg-type]
        return Tile(found.semantic, found.instance, mpp, scheme)

    monkeypatch.setattr("segment.evaluate.evaluate.read_tile", read_all_neoplastic)
    tables = {scheme.name: np.arange(256, dtype=np.uint8)}
    monkeypatch.setattr("segment.evaluate.evaluate.projections", lambda dataset, onto: tables)
    monkeypatch.setattr("segment.evaluate.evaluate._cross_entropy_sum", lambda probabilities, truth: 0.0)
    weights = dataclasses.replace(weights_of(Threshold()), scheme=scheme)
    scores = evaluate(weights, [(Source("real", dataset), dataset)], images=typed)
    by_name = figures_of(scores)
    (one, two) = (by_name[name] for name in sorted(by_name))
    # three nuclei, of which one is neoplastic: TP 1, FP 2 of it, and FN 2 of connective
    assert one["mpq"] == pytest.approx((1 / 2 + 0) / 2)
    assert one["mpq_pannuke"] == pytest.approx((1 / 2 + 0) / 2)
    assert (one["bpq"], two["mpq"]) == (1.0, 1.0)
    summary = summarise(scores, scheme)
    assert summary["classes"]["neoplastic"]["pq"] == pytest.approx(2 / 3)
    assert summary["classes"]["connective"]["pq"] == 0
    assert "pq" not in summary["classes"]["background"]
    header = {"weights": "w", "step": 1, "split": "test", "scheme": scheme.name, "unit": "tile"}
    grids = report.evaluation_grids(report.evaluation_document(scores, header, scheme))
    assert [row[0] for row in grids[1].rows] == list(scheme.names[1:])
