"""`factory make` with trained weights: rows, provenance, the same bytes again, and where coarse maps come from."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factory.core.checkpoints import BEST, read_checkpoint, write_weights
from factory.core.config import parse
from factory.core.registry import resolve
from factory.core.seeds import Stream, generator
from factory.core.starters import STARTER
from factory.core.weights import read_card
from factory.make.pipeline import with_absolute_paths
from factory.make.recipes.masks_and_renderer import MakeConfig, MasksAndRenderer
from factory.masks import MASKS, TRAINABLE
from factory.masks.allocate import allocate
from factory.masks.coarse import AugmentSketchConfig, LayoutConfig
from factory.masks.learned.generator import WEIGHTS_KIND
from factory.plan.request import Request
from manifests import open_dataset, verify
from manifests.errors import UserError
from manifests.labels import get_scheme
from segment.data.sources import refuse_tested_groups
from tests.conftest import Outcome, assert_refused
from tests.kill_after_every_operation import tree
from tests.mask_training import SIZE, blobs, poke, trained_once, write_blobs

Cli = Callable[..., Outcome]
Weights = Callable[..., Path]
REPOSITORY = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """``weights("depas", "tissue")``: a weights file of a generator that was trained for a few steps, made once."""
    run = trained_once(tmp_path_factory.mktemp("weights"))
    return lambda *what: run(*what) / BEST


def make_words(name: str, path: Path, *more: object, n: int = 5) -> tuple[object, ...]:
    return (
        "factory", "make", "--masks", name, "--set", f"masks.weights={path}", "--set", "masks.precision=fp32",
        "--set", "shard=2", "--renderer", "palette", "--size", f"{SIZE[0]}x{SIZE[1]}", "--n", n, "--workers", 1, *more,
    )  # fmt: skip


@pytest.mark.parametrize("name", TRAINABLE)
def test_make_meets_the_requested_tissue_with_the_scheme_of_the_weights(
    name: str, weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    path = weights(name)
    done = cli(*make_words(name, path, "--tissue", "0.3-0.9"))
    assert done.code == 0, done
    dataset = open_dataset(tmp_path / "data/synth")
    assert verify(tmp_path / "data/synth") == []
    assert len(dataset) == 5
    for row in dataset.table.to_pylist():
        assert row["label_scheme"] == "tissue"
        assert 0.3 <= row["request_tissue"] <= 0.9
        assert abs(row["tissue_fraction"] - row["request_tissue"]) * 32 * 64 <= 0.5 + 1e-6
        assert row["mask_weights_sha256"] == read_card(path).sha256
        assert (row["precision"], row["mask_generator"], row["recipe"]) == ("float32", name, f"{name}+palette")
        assert row["allocation_shift"] >= 0
        assert row["attempts"] >= 1
    assert dataset.info.training_sources == ("tissue/slide-0", "tissue/slide-1", "tissue/slide-2")
    assert dataset.info.licences == ("licence of tissue",)
    assert "torch" in dataset.info.versions
    sample = dataset[0]
    np.testing.assert_array_equal(sample.image, get_scheme("tissue").palette[sample.tile.semantic])
    again = cli("factory", "replay", sample.row["sample_id"])
    assert again.code == 0, again
    assert "masks same bytes, image same bytes" in again.out
    assert "nothing to do" in cli(*make_words(name, path, "--tissue", "0.3-0.9")).out


def test_make_meets_tps_with_weights_of_many_classes(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    done = cli(*make_words("depas", weights("depas", "pdl1_cells"), "--tps", "0.01-0.5", "--tissue", "0.5-1"))
    assert done.code == 0, done
    dataset = open_dataset(tmp_path / "data/synth")
    for row in dataset.table.to_pylist():
        assert row["label_scheme"] == "pdl1_cells"
        fractions = row["class_fractions"]
        tumour = round((fractions[2] + fractions[3]) * 32 * 64)
        assert tumour > 0
        assert abs(row["tps_area"] - row["request_tps"]) * tumour <= 0.5 + 1e-6
        assert abs(row["tissue_fraction"] - row["request_tissue"]) * 32 * 64 <= 0.5 + 1e-6


def test_images_of_trained_masks_are_refused_where_their_groups_are_tested(
    weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    assert cli(*make_words("depas", weights("depas"), n=2)).code == 0
    sources = open_dataset(tmp_path / "data/synth").info.training_sources
    refuse_tested_groups("data/synth", sources, {"slide-9"})
    with pytest.raises(UserError, match="got its group 'slide-1'"):
        refuse_tested_groups("data/synth", sources, {"slide-1"})


def test_workers_elsewhere_get_absolute_paths_and_the_configuration_keeps_what_was_typed(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(weights("priorpath"), tmp_path / "w.safetensors")
    write_sketches(tmp_path / "drawings")
    monkeypatch.chdir(tmp_path)
    values = {"name": "priorpath", "weights": "w.safetensors", "coarse": "sketches", "coarse_from": "drawings"}
    config = MakeConfig(masks=values, renderer={"name": "palette"}).model_dump(mode="json")
    recipe = MasksAndRenderer.from_document(config, scheme=get_scheme("tissue"))
    located = with_absolute_paths(recipe)
    assert located.masks.config.weights == str(tmp_path / "w.safetensors")
    assert located.masks.config.coarse_from == (str(tmp_path / "drawings"),)
    assert recipe.document["masks"]["weights"] == "w.safetensors"
    assert with_absolute_paths(located) == located


def test_workers_do_not_change_a_byte(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    words = make_words("priorpath", weights("priorpath"), "--tissue", "0.3-0.9", "--set", "batch=2")
    assert cli(*words, "--out", "one").code == 0
    two = cli(*words, "--workers", "2", "--out", "two")
    assert two.code == 0, two
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_weights_that_changed_under_their_name_are_refused_on_replay_and_resume(
    weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "w.safetensors"
    shutil.copy(weights("depas"), path)
    assert cli(*make_words("depas", path, n=2)).code == 0
    sample_id = open_dataset(tmp_path / "data/synth").row(0)["sample_id"]
    before = tree(tmp_path / "data/synth")
    whole = read_checkpoint(path, WEIGHTS_KIND)
    write_weights(path, {name: tensor + 1 for name, tensor in whole.tensors.items()}, whole.card)
    assert_refused(cli("factory", "replay", sample_id), "expected the weights .*Put those back")
    assert_refused(cli(*make_words("depas", path, n=2)), r"masks\.weights_sha256")
    assert tree(tmp_path / "data/synth") == before
    path.unlink()
    assert_refused(cli("factory", "replay", sample_id), "No such file")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--scheme", "pdl1_cells"), "scheme: the weights of depas draw tissue, got pdl1_cells"),
        (("--mpp", "0.25"), "mpp: the weights of depas were trained at 0.5"),
        (("--cells", "5"), "cells"),
        (("--set", "masks.weigths=x"), "Did you mean weights"),
        (("--set", "masks.precision=fp16"), "precision"),
        (("--set", "masks.threads=0"), "threads"),
        (("--masks", "priorpath"), "expected weights of priorpath, got those of depas. Use --masks depas"),
        (("--set", "masks.weights=nowhere"), "nowhere: expected weights, .* or a starter"),
    ],
)
def test_an_order_that_does_not_fit_the_weights_is_one_line_and_writes_nothing(
    changes: tuple[str, ...], said: str, weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    assert_refused(cli(*make_words("depas", weights("depas"), *changes)), said)
    assert list(tmp_path.iterdir()) == []


def test_a_part_typed_over_a_files_brings_its_own_weights(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "c.yaml").write_text(f"masks: {{name: depas, weights: {weights('depas')}, precision: fp32}}\n")
    words = ("factory", "make", "--config", "c.yaml", "--renderer", "palette", "--size", "32x64", "--n", 2)
    made = cli(*words, "--workers", 1)
    assert made.code == 0, made
    dcgan = (*words, "--masks", "dcgan", "--out", "other", "--dry-run")
    assert_refused(cli(*dcgan), "--masks dcgan: expected --set masks.weights=FILE")
    typed = cli(*dcgan, "--set", f"masks.weights={weights('dcgan')}")
    assert typed.code == 0, typed


def test_weights_of_a_scheme_of_ones_own_ask_for_its_file(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    import yaml

    own = {**get_scheme("tissue").to_dict(), "name": "own"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    whole = read_checkpoint(weights("depas"), WEIGHTS_KIND)
    write_weights(tmp_path / "w.safetensors", whole.tensors, {**whole.card, "scheme": own})
    words = make_words("depas", Path("w.safetensors"), "--tissue", "0.5", n=2)
    assert_refused(cli(*words), "--scheme: expected the YAML file of own, which the weights draw")
    made = cli(*words, "--scheme", "own.yaml")
    assert made.code == 0, made
    assert open_dataset(tmp_path / "data/synth").table["tissue_fraction"].to_pylist() == [0.5, 0.5]


# Where coarse maps come from.


def build(name: str, path: Path, **values: Any) -> Any:
    part = resolve(MASKS, name, "--masks")
    config = parse(part.Config, {"weights": str(path), "precision": "fp32", **values}, "masks")
    return part(part(config, "cpu").resolved_config())


def write_sketches(folder: Path, n: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(n):
        Image.fromarray(255 * blobs(seed, 2, (48, 96), sigma=9)).save(folder / f"{seed}.png")
    return folder


REQUEST = Request(*SIZE, 0.5, get_scheme("tissue"), tissue=0.5)


@pytest.fixture(params=["drawn", "sketches", "masks"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The config of each kind of coarse maps, with what it reads."""
    if request.param == "sketches":
        return {"coarse": "sketches", "coarse_from": str(write_sketches(tmp_path / "drawings"))}
    if request.param == "masks":
        root = write_blobs(tmp_path / "kept-out", n=3, split="test", group=lambda index: f"patient-{index}").root
        return {"coarse": "masks", "coarse_from": str(root)}
    return {"coarse": "drawn"}


