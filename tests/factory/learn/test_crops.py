"""Crops are a function of the step; data that does not fit is refused in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.learn.crops import MaskCrops, Tiles, open_tiles, random_crop
from factory.train.generator import trainer_class, trainers
from manifests.errors import UserError
from tests.conftest import Outcome, assert_refused
from tests.mask_training import as_assignments, blobs, poke, write_blobs, write_masks

Cli = Callable[..., Outcome]


def numbered(root: Path, n: int, size: tuple[int, int] = (32, 64)) -> Tiles:
    """Masks that show their own number: class k everywhere in mask k."""
    masks = [np.full(size, k, np.uint8) for k in range(n)]
    write_masks(root, masks, "pdl1_cells")
    return open_tiles([root], None, (32, 32), 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(4, 12),
    width=st.integers(4, 12),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_a_crop_is_one_of_the_symmetries_of_a_window(seed: int, height: int, width: int, size: tuple[int, int]) -> None:
    labels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    crop = random_crop(labels, size, np.random.default_rng(seed))
    assert crop.shape == size
    places = np.divmod(crop.astype(int), width)
    rows, columns = np.unique(places[0]), np.unique(places[1])
    box = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert sorted(box.shape) == sorted(size)
    symmetries = [turned for base in (box, box.T) for turned in (base, base[::-1], base[:, ::-1], base[::-1, ::-1])]
    assert any(np.array_equal(crop, one) for one in symmetries)


def test_all_eight_symmetries_and_all_windows_occur() -> None:
    labels = np.arange(9, dtype=np.uint8).reshape(3, 3)
    crops = {random_crop(labels, (2, 2), np.random.default_rng(seed)).tobytes() for seed in range(2000)}
    assert len(crops) == 8 * 4


def test_a_view_on_its_side_is_taken_only_where_it_fits() -> None:
    flat = np.tile(np.arange(64, dtype=np.uint8), (32, 1))  # 32x64: values grow along the columns alone
    for seed in range(50):
        crop = random_crop(flat, (32, 64), np.random.default_rng(seed))
        assert (np.diff(crop.astype(int), axis=0) == 0).all()
    square = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    turned = [(np.diff(random_crop(square, (32, 64), np.random.default_rng(s)).astype(int), axis=1) == 0).all()
              for s in range(50)]  # fmt: skip
    assert 10 < sum(turned) < 40


def test_every_tile_is_seen_once_per_round_in_a_new_order(tmp_path: Path) -> None:
    crops = MaskCrops(numbered(tmp_path / "d", 6), (32, 64), 2, seed=3)
    seen = [int(crop[0, 0]) for step in range(30) for crop in crops.draw(step)]
    rounds = [tuple(seen[start : start + 6]) for start in range(0, 60, 6)]
    assert all(sorted(one) == list(range(6)) for one in rounds)
    assert len(set(rounds)) > 5


def test_rounds_hold_where_a_batch_runs_over_their_end(tmp_path: Path) -> None:
    crops = MaskCrops(numbered(tmp_path / "d", 5), (32, 64), 3, seed=1)
    seen = [int(crop[0, 0]) for step in range(10) for crop in crops.draw(step)]
    assert Counter(seen) == dict.fromkeys(range(5), 6)
    assert sorted(seen[5:10]) == list(range(5))


def test_views_are_a_function_of_seed_stream_and_step_alone(tmp_path: Path) -> None:
    write_blobs(tmp_path / "d", n=5, size=(64, 96))
    tiles = open_tiles([tmp_path / "d"], None, (32, 64), 2)
    once = [MaskCrops(tiles, (32, 64), 2, seed=4).draw(step) for step in range(6)]
    again = MaskCrops(open_tiles([tmp_path / "d"], None, (32, 64), 2), (32, 64), 2, seed=4)
    for step in (5, 0, 3):
        np.testing.assert_array_equal(again.draw(step), once[step])
    assert once[0].shape == (2, 32, 64)
    assert once[0].dtype == np.uint8
    for other in (MaskCrops(tiles, (32, 64), 2, seed=5), MaskCrops(tiles, (32, 64), 2, seed=4, stream=1)):
        assert any((other.draw(step) != once[step]).any() for step in range(6))


def test_two_streams_see_the_tiles_in_different_orders(tmp_path: Path) -> None:
    tiles = numbered(tmp_path / "d", 6)
    orders = [
        [int(crop[0, 0]) for step in range(20) for crop in MaskCrops(tiles, (32, 64), 3, 0, stream=stream).draw(step)]
        for stream in (0, 1)
    ]
    assert 0.05 < np.mean(np.equal(*orders)) < 0.35  # 1 in 6 by chance


def test_views_that_are_nearly_all_air_are_drawn_again(tmp_path: Path) -> None:
    mask = np.zeros((32, 256), np.uint8)
    mask[:, 160:] = 1  # tissue on the right: 5 of 8 windows have some
    write_masks(tmp_path / "d", [mask] * 4)
    tiles = open_tiles([tmp_path / "d"], "tissue", (32, 64), 2)

    def air(most: float) -> np.ndarray:
        crops = MaskCrops(tiles, (32, 64), 2, 0, max_background=most)
        return np.array([(crop == 0).mean() for step in range(100) for crop in crops.draw(step)])

    assert (air(1.0) > 0.85).mean() > 0.3
    assert (air(0.85) > 0.85).mean() < 0.02  # 0.5 ** 8 are left after eight tries


def test_masks_of_a_richer_scheme_are_read_as_the_asked_one(tmp_path: Path) -> None:
    masks = [blobs(seed, 5, (32, 64)) for seed in range(3)]
    write_masks(tmp_path / "regions", masks, "pdl1")
    write_blobs(tmp_path / "plain", n=2, size=(32, 64))
    tiles = open_tiles([tmp_path / "regions", tmp_path / "plain"], None, (32, 64), 2)
    assert tiles.scheme.name == "tissue"
    assert len(tiles) == 5
    np.testing.assert_array_equal(tiles.read(1), (masks[1] != 4).astype(np.uint8))
    np.testing.assert_array_equal(tiles.read(3), blobs(0, 2, (32, 64)))
    assert open_tiles([tmp_path / "regions"], None, (32, 64), 2).scheme.name == "pdl1"
    assert tiles.sources == ("plain/slide-0", "plain/slide-1", *(f"regions/slide-{n}" for n in range(3)))
    assert tiles.licences == ("licence of plain", "licence of regions")


def test_only_the_asked_split_is_seen(tmp_path: Path) -> None:
    write_blobs(tmp_path / "a", n=3)
    write_blobs(tmp_path / "b", n=2, split="test")
    both = [tmp_path / "a", tmp_path / "b"]
    assert len(open_tiles(both, None, (32, 64), 1)) == 3
    tested = open_tiles(both, None, (32, 64), 1, split="test")
    assert len(tested) == 2
    assert tested.sources == ("b/slide-0", "b/slide-1")


def test_the_digest_follows_the_masks_and_the_scheme(tmp_path: Path) -> None:
    for name, n in (("a", 2), ("b", 2), ("c", 3)):
        write_blobs(tmp_path / name, n=n, scheme="pdl1", size=(32, 64))
    found = {name: open_tiles([tmp_path / name], None, (32, 64), 1).sha256 for name in "abc"}
    assert found["a"] == found["b"] != found["c"]
    assert open_tiles([tmp_path / "a"], "tissue", (32, 64), 1).sha256 != found["a"]


def test_tiles_with_ignored_pixels_are_left_out_and_counted(tmp_path: Path, cli: Cli) -> None:
    write_blobs(tmp_path / "d", n=5)
    for index in (1, 3):
        poke(tmp_path / "d", index, 255)
    tiles = open_tiles([tmp_path / "d"], None, (32, 64), 2)
    assert (len(tiles), tiles.left_out) == (3, 2)
    assert [row for _, row in tiles.rows] == [0, 2, 4]
    done = cli("factory", "train", "depas", "--data", "d", "--dry-run", *as_assignments("depas"))
    assert done.code == 0, done
    assert "3 masks of scheme tissue" in done.out
    assert "2 tiles contain ignored pixels (255) and are left out" in done.out
    outcome = cli("factory", "train", "depas", "--data", "d", *as_assignments("depas", batch=4))
    assert_refused(outcome, r"at least 4 tiles with split train, a batch, got 3 \(2 more contain ignored pixels\)")


def test_a_class_that_the_asked_scheme_ignores_leaves_its_tiles_out(tmp_path: Path) -> None:
    write_masks(tmp_path / "d", [np.full((32, 64), k, np.uint8) for k in (0, 1, 2)], "ihc")
    assert open_tiles([tmp_path / "d"], "nuclei", (32, 64), 1).left_out == 0
    poke(tmp_path / "d", 1, 255)
    tiles = open_tiles([tmp_path / "d"], "nuclei", (32, 64), 1)
    assert (len(tiles), tiles.left_out) == (2, 1)


# Refused before anything is written.


def train_words(name: str = "depas", *, data: tuple[str, ...] = ("d",), **changes: object) -> tuple[str, ...]:
    flags = [word for folder in data for word in ("--data", folder)]
    return ("factory", "train", name, *flags, "--out", "run", "--device", "cpu", *as_assignments(name, **changes))


def mixed_resolutions(root: Path) -> None:
    write_blobs(root / "d", n=4)
    write_blobs(root / "e", n=4, mpp=0.25)


def no_common_scheme(root: Path) -> None:
    write_blobs(root / "d", n=4)
    write_blobs(root / "e", n=4, scheme="nuclei")


def wrong_value(root: Path, scheme: str = "tissue") -> None:
    write_blobs(root / "d", n=4, scheme=scheme)
    poke(root / "d", 2, 77)


def plain(root: Path) -> None:
    write_blobs(root / "d", n=4)


CASES: list[tuple[Callable[[Path], object], tuple[str, ...], str]] = [
    (lambda root: None, train_words(), r"^error: d: expected a data set"),
    (lambda root: (root / "d").mkdir(), train_words(), r"^error: d: expected a data set"),
    (lambda root: write_blobs(root / "d", n=1), train_words(), "at least 2 tiles with split train, a batch, got 1"),
    (lambda root: write_blobs(root / "d", split="test"), train_words(), "at least 2 tiles with split train.*got 0"),
    (plain, train_words(size=[64, 96]), r"d: expected tiles of at least 64x96.*got 48x96.*--set size=\[H,W\]"),
    (plain, train_words(size=[48, 96]), r"multiples of 32 \(use 32 or 64\)"),
    (mixed_resolutions, train_words(data=("d", "e")), "one resolution, got 0.25 to 0.5 um per pixel.*--resample-mpp"),
    (no_common_scheme, train_words(data=("d", "e")), "common scheme, got nuclei, tissue"),
    (plain, (*train_words(), "--scheme", "pdl1"), "tissue: expected a projection onto .*got pdl1"),
    (plain, (*train_words(), "--scheme", "tisue"), "Did you mean tissue"),
    (wrong_value, train_words(), "d: d-2: expected classes 0 to 1 of tissue, got 77.*--class-map"),
    (
        lambda root: wrong_value(root, "pdl1"),
        (*train_words(), "--scheme", "tissue"),
        "d: d-2: expected classes 0 to 4 of pdl1, got 77",
    ),
    (plain, ("factory", "train", "depass", "--data", "d"), "NAME: .*got 'depass'. Did you mean depas"),
    (plain, ("factory", "train", "polygons", "--data", "d"), "one of depas, .*got polygons, which needs no training"),
    (plain, (*train_words(), "--set", "learning_rat=1"), "learning_rat: expected a known key.*Did you mean learning_"),
    (plain, (*train_words(), "--set", "network.widht=[1,2]"), "network.widht"),
    (plain, (*train_words(), "--set", "batch=0"), "batch: .*greater than or equal to 1"),
    (plain, (*train_words(), "--set", "batch"), "KEY=VALUE"),
    (plain, (*train_words(), "--size", "32x"), "HEIGHTxWIDTH"),
    (plain, (*train_words(), "--config", "nothing"), r"--config: expected a YAML file or a shipped .*depas_light"),
    (plain, (*train_words(), "--device", "tpu9"), "--device"),
    (plain, (*train_words(), "--precision", "fp16"), "fp32"),
    (plain, train_words("depas", size=[32, 32], batch=1), r"batch: expected at least 2 crops of 32x32, got 1\.$"),
    (plain, train_words("dcgan", size=[32, 32], batch=1), r"batch: expected at least 2 crops of 32x32, got 1\.$"),
    (plain, train_words("priorpath", network={"depth": 6}), r"multiples of 64, 2\^depth, got 32x64\.$"),
    (
        plain,
        train_words("priorpath", discriminators=2),
        "size: expected sides from 48 for these discriminators, got 32x64",
    ),
    (
        plain,
        train_words("masks/cyclegan", discriminator_depth=4),
        "size: expected sides from 48 for these discriminators, got 32x64",
    ),
    (plain, ("factory", "train"), "Missing argument 'name'"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "words", "said"), CASES, ids=[f"{n}" for n in range(len(CASES))])
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    prepare: Callable[[Path], object], words: tuple[str, ...], said: str, tmp_path: Path, cli: Cli
) -> None:
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(cli(*words), said)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", trainers())
def test_dry_run_prints_the_configuration_and_writes_nothing(name: str, tmp_path: Path, cli: Cli) -> None:
    plain(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = cli(*train_words(name), "--dry-run")
    assert done.code == 0, done
    assert "4 masks of scheme tissue at 0.5 um per pixel, 6 steps of 2 crops of 32x64, fp32 on cpu" in done.out
    assert "learning_rate: 0.001" in done.out
    assert "scheme: tissue" in done.out
    assert "nothing was written" in done.out
    assert sorted(tmp_path.rglob("*")) == before


def test_flags_go_before_assignments_before_the_file_before_the_defaults(tmp_path: Path) -> None:
    from factory.train.generator import resolve_trainer

    (tmp_path / "own.yaml").write_text("batch: 4\nseed: 4\nepochs: 4\nnetwork: {mixing: 1}\n")
    path = str(tmp_path / "own.yaml")
    config = resolve_trainer("depas", path, ["batch=5", "seed=5"], {"batch": 6}, "cpu")
    assert (config.batch, config.seed, config.epochs, config.beta1) == (6, 5, 4, 0.5)
    assert config.network.mixing == 1  # type: ignore[attr-defined]
    assert config.network.latent_tile == trainer_class("depas").Config().network.latent_tile  # type: ignore[attr-defined]
    assert resolve_trainer("depas", None, [], {}, "cpu").size == (128, 256)  # depas_light
    assert resolve_trainer("depas", None, [], {"precision": "fp32"}, "cuda").size == (512, 1024)
    assert resolve_trainer("priorpath", "priorpath_paper", [], {}, "cpu").discriminators == 2  # type: ignore[attr-defined]


def test_a_run_folder_of_something_else_is_refused(tmp_path: Path, cli: Cli) -> None:
    plain(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("x")
    for extra in ((), ("--overwrite",), ("--resume",)):
        assert_refused(cli(*train_words(), *extra), "thesis.tex.*Choose another --out")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
    (tmp_path / "run/thesis.tex").unlink()
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("mine")
    assert_refused(cli(*train_words()), "run: expected a folder for a run, got a file")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_is_gone_on_with_or_replaced_only_where_it_is_said(tmp_path: Path, cli: Cli) -> None:
    plain(tmp_path)
    first = cli(*train_words("dcgan", steps=2))
    assert first.code == 0, first
    before = (tmp_path / "run/best.safetensors").read_bytes()
    assert_refused(cli(*train_words("dcgan", steps=2)), "got a run. Use --resume, --overwrite or another --out")
    other = train_words("dcgan", steps=2, seed=1)
    assert_refused(cli(*other, "--resume"), r"config\.seed: 0 there, 1 asked")
    assert_refused(cli(*train_words("depas", steps=2), "--resume"), "config|generator")
    assert (tmp_path / "run/best.safetensors").read_bytes() == before
    assert_refused(cli(*train_words("dcgan", steps=2, threads=2), "--resume"), "the 1 threads .*--set threads=1")
    assert cli(*train_words("dcgan", steps=2), "--resume").code == 0
    assert (tmp_path / "run/best.safetensors").read_bytes() == before
    assert cli(*other, "--overwrite").code == 0
    assert (tmp_path / "run/best.safetensors").read_bytes() != before


def test_a_data_set_that_changed_is_another_run(tmp_path: Path, cli: Cli) -> None:
    plain(tmp_path)
    assert cli(*train_words("dcgan", steps=2)).code == 0
    (tmp_path / "d").rename(tmp_path / "old")
    write_blobs(tmp_path / "d", n=5)
    assert_refused(cli(*train_words("dcgan", steps=2), "--resume"), "configuration and data.*data")


def test_open_tiles_says_how_far_it_is(tmp_path: Path) -> None:
    write_blobs(tmp_path / "d", n=3)
    told: list[tuple[int, int]] = []
    open_tiles([tmp_path / "d"], None, (32, 64), 1, on_tile=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(UserError, match="at least 4 tiles"):
        open_tiles([tmp_path / "d"], None, (32, 64), 4)
