"""Stores -> batches: projection, mixing, views, the decoded cache, the loader, and the guards against leaks."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.runs import RunSpec, open_run, write_shard
from manifests import Dataset, DatasetInfo, Tile, get_scheme, open_dataset
from manifests.errors import UserError
from manifests.store import Layout
from segment.augmentation import AugmentConfig, draw_view, recolour, take
from segment.data import BatchLoader, DecodedTiles, MixingSampler, Tiles
from segment.sources import Mix, Source, check_leaks, choose_scheme, open_sources, parse_mix, refuse_tested_groups

PLAIN = AugmentConfig(dihedral=False, warp_probability=0, density_gain=0, brightness=0)
EXACT = AugmentConfig(warp_probability=0, density_gain=0, brightness=0)
Make = Callable[..., Dataset]


def tiles_of(dataset: Dataset, folder: Path, scheme: str | None = None, budget: int = 1 << 20) -> Tiles:
    reader = DecodedTiles(dataset.store, ("image", "semantic"), folder, budget)
    return Tiles(dataset, get_scheme(scheme or dataset.schemes[0].name), reader)


def sampler_of(tiles: tuple[Tiles, ...], share: float = 0.0, **options: object) -> MixingSampler:
    values: dict[str, object] = {"batch": 4, "seed": 1, "crop": (32, 64), "augment": PLAIN, **options}
    return MixingSampler(tiles, share, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("real", Mix(("real",), 0.0)),
        ("synth", Mix(("synth",), 1.0)),
        ("real+synth", Mix(("real", "synth"), None)),
        ("real+synth:0.3", Mix(("real", "synth"), 0.3)),
        ("real+synth:.25", Mix(("real", "synth"), 0.25)),
    ],
)
def test_mix_is_read_as_written(text: str, mix: Mix) -> None:
    assert parse_mix(text) == mix


@pytest.mark.parametrize(
    "text", ["", "reel", "real+synth:", "real+synth:0", "real+synth:1", "real+synth:1.5", "real:0.3"]
)
def test_mix_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--mix: expected real, synth"):
        parse_mix(text)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, 9), st.integers(0, 400))
def test_sampler_keeps_the_share_to_half_a_tile_after_any_number_of_batches(
    share: float, batch: int, steps: int
) -> None:
    sampler = sampler_of((range(5), range(7)), share, batch=batch)  # type: ignore[arg-type]
    plans = [sampler.plan(step) for step in range(steps, steps + 3)]
    assert {len(plan) for plan in plans} == {batch}
    drawn = sum(source == 1 for plan in plans for source, _ in plan)
    assert abs(drawn - 3 * batch * share) <= 1 + 1e-9  # half a tile at either end


def test_sampler_shows_every_tile_once_per_epoch_in_another_order(dataset_factory: Make, tmp_path: Path) -> None:
    sampler = sampler_of((tiles_of(dataset_factory("real", n=8), tmp_path),))
    orders = [
        [position for step in (2 * epoch, 2 * epoch + 1) for _, position in sampler.plan(step)] for epoch in range(6)
    ]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_a_batch_depends_on_its_step_and_seed_alone(dataset_factory: Make, tmp_path: Path) -> None:
    dataset = dataset_factory("real", n=8)
    augment = AugmentConfig()
    forward = sampler_of((tiles_of(dataset, tmp_path),), augment=augment)
    expected = {step: forward.draw(step) for step in range(4)}
    backward = sampler_of((tiles_of(dataset, tmp_path, budget=0),), augment=augment)
    for step in reversed(range(4)):
        again = backward.draw(step)
        assert np.array_equal(again.images, expected[step].images)
        assert np.array_equal(again.labels, expected[step].labels)
    assert not np.array_equal(replace(forward, seed=2).draw(0).images, expected[0].images)


def test_batches_are_in_the_common_scheme(dataset_factory: Make, tmp_path: Path) -> None:
    nuclei, ihc = dataset_factory("nuclei"), dataset_factory("ihc", scheme="ihc", source="synthetic")
    sampler = sampler_of((tiles_of(nuclei, tmp_path), tiles_of(ihc, tmp_path, "nuclei")), 0.5, crop=(64, 64))
    found = Counter(np.concatenate([sampler.draw(step).labels.ravel() for step in range(4)]).tolist())
    assert set(found) == {0, 1}


def test_a_plain_view_is_the_tiles_own_pixels(dataset_factory: Make, tmp_path: Path) -> None:
    dataset = dataset_factory("real", n=2)
    sample = dataset[0]
    image, labels = tiles_of(dataset, tmp_path).view(0, np.random.default_rng(0), (64, 96), PLAIN)
    assert np.array_equal(image, sample.image)
    assert np.array_equal(labels, sample.tile.semantic)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 20), st.integers(8, 20), st.integers(20, 30), st.integers(20, 30))
def test_exact_views_move_image_classes_and_instances_alike(seed: int, h: int, w: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 5, (height, width)).astype(np.uint8)
    instance = rng.integers(0, 2**31 - 1, (height, width)).astype(np.int32)
    image = np.stack([semantic, instance % 251, instance % 241], axis=-1).astype(np.uint8)
    taken, (classes, ids) = take(draw_view(rng, (height, width), (h, w), EXACT), image, [semantic, instance])
    assert taken.shape == (h, w, 3)
    assert (classes.dtype, ids.dtype) == (np.uint8, np.int32)
    assert np.array_equal(taken[..., 0], classes)
    assert np.array_equal(taken[..., 1], ids % 251)
    assert set(ids.ravel().tolist()) <= set(instance.ravel().tolist())
    assert len(set(ids.ravel().tolist())) == len(set(ids.ravel().tolist()) & set(instance.ravel().tolist()))


def test_exact_views_of_a_square_are_its_eight_symmetries() -> None:
    tile = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image, rng = np.repeat(tile[..., None], 3, axis=2), np.random.default_rng(0)
    seen = Counter(take(draw_view(rng, (4, 4), (4, 4), EXACT), image, [tile])[1][0].tobytes() for _ in range(400))
    turns = [np.rot90(side, turn) for side in (tile, tile.T) for turn in range(4)]
    assert set(seen) == {np.ascontiguousarray(turn).tobytes() for turn in turns}
    assert min(seen.values()) > 25


def test_a_warped_view_keeps_labels_on_what_they_label() -> None:
    rows, columns = np.indices((96, 96))
    semantic = ((rows // 24 + columns // 24) % 3).astype(np.uint8)
    image = np.repeat(semantic[..., None] * 100, 3, axis=2).astype(np.uint8)
    warp = AugmentConfig(warp_probability=1, density_gain=0, brightness=0)
    rng, agreement = np.random.default_rng(4), []
    for _ in range(20):
        taken, (labels,) = take(draw_view(rng, (96, 96), (64, 64), warp), image, [semantic])
        inside = np.abs(taken[..., 0].astype(int) - labels.astype(int) * 100) <= 50  # interpolation at the seams
        agreement.append(inside.mean())
        assert set(np.unique(labels)) <= {0, 1, 2}
    assert min(agreement) > 0.98


def test_a_warped_view_larger_than_its_tile_reads_no_pixel_outside() -> None:
    tile = np.full((40, 40), 7, np.uint8)
    image, rng = np.full((40, 40, 3), 90, np.uint8), np.random.default_rng(0)
    warp = AugmentConfig(warp_probability=1, rotate_degrees=45, scale=0.5)
    for _ in range(30):
        taken, (labels,) = take(draw_view(rng, (40, 40), (40, 40), warp), image, [tile])
        assert (taken == 90).all()
        assert (labels == 7).all()


def test_a_crop_larger_than_the_tile_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        draw_view(np.random.default_rng(0), (32, 32), (64, 32), PLAIN)


def test_recolouring_keeps_white_and_the_order_of_grey_levels() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    config = AugmentConfig(brightness=0)
    for seed in range(20):
        changed = recolour(image, np.random.default_rng(seed), config)
        assert (changed[0, 255] == 255).all()
        assert (np.diff(changed[0].astype(int), axis=0) >= 0).all()
        assert np.abs(changed.astype(int) - image).max() < 30
    assert np.array_equal(recolour(image, np.random.default_rng(0), PLAIN), image)


@pytest.mark.parametrize("room", [0, 2, 99])
def test_decoded_tiles_are_the_stores_own_whatever_fits(dataset_factory: Make, tmp_path: Path, room: int) -> None:
    dataset = dataset_factory("real", n=5)
    names = ("image", "semantic", "instance")
    reader = DecodedTiles(dataset.store, names, tmp_path, room * 64 * 96 * 8)
    for index in (3, 0, 3, 4, 1, 2, 0, 4, 4):
        for name, array in zip(names, reader.read(index), strict=True):
            expected = dataset.store.read(index, name)
            assert array.dtype == expected.dtype
            assert np.array_equal(array, expected)


def test_decoded_tiles_leave_no_file_and_survive_a_full_disk(
    dataset_factory: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_factory("real", n=4)
    folder = tmp_path / "run"
    folder.mkdir()
    reader = DecodedTiles(dataset.store, ("image",), folder, 1 << 20)
    reader.read(0)

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    for index in (1, 0, 1, 2):
        assert np.array_equal(reader.read(index)[0], dataset.store.read(index, "image"))
    assert list(folder.iterdir()) == []


def test_loader_gives_every_step_in_order_and_stops() -> None:
    with BatchLoader(lambda step: step, 3, 9) as loader:  # type: ignore[arg-type, return-value]
        assert list(loader) == [3, 4, 5, 6, 7, 8]
        assert loader.waited_s >= 0


def test_loader_passes_on_what_went_wrong_while_drawing() -> None:
    def draw(step: int) -> int:
        raise UserError(f"step {step}: damaged.")

    with BatchLoader(draw, 0, 9) as loader, pytest.raises(UserError, match="step 0"):  # type: ignore[arg-type]
        next(loader)


def test_common_scheme_is_the_richest_and_may_be_asked_for(dataset_factory: Make) -> None:
    sources = [
        Source("real", dataset_factory("a", scheme="ihc")),
        Source("synth", dataset_factory("b", scheme="nuclei")),
    ]
    assert choose_scheme(sources, None).name == "nuclei"
    assert choose_scheme(sources[:1], None).name == "ihc"
    assert choose_scheme(sources[:1], "nuclei").name == "nuclei"
    with pytest.raises(UserError, match="expected a projection onto one of nuclei, got ihc"):
        choose_scheme(sources, "ihc")
    with pytest.raises(UserError, match="Did you mean nuclei"):
        choose_scheme(sources, "nuclie")


def test_sources_without_a_common_scheme_are_refused(dataset_factory: Make) -> None:
    sources = [
        Source("real", dataset_factory("a", scheme="nuclei")),
        Source("synth", dataset_factory("b", scheme="pdl1")),
    ]
    with pytest.raises(UserError, match="expected data sets with a common scheme, got nuclei, pdl1"):
        choose_scheme(sources, None)


def test_missing_unfinished_and_misnamed_sources_say_what_to_do(dataset_factory: Make, tmp_path: Path) -> None:
    real, synth = dataset_factory("r").root, dataset_factory("s", source="synthetic").root
    with pytest.raises(UserError, match="factory ingest IMAGES --out"):
        open_sources(parse_mix("real"), tmp_path / "none", synth)
    with pytest.raises(UserError, match="factory make --out"):
        open_sources(parse_mix("synth"), real, tmp_path / "none")
    with pytest.raises(UserError, match="expected real tiles, got synthetic"):
        open_sources(parse_mix("real"), synth, synth)
    with pytest.raises(UserError, match="expected synthetic tiles, got real"):
        open_sources(parse_mix("synth"), real, real)
    (real / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="expected a finished data set"):
        open_sources(parse_mix("real"), real, synth)


def write_rows(out: Path, rows: list[dict[str, object]], *, synthetic: bool, sources: tuple[str, ...] = ()) -> Dataset:
    """A data set of blank tiles whose rows have the given columns."""
    scheme = get_scheme("nuclei")
    info = DatasetInfo(synthetic, "tests", (scheme,), training_sources=sources)
    spec = RunSpec(out, {"rows": len(rows)}, Layout(len(rows), 32, 32, 8), info)
    blank = Tile(np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.int32), 0.5, scheme)
    source = "synthetic" if synthetic else "real"
    full = [
        {
            "sample_id": f"{source}-{n}",
            "source": source,
            "height": 32,
            "width": 32,
            "mpp": 0.5,
            "label_scheme": "nuclei",
            **row,
        }
        for n, row in enumerate(rows)
    ]
    with open_run(spec) as run:
        run.done[0] = write_shard(spec, 0, ((np.zeros((32, 32, 3), np.uint8), blank, row) for row in full))
        run.finish()
    return open_dataset(out)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_group_in_train_and_another_split_is_refused(tmp_path: Path, split: str) -> None:
    rows = [
        {"split": "train", "group_id": "p1"},
        {"split": split, "group_id": "p1"},
        {"split": split, "group_id": "p2"},
    ]
    source = Source("real", write_rows(tmp_path / "d", rows, synthetic=False))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"got 'p1' in train and {split} \(1 such\)"):
        check_leaks([source])


@pytest.mark.parametrize(
    ("listed", "group", "leaks"),
    [
        ("monuseg/TCGA-1", None, True),
        ("TCGA-1", None, True),
        ("fitted to TCGA-1 and others", None, True),
        ("monuseg/TCGA-12", None, False),
        ("monuseg/TCGA-2", None, False),
        ("anything", "TCGA-1", True),
    ],
)
def test_synthetic_tiles_that_come_from_the_test_split_are_refused(
    tmp_path: Path, listed: str, group: str | None, leaks: bool
) -> None:
    real_rows: list[dict[str, object]] = [
        {"split": "train", "group_id": "TCGA-2"},
        {"split": "test", "group_id": "TCGA-1"},
    ]
    real = Source("real", write_rows(tmp_path / "r", real_rows, synthetic=False))
    synth_rows: list[dict[str, object]] = [{"split": "train", "group_id": group}]
    synth = Source("synth", write_rows(tmp_path / "s", synth_rows, synthetic=True, sources=(listed,)))
    if leaks:
        with pytest.raises(UserError, match="got its group 'TCGA-1'"):
            check_leaks([real, synth])
    else:
        check_leaks([real, synth])


def test_group_names_are_matched_as_whole_words() -> None:
    refuse_tested_groups("x", ["set/slide 10", "a.b"], {"slide 1", "b", "set/slide 1"})
    with pytest.raises(UserError, match="'slide 10'"):
        refuse_tested_groups("x", ["set/slide 10"], {"slide 10"})
