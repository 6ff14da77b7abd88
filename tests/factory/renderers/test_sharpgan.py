"""Sharp-GAN: what it learns from, what its terms change, and its images of nuclei."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from factory.core.config import parse
from factory.core.registry import resolve
from factory.core.seeds import Stream, generator
from factory.geometry.nuclear_maps import contour_of
from factory.learn.crops import NucleiCrops, instances_of, open_tiles
from factory.nets import stitching
from factory.nets.contours import contrast, grey_of, sharpness, smoothness
from factory.renderers import RENDERERS
from factory.renderers.conditions import RELIEF_STEPS, Condition, ConditionConfig, draw_condition, draw_relief
from factory.renderers.learned import renderer as trained_renderers
from factory.train.generator import trainer_class
from manifests import open_dataset
from manifests.errors import UserError
from manifests.labels import get_scheme
from manifests.tile import Tile
from tests.conftest import Outcome, write_dataset
from tests.mask_training import SIZE, trained, trainer_config

pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")

RELIEF = {"condition": {"kind": "skeleton"}}
CONTOURS = {"loss": {"feature": 2, "smoothness": 1, "contrast": 1}}
UNET = {"architecture": "unet", "unet": {"width": 4, "depth": 4, "dropout": 0.3}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawn tiles of nuclei of two slides."""
    root = tmp_path_factory.mktemp("data") / "real"
    write_dataset(root, n=12, groups=6, size=(64, 96), mpp=0.5)
    return root


def trainer_of(**changes: Any) -> Any:
    torch.manual_seed(0)
    trainer = trainer_class("sharpgan")(
        trainer_config("sharpgan", **{**RELIEF, **changes}), get_scheme("nuclei"), "cpu"
    )
    for network in trainer.networks.values():
        network.train()
    return trainer


def test_views_bring_instances_of_the_same_place(data: Path) -> None:
    tiles = open_tiles([data], None, SIZE, 1)
    crops = NucleiCrops(tiles, SIZE, 4, seed=1)
    for step in range(3):
        drawn = crops.draw(step)
        instance = instances_of(drawn)
        assert instance.dtype == np.int32
        assert instance.shape == (4, *SIZE)
        np.testing.assert_array_equal(instance > 0, drawn[..., 0] > 0)  # in this scheme nuclei are the class
        for place, number in enumerate(crops.numbers(step)):
            whole = tiles.read_instance(crops.place(number))
            assert set(np.unique(instance[place])) <= set(np.unique(whole))
    assert max(instance.max() for instance in map(instances_of, map(crops.draw, range(3)))) > 1


@pytest.mark.parametrize(("kind", "metric"), [("distance", "chessboard"), ("skeleton", "cityblock")])
def test_relief_and_contours_are_those_of_the_view(kind: str, metric: str, data: Path) -> None:
    tiles = open_tiles([data], None, SIZE, 1)
    labels, images, _, reliefs, contours = trainer_of(condition={"kind": kind, "metric": metric}).draw_from(tiles)(2)
    config, condition = trainer_config("sharpgan"), ConditionConfig.model_validate({"kind": kind, "metric": metric})
    crops = NucleiCrops(tiles, config.size, config.batch, config.seed, config.max_background).draw(2)
    for place, instance in enumerate(instances_of(crops)):
        np.testing.assert_array_equal(reliefs[place], draw_relief(condition, instance))
        np.testing.assert_array_equal(contours[place], contour_of(instance, condition.metric))
    np.testing.assert_array_equal(labels, crops[..., 0])
    np.testing.assert_array_equal(images, crops[..., 1:4])


def test_the_network_sees_classes_relief_and_look(data: Path) -> None:
    trainer = trainer_of()
    crops = trainer.draw_from(open_tiles([data], None, SIZE, 1))(0)
    seen = trainer.seen(crops).numpy()
    assert seen.shape[1] == trainer.in_channels == 2 + 1 + 3
    np.testing.assert_array_equal(seen[:, 1] == 1, crops[0] == 1)
    np.testing.assert_allclose(seen[:, 2], crops[3] / 127, atol=1e-6)