@pytest.mark.parametrize("name", ["priorpath", "cyclegan"])
def test_coarse_maps_of_each_kind_are_a_function_of_the_seed(
    name: str, source: dict[str, Any], weights: Weights
) -> None:
    masks = build(name, weights(name), **source)
    assert masks.refusal(REQUEST) is None
    first = [masks.coarse_map(REQUEST, generator(seed, Stream.MASK)) for seed in range(6)]
    again = [build(name, weights(name), **source).coarse_map(REQUEST, generator(seed, Stream.MASK)) for seed in (5, 0)]
    np.testing.assert_array_equal(again[0], first[5])
    np.testing.assert_array_equal(again[1], first[0])
    assert len({coarse.tobytes() for coarse in first}) > 3
    for coarse in first:
        assert coarse.shape == SIZE
        assert coarse.dtype == np.uint8
        assert coarse.max() <= 1
    (scores,) = masks.draw([REQUEST], [generator(0, Stream.MASK)])
    assert int(allocate(scores, REQUEST, generator(0, Stream.TIES)).tile.semantic.sum()) == 1024


def test_make_with_each_kind_of_coarse_maps_verifies_and_replays(
    source: dict[str, Any], weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    assignments = [word for key, value in source.items() for word in ("--set", f"masks.{key}={value}")]
    done = cli(*make_words("priorpath", weights("priorpath"), "--tissue", "0.3-0.9", *assignments, n=3))
    assert done.code == 0, done
    assert verify(tmp_path / "data/synth") == []
    dataset = open_dataset(tmp_path / "data/synth")
    again = cli("factory", "replay", dataset.row(2)["sample_id"])
    assert again.code == 0, again
    assert "masks same bytes" in again.out
    groups = {f"kept-out/patient-{n}" for n in range(3)} if source["coarse"] == "masks" else set()
    assert set(dataset.info.training_sources) == {f"tissue/slide-{n}" for n in range(3)} | groups
    licences = {"licence of tissue", *(["licence of kept-out"] if groups else [])}
    assert set(dataset.info.licences) == licences


def test_the_network_sees_the_coarse_map_of_the_row(weights: Weights, tmp_path: Path) -> None:
    masks = build("cyclegan", weights("cyclegan"))
    coarse = masks.coarse_map(REQUEST, generator(4, Stream.MASK))
    logits = masks.logits(REQUEST, generator(4, Stream.MASK))
    masks.coarse_map = lambda request, rng: 1 - coarse
    assert not np.array_equal(masks.logits(REQUEST, generator(4, Stream.MASK)), logits)


def test_make_says_what_was_done_to_read_each_drawing(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    folder = write_sketches(tmp_path / "drawings", n=1)
    Image.fromarray(255 * blobs(5, 2, SIZE, sigma=9)).save(folder / "as-asked.png")
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    Image.fromarray(grey).save(folder / "grey.png")
    words = make_words(
        "priorpath", weights("priorpath"), "--set", "masks.coarse=sketches", "--set", "masks.coarse_from=drawings", n=2
    )
    for more in (("--dry-run",), ()):
        done = cli(*words, *more)
        assert done.code == 0, done
        assert done.out.count("note: ") == 3
        assert re.search(r"note: grey\.png: [\d.]+ % of it is grey, cut half-way at \d+ of 255\n", done.out)
        assert "note: grey.png: 64x64, resized to cover tiles of 32x64, so that some of it is cut off\n" in done.out
        assert "note: 0.png: 48x96, resized to cover tiles of 32x64\n" in done.out
    assert "note: " not in cli(*make_words("priorpath", weights("priorpath"), "--dry-run", n=2)).out


def test_masks_are_looked_at_once_and_those_with_ignored_pixels_left_out_by_all(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_blobs(tmp_path / "kept-out", n=4, split="test").root
    poke(root, 1, 255)
    part = resolve(MASKS, "priorpath", "--masks")
    values = {"weights": str(weights("priorpath")), "coarse": "masks", "coarse_from": str(root)}
    settled = part(parse(part.Config, values, "masks"), "cpu").resolved_config()
    monkeypatch.setattr("factory.learn.crops._survey", lambda *_: pytest.fail("looked at every mask again"))
    masks = part(pickle.loads(pickle.dumps(settled)))  # as it comes to a worker
    assert masks.tiles.rows == ((0, 0), (0, 2), (0, 3))
    assert masks.tiles.left_out == 1
    assert masks.tiles.sha256 == settled.coarse_sha256
    assert "kept-out/slide-0" in part(settled).training_sources()[0]
    assert parse(part.Config, settled.model_dump(mode="json"), "masks").coarse_sha256 == settled.coarse_sha256


@pytest.mark.parametrize("kind", ["sketches", "masks"])
def test_coarse_maps_that_changed_are_refused_on_replay(kind: str, weights: Weights, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "from"
    if kind == "sketches":
        write_sketches(folder)
    else:
        write_blobs(folder, n=3, split="test")
    assignments = ("--set", f"masks.coarse={kind}", "--set", "masks.coarse_from=from")
    assert cli(*make_words("priorpath", weights("priorpath"), *assignments, n=2)).code == 0
    sample_id = open_dataset(tmp_path / "data/synth").row(0)["sample_id"]
    shutil.rmtree(folder)
    if kind == "sketches":
        write_sketches(folder, n=3)
    else:
        write_blobs(folder, n=4, split="test")
    assert_refused(cli("factory", "replay", sample_id), "from: expected the coarse maps .*Put those back")
    shutil.rmtree(folder)
    assert_refused(cli("factory", "replay", sample_id), "from: expected")


def test_kernels_come_from_the_card(weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def drawn(rng: Any, request: Any, config: LayoutConfig) -> np.ndarray:
        seen.append((config.opening_px, config.closing_px))
        return np.zeros(SIZE, np.uint8)

    def augmented(sketches: Any, rng: Any, height: int, width: int, config: AugmentSketchConfig) -> np.ndarray:
        seen.append((config.opening_px, config.closing_px))
        return np.zeros(SIZE, np.uint8)

    def coarse(labels: Any, classes: int, *, opening_px: int, closing_px: int, order: Any) -> np.ndarray:
        seen.append((opening_px, closing_px))
        return np.zeros(SIZE, np.uint8)

    monkeypatch.setattr("factory.masks.learned.coarse_to_fine.drawn_coarse", drawn)
    monkeypatch.setattr("factory.masks.learned.coarse_to_fine.augment_sketch", augmented)
    monkeypatch.setattr("factory.masks.learned.coarse_to_fine.coarsen", coarse)
    root = write_blobs(tmp_path / "kept-out", n=2, split="test").root
    for values in (
        {"coarse": "drawn", "layout": {"opening_px": 9}},
        {"coarse": "sketches", "coarse_from": str(write_sketches(tmp_path / "drawings"))},
        {"coarse": "masks", "coarse_from": str(root)},
    ):
        build("priorpath", weights("priorpath"), **values).coarse_map(REQUEST, generator(0, Stream.MASK))
    assert seen == [(3, 6)] * 3  # those of the trainer, whatever the config says


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"coarse": "sketches"}, "coarse_from: expected a folder with coarse: sketches"),
        ({"coarse": "masks"}, "coarse_from: expected folders of data sets with coarse: masks"),
        ({"coarse": "sketches", "coarse_from": ["a", "b"]}, "coarse_from: expected a folder with coarse: sketches"),
        ({"coarse_from": "x"}, "coarse_from: expected none with coarse: drawn. Use --set masks.coarse=sketches, or =m"),
        ({"coarse": "scribbles"}, "coarse: expected 'drawn', 'sketches' or 'masks'"),
        ({"coarse": "sketches", "coarse_from": "nowhere"}, "nowhere: expected a folder of PNG drawings"),
        ({"coarse": "masks", "coarse_from": "nowhere"}, "nowhere: expected a data set"),
    ],
)
def test_coarse_maps_that_are_not_there_are_refused(values: dict[str, Any], said: str, weights: Weights) -> None:
    with pytest.raises(UserError, match=said):
        build("priorpath", weights("priorpath"), **values)


def test_masks_smaller_than_the_tile_of_another_split_or_resolution_are_refused(
    weights: Weights, tmp_path: Path
) -> None:
    root = write_blobs(tmp_path / "kept-out", n=2, size=(32, 64), split="test").root
    masks = build("priorpath", weights("priorpath"), coarse="masks", coarse_from=str(root))
    assert masks.refusal(REQUEST) is None
    refusal = masks.refusal(Request(64, 64, 0.5, get_scheme("tissue")))
    assert refusal == f"size: {root} has masks of 32x64, got 64x64"
    said = (
        r"^masks\.coarse_from: expected tiles with split val, got 0\. Name other.* --set masks\.coarse_split=SPLIT\.$"
    )
    with pytest.raises(UserError, match=said):
        build("priorpath", weights("priorpath"), coarse="masks", coarse_from=str(root), coarse_split="val")
    fine = write_blobs(tmp_path / "finer", n=2, split="test", mpp=0.25).root
    masks = build("priorpath", weights("priorpath"), coarse="masks", coarse_from=str(fine))
    assert (
        masks.refusal(REQUEST)
        == f"mpp: the weights of priorpath take coarse masks at 0.5 um per pixel, {fine} has 0.25"
    )


def test_coarse_maps_come_from_every_data_set_that_is_named(weights: Weights, tmp_path: Path) -> None:
    roots = [write_blobs(tmp_path / name, n=2, split="test").root for name in ("a", "b")]
    masks = build("priorpath", weights("priorpath"), coarse="masks", coarse_from=[str(root) for root in roots])
    assert len(masks.tiles) == 4
    assert {"a/slide-0", "b/slide-0"} < set(masks.training_sources()[0])


# What comes with the package.


STARTERS = [path for path in sorted(STARTER.glob("*.safetensors")) if read_card(path).kind == WEIGHTS_KIND]


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.stem)
def test_starter_weights_are_small_known_and_draw_what_is_asked(path: Path) -> None:
    assert path.stat().st_size <= 16_000_000
    card = read_card(path, WEIGHTS_KIND)
    name = card.fields["generator"]
    assert path.stem.startswith(f"{name}-")
    assert card.fields["sources"]
    assert card.fields["licences"]
    assert "not for diagnosis" in card.fields["use"]
    masks = build(name, path)
    request = Request(128, 128, card.fields["mpp"], get_scheme("tissue"), tissue=0.6)
    assert masks.refusal(request) is None
    shifts = []
    for seed in range(4):
        (scores,) = masks.draw([request], [generator(seed, Stream.MASK)])
        allocation = allocate(scores, request, generator(seed, Stream.TIES))
        assert int(allocation.tile.semantic.sum()) == round(0.6 * 128 * 128)
        shifts.append(allocation.shift)
    assert np.isfinite(shifts).all()
