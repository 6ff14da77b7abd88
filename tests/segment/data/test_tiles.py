"""Stores -> batches: projection, mixing, class balance, the decoded cache, the loader, and the guards against leaks."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.loader import BatchLoader
from factory.core.runs import RunSpec, open_run, write_shard
from manifests import Dataset, DatasetInfo, Tile, get_scheme, open_dataset
from manifests.errors import UserError
from manifests.store import Layout
from segment.data.augmentation import AugmentConfig, draw_transform, take
from segment.data.decoded import DecodedTiles
from segment.data.mixing import Mix, Shares, parse_mix
from segment.data.sampling import Draw, MixingSampler, SamplingConfig, draw_generator
from segment.data.sources import Source, check_leaks, choose_scheme, open_sources, refuse_tested_groups
from segment.data.stains import MacenkoConfig, Stains, estimate_stains, restain
from segment.data.targets import distance_target
from segment.data.tiles import Batch, Tiles, _draw_pixel

PLAIN = AugmentConfig.none()
EXACT = PLAIN.model_copy(update={"dihedral": True})
Make = Callable[..., Dataset]


def tiles_of(
    dataset: Dataset, folder: Path, scheme: str | None = None, budget: int = 1 << 20, *, distances: bool = False
) -> Tiles:
    return Tiles(dataset, get_scheme(scheme or dataset.schemes[0].name), folder, budget, distances=distances)


def assert_same(batch: Batch, other: Batch) -> None:
    assert np.array_equal(batch.images, other.images)
    assert np.array_equal(batch.labels, other.labels)
    assert batch.distances is not None
    assert other.distances is not None
    assert np.array_equal(batch.distances, other.distances)


@dataclass(frozen=True)
class Numbered:
    """So many tiles, of which only the number counts."""

    n: int
    weights: None = None

    def __len__(self) -> int:
        return self.n


def sampler_of(tiles: tuple[Tiles, ...], share: float = 0.0, **options: object) -> MixingSampler:
    values: dict[str, object] = {"batch": 4, "seed": 1, "crop": (32, 64), "augment": PLAIN, **options}
    return MixingSampler(tiles, Shares.constant(share), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("real", Mix(("real",), 0.0)),
        ("synth", Mix(("synth",), 1.0)),
        ("real+synth", Mix(("real", "synth"), None)),
        ("real+synth:0.3", Mix(("real", "synth"), 0.3)),
        ("real+synth:.25", Mix(("real", "synth"), 0.25)),
        ("real+synth:0.75..0", Mix(("real", "synth"), 0.75, 0.0)),
        ("synth-then-real", Mix(("real", "synth"), 0.0, pretrained=0.5)),
        ("synth-then-real:0.3", Mix(("real", "synth"), 0.0, pretrained=0.3)),
    ],
)
def test_mix_is_read_as_written(text: str, mix: Mix) -> None:
    assert parse_mix(text) == mix


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reel",
        "real+synth:",
        "real+synth:0",
        "real+synth:1",
        "real+synth:1.5",
        "real:0.3",
        "real+synth:0.5..0.5",
        "real+synth:0.5..2",
        "synth-then-real:1",
        "synth-then-real:",
    ],
)
def test_mix_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--mix: expected real, synth"):
        parse_mix(text)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, 9), st.integers(0, 400))
def test_sampler_keeps_the_share_to_half_a_tile_after_any_number_of_batches(
    share: float, batch: int, steps: int
) -> None:
    sampler = sampler_of((Numbered(5), Numbered(7)), share, batch=batch)  # type: ignore[arg-type]
    plans = [sampler.plan(step) for step in range(steps, steps + 3)]
    assert {len(plan) for plan in plans} == {batch}
    drawn = sum(slot.source == 1 for plan in plans for slot in plan)
    assert abs(drawn - 3 * batch * share) <= 1 + 1e-9  # half a tile at either end


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 0.9), st.integers(1, 9), st.integers(2, 200))
def test_a_changing_share_is_the_mean_of_both_ends_after_pretraining(
    first: float, last: float, pretrained: float, batch: int, steps: int
) -> None:
    mix = Mix(("real", "synth"), first, last, pretrained)
    shares, alone = mix.shares(0.5, steps, batch), mix.pretraining_steps(steps)
    sampler = sampler_of((Numbered(5), Numbered(7)), batch=batch)  # type: ignore[arg-type]
    sampler = replace(sampler, second=shares)
    drawn = [sum(slot.source == 1 for slot in sampler.plan(step)) for step in range(steps)]
    assert drawn[:alone] == [batch] * alone
    left = (steps - alone) * batch
    assert abs(sum(drawn[alone:]) - left * (first + last) / 2) <= 0.5 + 1e-6
    middle = alone + (steps - alone) // 2
    if (steps - alone) % 2 == 0:  # the first half has its share of the change
        assert abs(sum(drawn[alone:middle]) - left / 2 * (0.75 * first + 0.25 * last)) <= 0.5 + 1e-6


def test_sampler_shows_every_tile_once_per_epoch_in_another_order(dataset_factory: Make, tmp_path: Path) -> None:
    sampler = sampler_of((tiles_of(dataset_factory("real", n=8), tmp_path),))
    orders = [
        [slot.position for step in (2 * epoch, 2 * epoch + 1) for slot in sampler.plan(step)] for epoch in range(6)
    ]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_a_batch_depends_on_its_step_and_seed_alone(dataset_factory: Make, tmp_path: Path) -> None:
    dataset = dataset_factory("real", n=8)
    options = {"augment": AugmentConfig(), "class_balance": 0.5}
    forward = sampler_of((tiles_of(dataset, tmp_path, distances=True),), **options)
    expected = {step: forward.draw(step) for step in range(4)}
    backward = sampler_of((tiles_of(dataset, tmp_path, budget=0, distances=True),), **options)
    for step in reversed(range(4)):
        assert_same(backward.draw(step), expected[step])
    assert not np.array_equal(replace(forward, seed=2).draw(0).images, expected[0].images)


def test_batches_do_not_depend_on_the_number_of_threads(dataset_factory: Make, tmp_path: Path) -> None:
    dataset = dataset_factory("real", n=8)
    options = {"augment": AugmentConfig(), "class_balance": 0.3}
    expected = [sampler_of((tiles_of(dataset, tmp_path, distances=True),), **options).draw(step) for step in range(20)]
    shared = sampler_of((tiles_of(dataset, tmp_path, distances=True),), **options)
    with BatchLoader(shared.draw, 0, 20, threads=4) as loader:
        for batch, wanted in zip(loader, expected, strict=True):
            assert_same(batch, wanted)


def test_batches_are_in_the_common_scheme(dataset_factory: Make, tmp_path: Path) -> None:
    nuclei, ihc = dataset_factory("nuclei"), dataset_factory("ihc", scheme="ihc", source="synthetic")
    sampler = sampler_of((tiles_of(nuclei, tmp_path), tiles_of(ihc, tmp_path, "nuclei")), 0.5, crop=(64, 64))
    found = Counter(np.concatenate([sampler.draw(step).labels.ravel() for step in range(4)]).tolist())
    assert set(found) == {0, 1}


def masks_to_dataset(out: Path, masks: list[np.ndarray], scheme: str = "ihc") -> Dataset:
    """A data set of one tile for each mask."""
    label_scheme = get_scheme(scheme)
    height, width = masks[0].shape
    info = DatasetInfo(False, "tests", (label_scheme,))
    spec = RunSpec(out, {"masks": len(masks)}, Layout(len(masks), height, width, len(masks)), info)
    samples = []
    for number, mask in enumerate(masks):
        tile = Tile(mask, np.zeros(mask.shape, np.int32), 0.5, label_scheme)
        row = {"sample_id": f"t-{number}", "source": "real", "height": height, "width": width, "mpp": 0.5}
        samples.append((np.repeat(mask[..., None], 3, axis=2), tile, {**row, "label_scheme": scheme}))
    with open_run(spec) as run:
        run.add(write_shard(spec, 0, iter(samples)))
        run.finish()
    return open_dataset(out)


def rare_masks() -> list[np.ndarray]:
    """Background everywhere; class 1 in tiles 0 and 1 as 1 : 3; class 2 as a single pixel of tile 2; tile 3 ignored."""
    masks = [np.zeros((96, 128), np.uint8) for _ in range(4)]
    masks[0][10:20, 30:40], masks[1][40:60, 70:85], masks[2][70, 9], masks[3][:] = 1, 1, 2, 255
    return masks


def within(count: int, draws: int, share: float) -> bool:
    """Five standard deviations of a binomial count: one chance in a million to fail, and seeds are fixed."""
    return abs(count - draws * share) <= 5 * np.sqrt(draws * share * (1 - share)) + 1


def test_class_balance_looks_for_every_class_as_often_in_tiles_by_their_share(tmp_path: Path) -> None:
    tiles = tiles_of(masks_to_dataset(tmp_path / "d", rare_masks()), tmp_path)
    sampler = sampler_of((tiles,), class_balance=1.0)
    slots = [slot for step in range(750) for slot in sampler.plan(step)]
    wanted = Counter(slot.wanted for slot in slots)
    assert set(wanted) == {0, 1, 2}
    assert all(within(count, 3000, 1 / 3) for count in wanted.values())
    of_one = Counter(slot.position for slot in slots if slot.wanted == 1)
    assert set(of_one) == {0, 1}
    assert within(of_one[1], wanted[1], 0.75)
    assert {slot.position for slot in slots if slot.wanted == 2} == {2}
    of_background = Counter(slot.position for slot in slots if slot.wanted == 0)
    shares = [float((mask == 0).mean()) for mask in rare_masks()]
    assert all(within(of_background[n], wanted[0], share / sum(shares)) for n, share in enumerate(shares))


def test_a_view_that_looks_for_a_class_holds_it(tmp_path: Path) -> None:
    tiles = tiles_of(masks_to_dataset(tmp_path / "d", rare_masks()), tmp_path)
    sampler = sampler_of((tiles,), class_balance=1.0, augment=EXACT)
    for step in range(40):
        batch = sampler.draw(step)
        for slot, labels in zip(sampler.plan(step), batch.labels, strict=True):
            assert (labels == slot.wanted).any()


def test_every_pixel_of_a_class_is_as_likely_to_be_looked_for(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    places = [(32, 20), (40, 28), (24, 44)]
    for place in places:
        mask[place] = 2
    tiles = tiles_of(masks_to_dataset(tmp_path / "d", [mask]), tmp_path)
    found: Counter[tuple[int, int]] = Counter()
    for seed in range(600):
        labels = tiles.crop(0, np.random.default_rng(seed), (4, 4), PLAIN, wanted=2).labels
        assert (labels == 2).sum() == 1
        pixel = _draw_pixel(mask, 2, np.random.default_rng(seed))
        assert pixel is not None
        found[pixel] += 1
    assert set(found) == set(places)
    assert all(within(count, 600, 1 / 3) for count in found.values())


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.0, 1.0), st.integers(1, 9), st.integers(1, 60))
def test_source_share_and_class_balance_hold_together(share: float, balance: float, batch: int, steps: int) -> None:
    class Listed:
        weights = None

        def __len__(self) -> int:
            return 3

        def draw_class(self, rng: np.random.Generator) -> tuple[int, int]:
            return 1, int(rng.integers(3))

    sampler = sampler_of((Listed(), Listed()), share, batch=batch, class_balance=balance)  # type: ignore[arg-type]
    slots = [slot for step in range(steps) for slot in sampler.plan(step)]
    for source, of_source in ((0, 1 - share), (1, share)):
        own = [slot for slot in slots if slot.source == source]
        assert abs(len(own) - len(slots) * of_source) <= 0.5 + 1e-9
        assert abs(sum(slot.wanted is not None for slot in own) - len(own) * balance) <= 0.5 + 1e-9
        walked = [slot.position for slot in own if slot.wanted is None]
        for start in range(0, len(walked) - 2, 3):
            assert sorted(walked[start : start + 3]) == [0, 1, 2]


def test_class_balance_counts_in_the_networks_scheme(tmp_path: Path) -> None:
    tiles = tiles_of(masks_to_dataset(tmp_path / "d", rare_masks()), tmp_path, "nuclei")
    assert np.allclose(tiles.class_shares[:, 1], [100 / 12288, 300 / 12288, 1 / 12288, 0])
    assert np.allclose(tiles.class_shares.sum(1), [1, 1, 1, 0])


def test_class_balance_with_nothing_labelled_walks_through_the_tiles(tmp_path: Path) -> None:
    tiles = tiles_of(masks_to_dataset(tmp_path / "d", [np.full((64, 64), 255, np.uint8)] * 2), tmp_path)
    plan = sampler_of((tiles,), class_balance=1.0).plan(0)
    assert {slot.wanted for slot in plan} == {None}


def test_class_balance_counts_the_masks_where_the_manifest_does_not_say(tmp_path: Path) -> None:
    dataset = masks_to_dataset(tmp_path / "d", rare_masks())
    position = dataset.table.column_names.index("class_fractions")
    field = dataset.table.schema.field(position)
    silent = replace(dataset, table=dataset.table.set_column(position, field, pa.nulls(len(dataset), field.type)))
    for scheme in ("ihc", "nuclei"):
        said, counted = (tiles_of(rows, tmp_path, scheme).class_shares for rows in (dataset, silent))
        assert np.allclose(said, counted)


def test_crops_get_the_stains_of_real_tiles_and_of_further_references(
    dataset_factory: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = dataset_factory("real", n=3), dataset_factory("synth", source="synthetic", n=4, seed=1)
    tiles = tuple(tiles_of(part, tmp_path) for part in parts)
    images = [[part.store.read(row, "image") for row in range(len(part))] for part in parts]
    known = {image.tobytes(): found for image in (*images[0], *images[1]) if (found := estimate_stains([image]))}
    assert len(known) == 7
    further = Stains(haematoxylin=(0.6, 0.8, 0.0), eosin=(0.0, 0.8, 0.6), strength=(1.0, 2.0))
    targets = [known[image.tobytes()] for image in images[0]]
    crop = images[0][0].shape[:2]
    options = {
        "share": 0.5,
        "crop": crop,
        "augment": PLAIN.model_copy(update={"macenko": MacenkoConfig(probability=1)}),
    }
    for references in ((), (further,)):
        sampler = sampler_of(tiles, references=references, **options)
        seen, allowed = Counter[int](), [*targets, *references]
        for step in range(12):
            for slot, image in zip(sampler.plan(step), sampler.draw(step).images, strict=True):
                own = images[slot.source][slot.position]
                made = [restain(own, known[own.tobytes()], target).tobytes() for target in allowed]
                assert image.tobytes() in made
                seen[made.index(image.tobytes())] += 1
        assert set(seen) == set(range(len(allowed)))
    assert 12 < seen[3] < 36  # half of the 48 have the further one


def test_streams_of_training_keep_their_numbers() -> None:
    assert {draw.name: int(draw) for draw in Draw} == {"ORDER": 100, "VIEW": 101, "CLASS": 102, "SUBSET": 103}
    places = [(stream, place) for stream in Draw for place in range(3)]
    assert len({draw_generator(0, stream, place).random() for stream, place in places}) == len(places)
    assert SamplingConfig(class_balance=0).class_balance == 0


def test_a_plain_view_is_the_tiles_own_pixels(dataset_factory: Make, tmp_path: Path) -> None:
    dataset = dataset_factory("real", n=2)
    sample = dataset[0]
    tiles = tiles_of(dataset, tmp_path)
    for _ in range(2):  # decoded, then from the cache
        crop = tiles.crop(0, np.random.default_rng(0), (64, 96), PLAIN)
        assert np.array_equal(crop.image, sample.image)
        assert np.array_equal(crop.labels, sample.tile.semantic)
        assert crop.distances is None


def test_distances_are_cut_from_those_of_the_whole_tile(dataset_factory: Make, tmp_path: Path) -> None:
    dataset = dataset_factory("ihc", n=6, scheme="ihc")
    tile = dataset[5].tile
    whole = distance_target(tile.instance, tile.semantic > 0)
    tiles = tiles_of(dataset, tmp_path, "nuclei", distances=True)
    for seed in range(20):
        crop = tiles.crop(5, np.random.default_rng(seed), (32, 32), PLAIN)
        transform = draw_transform(np.random.default_rng(seed), (64, 96), (32, 32), PLAIN)
        _, (expected,) = take(transform, dataset[5].image, [whole])
        assert np.array_equal(crop.distances, expected)
        assert np.array_equal(np.asarray(crop.distances) > 0, crop.labels == 1)


def test_distances_are_unknown_where_nobody_told_nuclei_apart_and_where_nothing_is_labelled(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:20, 8:20], mask[30:40], mask[50:] = 1, 2, 255
    tiles = tiles_of(masks_to_dataset(tmp_path / "d", [mask]), tmp_path, "nuclei", distances=True)
    crop = tiles.crop(0, np.random.default_rng(0), (64, 64), PLAIN)
    assert np.array_equal(crop.distances, np.where(mask > 0, 255, 0))
    assert np.array_equal(crop.labels, np.array([0, 1, 1, *[255] * 253])[mask])


@pytest.mark.parametrize("room", [0, 2, 99])
def test_decoded_tiles_are_the_stores_own_whatever_fits(dataset_factory: Make, tmp_path: Path, room: int) -> None:
    dataset = dataset_factory("real", n=5)
    names = ("image", "semantic", "instance")
    decoded: Counter[int] = Counter()

    def decode(position: int) -> list[np.ndarray]:
        decoded[position] += 1
        return [dataset.store.read(position, name) for name in names]

    reader = DecodedTiles(decode, 5, tmp_path, room * 64 * 96 * 8)
    for index in (3, 0, 3, 4, 1, 2, 0, 4, 4):
        for name, array in zip(names, reader.read(index), strict=True):
            expected = dataset.store.read(index, name)
            assert array.dtype == expected.dtype
            assert np.array_equal(array, expected)
    assert decoded == {0: {0: 2, 1: 1, 2: 1, 3: 2, 4: 3}, 2: {0: 1, 1: 1, 2: 1, 3: 1, 4: 3}}.get(
        room, dict.fromkeys(range(5), 1)
    )


def test_decoded_tiles_leave_no_file_and_survive_a_full_disk(
    dataset_factory: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_factory("real", n=4)
    folder = tmp_path / "run"
    folder.mkdir()
    reader = DecodedTiles(lambda position: [dataset.store.read(position, "image")], 4, folder, 1 << 20)
    reader.read(0)

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    for index in (1, 0, 1, 2):
        assert np.array_equal(reader.read(index)[0], dataset.store.read(index, "image"))
    assert list(folder.iterdir()) == []


def test_decoded_tiles_may_be_shared_by_threads(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (6, 40, 40), np.uint8)
    reader = DecodedTiles(lambda position: [tiles[position].copy()], 6, tmp_path, 4 * 1600)
    with ThreadPoolExecutor(4) as pool:
        order = np.random.default_rng(1).integers(0, 6, 400).tolist()
        for position, (found,) in zip(order, pool.map(reader.read, order), strict=True):
            assert np.array_equal(found, tiles[position])


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
        ("images/TCGA-1-01Z-00-DX1.tif", None, True),
        ("images/TCGA-1.png", None, True),
        ("xTCGA-1.png", None, False),
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