def test_the_network_of_the_papers_sees_the_relief_alone(data: Path) -> None:
    alone = {"kind": "skeleton", "classes": False}
    trainer = trainer_of(condition=alone, look=False)
    crops = trainer.draw_from(open_tiles([data], None, SIZE, 1))(0)
    np.testing.assert_allclose(trainer.seen(crops).numpy(), crops[3][:, None] / 127, atol=1e-6)
    assert trainer.card()["condition"]["classes"] is False
    assert "classes" not in trainer_of().card()["condition"]  # cards of earlier weights stay as they are
    for changes, said in (
        ({"condition": alone, "look": True}, "look: expected false with condition.classes=false"),
        ({"condition": {"kind": "polygons", "classes": False}}, "classes: expected true without a relief"),
    ):
        with pytest.raises(UserError, match=said):
            trainer_config("sharpgan", **changes)


@pytest.mark.parametrize("changes", [{}, UNET])
def test_terms_of_contours_count_and_change_what_is_learnt(changes: dict[str, Any], data: Path) -> None:
    draw = trainer_of(**changes).draw_from(open_tiles([data], None, SIZE, 1))
    crops = draw(0)
    learnt = {}
    for name, loss in (("with", CONTOURS), ("without", {})):
        trainer = trainer_of(**changes, **loss)
        terms = trainer.step(trainer.draw_from(open_tiles([data], None, SIZE, 1))(0), 0, 0)
        assert ({"smoothness", "contrast"} <= set(terms)) == (name == "with")
        learnt[name] = torch.cat([p.detach().flatten() for p in trainer.networks["generator"].parameters()])
    assert not torch.equal(learnt["with"], learnt["without"])
    assert len(crops) == 5


def test_contours_as_real_count_by_what_they_exceed_those_of_the_real_images(data: Path) -> None:
    loss = {"loss": {"adversarial": 1, "smoothness": 1, "contrast": 1, "sharpness": 1}}
    crops = trainer_of(**loss).draw_from(open_tiles([data], None, SIZE, 1))(0)
    full, above = (
        {name: float(value) for name, value in trainer_of(**loss, contours_as_real=choice).step(crops, 0, 0).items()}
        for choice in (False, True)
    )
    grey = grey_of(torch.from_numpy(crops[1]).permute(0, 3, 1, 2).float() / 127.5 - 1)
    contours, levels = torch.from_numpy(crops[4]), trainer_config("sharpgan").contrast_levels
    real = {
        "smoothness": smoothness(grey, contours),
        "contrast": contrast(grey, contours, levels),
        "sharpness": sharpness(grey, contours, levels),
    }
    for name, value in real.items():
        assert above[name] == pytest.approx(max(full[name] - float(value), 0), abs=1e-5)
    assert above["contrast"] < full["contrast"]
    assert full["adversarial"] == above["adversarial"]


def test_contour_terms_without_a_relief_have_contours(data: Path) -> None:
    trainer = trainer_of(condition={"kind": "polygons"}, loss={"feature": 1, "sharpness": 1})
    terms = trainer.step(trainer.draw_from(open_tiles([data], None, SIZE, 1))(0), 0, 0)
    assert float(terms["sharpness"]) > 0


def test_a_unet_has_one_channel_of_noise() -> None:
    with pytest.raises(UserError, match="noise_channels: expected 1 with architecture unet, got 0"):
        trainer_config("sharpgan", **{**RELIEF, **UNET, "noise_channels": 0})


def test_masks_without_nuclei_are_refused() -> None:
    for changes, needs in (
        (RELIEF, "condition.kind=skeleton need"),
        ({"condition": {"kind": "polygons"}, **CONTOURS}, "loss.smoothness and loss.contrast need"),
    ):
        config = trainer_config("sharpgan", **changes)
        said = rf"--data: expected masks of nuclei \(nuclei, ihc, nuclei_types\), which {needs}, got ki67"
        with pytest.raises(UserError, match=said):
            config.check_data(get_scheme("ki67"), 0.5)
        config.check_data(get_scheme("ihc"), 0.5)


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("weights")
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            changes = {**RELIEF, **CONTOURS, **(UNET if name == "unet" else {})}
            if name == "alone":
                changes |= {"condition": {"kind": "skeleton", "classes": False}, "look": False}
            made[name] = trained("sharpgan", data, folder / name, steps=3, look_every=3, **changes)
        return made[name]

    return of


