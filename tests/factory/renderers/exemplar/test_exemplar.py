"""Tiles of real tissue: every pixel from where it should be, the same bytes every time, and their provenance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factory.bank.bank import Bank, open_bank
from factory.core.config import parse
from factory.plan.request import Request
from factory.renderers.conditions import draw_condition
from factory.renderers.exemplar.compose import Composed, places_of
from factory.renderers.exemplar.exemplar import Exemplar, positive_region
from factory.renderers.exemplar.layout import match_classes
from manifests.labels import get_scheme
from manifests.tile import Tile
from tests.annotated_photograph import MPP, bank_of_photograph

Banks = Callable[[str], Path]


@pytest.fixture(scope="module")
def bank_of(tmp_path_factory: pytest.TempPathFactory) -> Banks:
    """``bank_of("nuclei")``: the bank of the photograph, annotated by that scheme."""
    made: dict[str, Path] = {}

    def collected(scheme: str) -> Path:
        if scheme not in made:
            made[scheme] = bank_of_photograph(tmp_path_factory.mktemp(scheme), scheme)
        return made[scheme]

    return collected


def renderer(bank: Path, **values: object) -> Exemplar:
    return Exemplar(parse(Exemplar.Config, {"bank": str(bank), **values}, "renderer"))


def discs(scheme: str, size: int = 128) -> Tile:
    """A layout of overlapping and cut ellipses in two classes where the scheme has them, air in a corner."""
    labels = get_scheme(scheme)
    y, x = np.mgrid[:size, :size]
    semantic, instance = np.zeros((size, size), np.uint8), np.zeros((size, size), np.int32)
    for number, (cy, cx, ry, rx) in enumerate([(30, 30, 8, 8), (38, 44, 7, 9), (90, 0, 9, 9), (70, 90, 12, 5)], 1):
        inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        instance[inside] = number * 3
        semantic[inside] = 1 + number % (len(labels) - 1)
    return Tile(semantic, instance, MPP, labels)


def regions(scheme: str, size: int = 192) -> Tile:
    labels = get_scheme(scheme)
    y, x = np.mgrid[:size, :size]
    semantic = np.where(x < 70, 1, np.where(y > 120, len(labels) - 2, 0)).astype(np.uint8)
    (air,) = labels.ids("air")
    semantic[(y - 60) ** 2 + (x - 140) ** 2 < 900] = air
    return Tile(semantic, np.zeros((size, size), np.int32), MPP, labels)


def compose(part: Exemplar, tile: Tile, seed: int = 0) -> Composed:
    return part.compose(draw_condition(part.condition, tile, np.random.default_rng(0)), np.random.default_rng(seed))


def classes_of(bank: Bank, composed: Composed) -> np.ndarray:
    return np.asarray(bank.semantic[composed.origin])


@pytest.mark.parametrize("scheme", ["nuclei", "ihc"])
@pytest.mark.parametrize("seed", range(3))
def test_nuclei_are_where_the_mask_says_and_nowhere_else(bank_of: Banks, scheme: str, seed: int) -> None:
    part, tile = renderer(bank_of(scheme)), discs(scheme)
    composed = compose(part, tile, seed)
    shown = part.bank.nucleus[composed.origin] > 0
    inside = tile.instance > 0
    assert shown[inside].all()
    # outside lies ground, whose nuclei were filled, or the real rim of a nucleus
    image = part.bank.image[composed.origin]
    filled = (image != part.bank.ground[composed.origin]).any(-1)
    assert not (shown & ~inside & ~filled).any()
    assert (classes_of(part.bank, composed)[inside] == tile.semantic[inside]).all()


@pytest.mark.parametrize("seed", range(3))
def test_air_is_taken_from_air_and_tissue_from_tissue(bank_of: Banks, seed: int) -> None:
    part, tile = renderer(bank_of("ki67")), regions("ki67")
    shown = classes_of(part.bank, compose(part, tile, seed))
    assert np.array_equal(shown == 3, tile.semantic == 3)


def test_air_is_air_where_no_patch_is_all_of_it(bank_of: Banks) -> None:
    """The rectangle of air in the photograph is smaller than these patches."""
    part, tile = renderer(bank_of("ki67"), patch_px=120), regions("ki67")
    assert np.array_equal(classes_of(part.bank, compose(part, tile)) == 3, tile.semantic == 3)


def test_air_for_holes_is_not_taken_from_specks_in_tissue(bank_of: Banks) -> None:
    bank = open_bank(bank_of("ki67"))
    semantic = bank.semantic.copy()
    semantic[::7] = 3  # as bright fibres pass for air in H&E
    classes = match_classes(bank.scheme, bank.scheme, frozenset(bank.scheme.names), painted=False)
    loose = places_of(replace(bank, semantic=semantic), 0, False, classes, 72).loose[1]
    assert (bank.semantic[loose] == 3).all()


def test_regions_are_mostly_taken_from_their_class(bank_of: Banks) -> None:
    part, tile = renderer(bank_of("ki67")), regions("ki67")
    agreement = [(classes_of(part.bank, compose(part, tile, seed)) == tile.semantic).mean() for seed in range(4)]
    shuffled = [
        (np.roll(classes_of(part.bank, compose(part, tile, s)), 96, 1) == tile.semantic).mean() for s in range(4)
    ]
    assert np.mean(agreement) > np.mean(shuffled) + 0.15


@pytest.mark.parametrize(("scheme", "layout"), [("nuclei", discs), ("ki67", regions)])
def test_a_tile_depends_on_its_seed_alone(bank_of: Banks, scheme: str, layout: Callable[[str], Tile]) -> None:
    tile = layout(scheme)
    first, again = (compose(renderer(bank_of(scheme)), tile, 5) for _ in range(2))
    other = compose(renderer(bank_of(scheme)), tile, 6)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.origin, again.origin)
    assert not np.array_equal(first.image, other.image)


def test_pixels_of_the_ground_are_copied(bank_of: Banks) -> None:
    """Without jitter, and away from cuts and outlines, a pixel equals the one of the bank that it came from."""
    part = renderer(bank_of("ki67"), look_jitter=0, mix=0)
    composed = compose(part, regions("ki67"))
    equal = (composed.image == part.bank.image[composed.origin]).all(-1)
    assert equal.mean() > 0.8
    levels = np.abs(composed.image.astype(int) - part.bank.image[composed.origin]).mean()
    assert levels < 3


def test_rows_say_whose_pixels_a_tile_holds(bank_of: Banks) -> None:
    part = renderer(bank_of("nuclei"), mix=0, look=1)
    ((_, real),) = part.render_with_sources(
        [draw_condition(part.condition, discs("nuclei"), np.random.default_rng(0))], [np.random.default_rng(0)]
    )
    assert part.bank.slides[1] in real.groups
    assert real.licences == ("CC0-1.0",)


def test_no_seam_lies_on_the_grid_of_patches(bank_of: Banks) -> None:
    """Steps between neighbouring pixels are no larger on the borders of patches than elsewhere."""
    part = renderer(bank_of("ki67"), look_jitter=0, mix=0)
    tile = Tile(np.ones((320, 320), np.uint8), np.zeros((320, 320), np.int32), MPP, get_scheme("ki67"))
    steps = np.zeros(32)
    for seed in range(6):
        image = compose(part, tile, seed).image.astype(int)
        across = np.abs(np.diff(image, axis=1)).mean((0, 2))
        steps += across[:288].reshape(9, 32).mean(0)
    assert steps.max() < 1.25 * np.median(steps)


def test_the_origin_of_labels(bank_of: Banks) -> None:
    assert renderer(bank_of("nuclei")).label_origin == "exact"
    assert renderer(bank_of("ki67")).label_origin == "conditioned"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mpp": 0.25}, "0.5 um per pixel"),
        ({"height": 100}, "multiples of 32"),
        ({"scheme": get_scheme("ki67")}, "no air"),
        ({"scheme": get_scheme("ihc")}, "no nucleus of class negative cell"),
    ],
)
def test_requests_that_a_bank_cannot_meet_are_refused(bank_of: Banks, changes: dict[str, object], said: str) -> None:
    values = {"height": 128, "width": 128, "mpp": MPP, "scheme": get_scheme("nuclei"), **changes}
    refusal = renderer(bank_of("nuclei"), marker="real").refusal(Request(**values))  # type: ignore[arg-type]
    assert refusal
    assert said in refusal


def test_a_marker_is_painted_where_the_layout_is_positive_alone(bank_of: Banks) -> None:
    """Membranous PD-L1 on tissue whose own marker was taken away."""
    scheme = get_scheme("pdl1")
    semantic = np.full((128, 128), scheme.ids("tumour_negative")[0], np.uint8)
    semantic[:, 64:] = scheme.ids("tumour_positive")[0]
    tile = Tile(semantic, np.zeros((128, 128), np.int32), MPP, scheme)
    part = renderer(bank_of("ki67"))
    brown = [
        image[..., 0].astype(float) - image[..., 2] for image in (compose(part, tile, seed).image for seed in range(3))
    ]
    positive, negative = (
        np.mean([np.quantile(each[:, half], 0.9) for each in brown]) for half in (np.s_[64:], np.s_[:64])
    )
    assert positive > negative + 20


def test_cells_are_in_the_region_around_them() -> None:
    scheme = get_scheme("pdl1_cells")
    (air,), (positive,), (negative,) = map(scheme.ids, ("air", "tumour_positive", "tumour_negative"))
    cell = scheme.names.index("cell")
    semantic = np.full((32, 64), negative, np.uint8)
    semantic[:, 32:], semantic[:, 56:] = positive, air
    alone = positive_region(semantic, scheme)
    assert np.array_equal(alone, semantic == positive)
    semantic[10:14, 40:50] = semantic[10:14, 10:20] = cell
    semantic[20:24, 52:56] = cell  # at the air
    assert np.array_equal(positive_region(semantic, scheme), alone)
    assert not positive_region(np.full((8, 8), cell, np.uint8), scheme).any()


def test_painting_needs_positive_tumour(bank_of: Banks) -> None:
    refusal = renderer(bank_of("nuclei"), marker="painted").refusal(Request(128, 128, MPP, get_scheme("nuclei")))
    assert refusal
    assert "no positive tumour" in refusal


def test_a_look_that_is_not_there_is_refused(bank_of: Banks) -> None:
    refusal = renderer(bank_of("nuclei"), look=9).refusal(Request(128, 128, MPP, get_scheme("nuclei")))
    assert refusal
    assert "0 to 2" in refusal


def test_a_bank_is_opened_once(bank_of: Banks) -> None:
    assert open_bank(bank_of("nuclei")) is open_bank(bank_of("nuclei"))