def build(run: Path, **values: Any) -> Any:
    part = resolve(RENDERERS, "sharpgan", "--renderer")
    return part(
        part(parse(part.Config, {"weights": str(run), "precision": "fp32", **values}, "renderer")).resolved_config()
    )


def condition_of(renderer: Any, data: Path, tile: int = 0) -> Condition:
    sample = open_dataset(data)[tile]
    return draw_condition(renderer.condition, sample.tile, generator(0, Stream.CONDITION))


@pytest.mark.parametrize("name", ["resnet", "unet", "alone"])
def test_images_follow_the_relief_and_not_only_the_classes(name: str, data: Path, weights: Callable[..., Path]) -> None:
    renderer = build(weights(name), **({} if name == "alone" else {"look": 0}))
    instance = np.zeros((64, 64), np.int32)
    instance[16:48, 16:48] = 1
    halves = instance.copy()
    halves[16:48, 32:48] = 2
    images = []
    for ids in (instance, halves):
        tile = Tile((ids > 0).astype(np.uint8), ids, 0.5, get_scheme("nuclei"))
        condition = draw_condition(renderer.condition, tile, generator(0, Stream.CONDITION))
        (image,) = renderer.render([condition], [generator(0, Stream.RENDER)])
        assert image.shape == (64, 64, 3)
        images.append(image.astype(int))
    assert np.abs(images[0] - images[1])[20:44, 28:36].max() > 0  # two nuclei that touch are not one


def test_a_tile_larger_than_a_window_has_its_relief_in_every_window(
    data: Path, weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (312, 344)
    rng = np.random.default_rng(0)
    instance = np.zeros(size, np.int32)
    for number, (y, x) in enumerate(rng.integers(0, 298, (60, 2)), 1):
        instance[y : y + 14, x : x + 12] = number
    tile = Tile((instance > 0).astype(np.uint8), instance, 0.5, get_scheme("nuclei"))
    given: list[tuple[slice, slice, torch.Tensor]] = []

    def watched(network: torch.nn.Module, read: stitching.Read, *words: Any, **options: Any) -> Any:
        def kept(rows: slice, columns: slice) -> torch.Tensor:
            given.append((rows, columns, read(rows, columns)))
            return given[-1][2]

        return stitching.draw(network, kept, *words, **options)

    monkeypatch.setattr(trained_renderers, "draw", watched)
    for window in (512, 256):
        renderer = build(weights("resnet"), look=0, window_px=window)
        condition = draw_condition(renderer.condition, tile, generator(0, Stream.CONDITION))
        renderer.render([condition], [generator(0, Stream.RENDER)])
    (*_, whole), *parts = given
    assert whole.shape[2:] == size
    assert condition.relief is not None
    np.testing.assert_allclose(whole[0, 2], condition.relief / RELIEF_STEPS, atol=1e-6)
    assert sum(seen.shape[2:] == (304, 304) for *_, seen in parts) == 4  # windows with what is around them
    for rows, columns, seen in parts:
        torch.testing.assert_close(seen, whole[..., rows, columns], rtol=0, atol=0)


def test_factory_makes_nuclei_with_it(
    cli: Callable[..., Outcome], weights: Callable[..., Path], tmp_path: Path
) -> None:
    done = cli(
        "factory", "make", "--scheme", "nuclei", "--renderer", "sharpgan", "--n", 3, "--size", "64x64", "--mpp", 0.5,
        "--cells", 6, "--set", f"renderer.weights={weights('unet')}", "--workers", 1, "--out", tmp_path / "made",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = pq.read_table(tmp_path / "made/manifest.parquet").to_pylist()
    assert {row["renderer"] for row in rows} == {"sharpgan"}
    assert [row["cells"] for row in rows] == [6, 6, 6]
    assert {row["label_origin"] for row in rows} == {"conditioned"}
    images = [sample.image for sample in open_dataset(tmp_path / "made")]
    assert len({image.tobytes() for image in images}) == 3
