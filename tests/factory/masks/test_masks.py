"""Contract tests over the table of mask generators, and what each of them promises beyond it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__
from scipy import ndimage

from factory.core.registry import resolve
from factory.core.seeds import Stream, generator
from factory.learn.base import UsesWeights
from factory.masks import MASKS, TRAINABLE
from factory.masks.allocate import Unmet, allocate
from factory.masks.base import resolve_mask_generator
from factory.masks.ihc import Ihc
from factory.masks.nuclei import Nuclei
from factory.masks.polygons import Polygons
from factory.plan.request import Request
from manifests.labels import SCHEMES, LabelClass, LabelScheme, get_scheme
from manifests.measure import measure
from manifests.tile import Tile

ATTEMPTS = 4
UNTRAINED = [name for name in MASKS if not issubclass(resolve_mask_generator(name), UsesWeights)]
"""Those with weights are in test_trained_masks.py."""
PAIRS = [
    (name, scheme)
    for name in UNTRAINED
    for scheme in resolve(MASKS, name, "mask generator").schemes
    if scheme in SCHEMES
]
PDL1 = get_scheme("pdl1")


def build(name: str) -> Any:
    part = resolve(MASKS, name, "mask generator")
    return part(part.Config())


def realise(masks: Any, request: Request, seed: int) -> Tile:
    """The first of a few attempts that meets the request, as the pipeline does it."""
    for attempt in range(ATTEMPTS):
        (scores,) = masks.draw([request], [generator(seed, Stream.MASK, attempt)])
        try:
            return allocate(scores, request, generator(seed, Stream.TIES, attempt)).tile
        except Unmet as error:
            last = error
    raise last


def request_for(scheme: str, height: int = 96, width: int = 128, **more: Any) -> Request:
    asked: dict[str, Any] = {} if not get_scheme(scheme).ids("tumour_positive") else {"tps": 0.3}
    return Request(height, width, 0.5, get_scheme(scheme), **(asked | more))


def assert_sound_instances(tile: Tile) -> None:
    """Ids are 1..n, every one is one 4-connected piece."""
    ids = np.unique(tile.instance)
    np.testing.assert_array_equal(ids[ids > 0], np.arange(1, tile.instance.max() + 1))
    for number, box in enumerate(ndimage.find_objects(tile.instance), start=1):
        assert ndimage.label(tile.instance[box] == number)[1] == 1


def digests() -> list[str]:
    """A line for each generator and scheme with the digest of a tile."""
    lines = []
    for name, scheme in PAIRS:
        tile = realise(build(name), request_for(scheme, 96, 160), 11)
        digest = hashlib.sha256(tile.semantic.tobytes() + tile.instance.tobytes()).hexdigest()
        lines.append(f"{name} {scheme} {digest}")
    return lines


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_processor(tmp_path: Path) -> None:
    """The same tiles, once as this machine likes to compute, once without wide vectors, FMA and optimisation."""
    features = "AVX512_SPR AVX512_ICL AVX512_SKX AVX512F X86_V4 AVX2 FMA3 X86_V3"
    plain = {
        "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_OPT": "1", "NUMBA_CACHE_DIR": str(tmp_path),
        "NPY_DISABLE_CPU_FEATURES": " ".join(f for f in features.split() if f in __cpu_dispatch__),
    }  # fmt: skip
    elsewhere = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"from {__name__} import digests; print(*digests(), sep='\\n')"],
        env=os.environ | plain, cwd=Path(__file__).parents[3], check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert elsewhere.splitlines() == digests()


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
@pytest.mark.parametrize("mpp", [0.25, 1.0])
def test_tiles_are_sound_and_meet_their_request(name: str, scheme: str, mpp: float) -> None:
    request = dataclasses.replace(request_for(scheme, 128, 160), mpp=mpp)
    if request.scheme.ids("air"):
        request = dataclasses.replace(request, tissue=0.7)
    assert build(name).refusal(request) is None
    tile = realise(build(name), request, 3)
    achieved = measure(tile)
    assert_sound_instances(tile)
    if request.scheme.ids("air"):
        assert abs(achieved.tissue_fraction * tile.semantic.size - 0.7 * tile.semantic.size) <= 0.5
    if request.tps is not None and request.scheme.tps_basis == "area":
        positive, negative = (
            np.isin(tile.semantic, request.scheme.ids(role)).sum() for role in ("tumour_positive", "tumour_negative")
        )
        assert abs(positive - 0.3 * (positive + negative)) <= 0.5
    if request.scheme.tps_basis == "cells":
        assert abs(achieved.cells_positive - 0.3 * achieved.cells) <= 0.5


def test_every_generator_is_tested_here_or_with_its_weights() -> None:
    assert {*UNTRAINED, *TRAINABLE} == set(MASKS)
    assert {name for name, _ in PAIRS} == set(UNTRAINED)


@pytest.mark.parametrize("name", UNTRAINED)
def test_refusal_names_a_scheme_that_is_not_drawn(name: str) -> None:
    masks = build(name)
    wrong = next(s for s in SCHEMES if s not in masks.schemes)
    assert "scheme" in masks.refusal(Request(64, 64, 0.5, SCHEMES[wrong]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    tps=st.one_of(st.sampled_from([0.0, 0.001, 0.01, 0.5, 0.99, 0.999, 1.0]), st.floats(0, 1)),
    size=st.sampled_from([(64, 64), (64, 256), (160, 96), (256, 256)]),
    mpp=st.sampled_from([0.25, 0.37, 0.5, 1.0]),
    tumour=st.sampled_from([0.02, 0.3, 0.9]),
    tissue=st.sampled_from([0.3, 0.85, 1.0]),
    scheme=st.sampled_from(Ihc.schemes),
    crowding=st.sampled_from([None, 0.0, 0.2, 1.0]),
)
def test_ihc_is_exact_by_area_and_by_cells(
    seed: int, tps: float, size: tuple[int, int], mpp: float, tumour: float, tissue: float, scheme: str,
    crowding: float | None,
) -> None:  # fmt: skip
    masks = Ihc(Ihc.Config())
    labels = get_scheme(scheme)
    inflamed = 0.3 * (1.0 - tumour) if labels.ids("inflammation") else 0.0
    by_role = {
        "inflammation": inflamed * tissue, "tumour_negative": tumour * (1 - tps) * tissue,
        "tumour_positive": tumour * tps * tissue, "air": 1 - tissue,
    }  # fmt: skip
    fractions = tuple(sum(by_role.get(role, 0.0) for role in label.roles) for label in labels.classes)
    fractions = (1.0 - sum(fractions[1:]), *fractions[1:])
    request = Request(*size, mpp, labels, tps=tps, tissue=tissue, fractions=fractions)
    if crowding is not None:
        request = dataclasses.replace(request, cells=int(crowding * masks.capacity(request)))
    assert masks.refusal(request) is None

    tile = realise(masks, request, seed)

    achieved = measure(tile)
    positive_px, negative_px, air_px = (
        int(np.isin(tile.semantic, labels.ids(role)).sum()) for role in ("tumour_positive", "tumour_negative", "air")
    )
    tumour_px = positive_px + negative_px
    assert abs(positive_px - tps * tumour_px) <= 0.5 + 1e-9
    assert abs(air_px - (1 - tissue) * tile.semantic.size) <= 0.5 + 1e-9
    tumour_cells = achieved.cells_positive + achieved.cells_negative
    if "cell" not in labels.names:
        assert abs(achieved.cells_positive - tps * tumour_cells) <= 0.5 + 1e-9
        assert abs(tumour_px - tumour * tissue * tile.semantic.size) <= 0.5 + 1e-6
    if request.cells is not None:
        assert achieved.cells == request.cells
    assert_sound_instances(tile)


def test_ihc_cells_keep_to_their_region_and_off_the_air() -> None:
    tile = realise(Ihc(Ihc.Config()), Request(256, 384, 0.5, PDL1, tps=0.4, tissue=0.8), 5)
    on_cell = tile.instance > 0
    assert not (tile.semantic[on_cell] == 4).any()
    tumour = np.isin(tile.semantic, (2, 3))
    touching_tumour = np.unique(tile.instance[on_cell & tumour])
    touching_other = np.unique(tile.instance[on_cell & ~tumour])
    assert not np.intersect1d(touching_tumour, touching_other).size


def test_ihc_cells_are_a_class_of_their_own_in_pdl1_cells() -> None:
    tile = realise(Ihc(Ihc.Config()), Request(256, 256, 0.5, get_scheme("pdl1_cells"), tps=0.4, tissue=0.8), 5)
    np.testing.assert_array_equal(tile.semantic == 5, tile.instance > 0)


def test_ihc_nuclei_keep_their_size_in_micrometres() -> None:
    areas = []
    for mpp in (0.25, 0.5, 1.0):
        size = int(128 / mpp)
        tile = realise(Ihc(Ihc.Config()), Request(size, size, mpp, PDL1, tps=0.5, tissue=1.0), 1)
        areas.append(np.median(np.bincount(tile.instance.ravel())[1:]) * mpp**2)
    np.testing.assert_allclose(areas, areas[0], rtol=0.25)


def test_ihc_refuses_more_nuclei_than_fit_and_says_how_many_do() -> None:
    masks = Ihc(Ihc.Config())
    request = Request(64, 64, 0.25, PDL1, cells=400)
    refusal = masks.refusal(request)
    most = masks.capacity(request)
    assert refusal == f"cells: 400 do not fit, at most {most} do"
    assert 0 < most < 10
    assert masks.refusal(dataclasses.replace(request, cells=most)) is None
    assert masks.refusal(dataclasses.replace(request, tissue=0.0, cells=1)) == "cells: 1 do not fit, at most 0 do"


@pytest.mark.parametrize("tps", [0.0, 0.001, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("cells", [1, 2, 37])
def test_nuclei_are_positive_by_exact_count(tps: float, cells: int) -> None:
    request = Request(192, 192, 0.5, get_scheme("ihc"), tps=tps, cells=cells)
    achieved = measure(realise(Nuclei(Nuclei.Config()), request, 1))
    assert achieved.cells == cells
    assert achieved.cells_positive == int(np.floor(tps * cells + 0.5))


@pytest.mark.parametrize("size", [64, 128, 256])
def test_nuclei_fit_up_to_the_stated_capacity(size: int) -> None:
    masks = Nuclei(Nuclei.Config())
    most = masks.capacity(Request(size, size, 0.25, get_scheme("nuclei")))
    for seed in range(3):
        tile = realise(masks, Request(size, size, 0.25, get_scheme("nuclei"), cells=most), seed)
        assert measure(tile).cells == most
        assert_sound_instances(tile)
    refusal = masks.refusal(Request(size, size, 0.25, get_scheme("nuclei"), cells=most + 1))
    assert refusal == f"cells: {most + 1} do not fit into {size}x{size}, at most {most} do"


def test_nuclei_have_a_smallest_visible_area() -> None:
    tile = realise(Nuclei(Nuclei.Config()), Request(256, 256, 0.25, get_scheme("nuclei"), cells=150), 2)
    assert np.bincount(tile.instance.ravel())[1:].min() >= 70


def touching_rate(tile: Tile) -> float:
    """Share of instances that have another within one pixel, diagonals included."""
    instance, touching = tile.instance, set[int]()
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = instance[: instance.shape[0] - down, max(-right, 0) : instance.shape[1] - max(right, 0)]
        there = instance[down:, max(right, 0) : instance.shape[1] + min(right, 0)]
        meet = (here != there) & (here > 0) & (there > 0)
        touching |= set(here[meet].tolist()) | set(there[meet].tolist())
    return len(touching) / int(instance.max())


def test_nuclei_touch_at_about_the_asked_rate() -> None:
    asked = np.array([0.0, 0.3, 0.6, 0.9])
    rates = []
    for touching in asked:
        masks = Nuclei(Nuclei.Config(touching=touching, clusters=0.0))
        request = Request(256, 256, 0.25, get_scheme("nuclei"), cells=30)
        rates.append(np.mean([touching_rate(realise(masks, request, seed)) for seed in range(12)]))
    assert np.all(np.diff(rates) > 0.15)
    np.testing.assert_allclose(rates, asked, atol=0.12)


def test_nuclei_overlap_hides_area_only_where_it_is_allowed() -> None:
    request = Request(256, 256, 0.25, get_scheme("nuclei"), cells=60)
    covered = []
    for overlap in (0.0, 0.3):
        masks = Nuclei(Nuclei.Config(touching=1.0, overlap=overlap))
        covered.append(np.mean([(realise(masks, request, seed).instance > 0).mean() for seed in range(8)]))
    assert covered[1] < covered[0]


def test_positive_nuclei_lie_together() -> None:
    masks = Nuclei(Nuclei.Config(positive_um=60.0, positive_noise=0.1))
    same = []
    for seed in range(6):
        tile = realise(masks, Request(256, 256, 0.5, get_scheme("ihc"), tps=0.5, cells=120), seed)
        centres = np.array(ndimage.center_of_mass(np.ones_like(tile.instance), tile.instance, range(1, 121)))
        kinds = np.array([tile.semantic[tile.instance == number][0] for number in range(1, 121)])
        distance = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 1e6 * np.eye(120)
        same.append((kinds == kinds[distance.argmin(axis=1)]).mean())
    assert np.mean(same) > 0.65


@pytest.mark.parametrize("name", ["polygons", "ihc"])
def test_regions_of_a_nuclear_marker_are_of_few_cells_and_those_of_pdl1_are_not(name: str) -> None:
    areas = {}
    for scheme in ("pdl1", "ki67"):
        positive = get_scheme(scheme).ids("tumour_positive")
        request = request_for(scheme, 384, 384, tps=0.2, tissue=0.9)
        labelled = [
            ndimage.label(np.isin(realise(build(name), request, seed).semantic, positive))[0] for seed in range(4)
        ]
        areas[scheme] = np.mean([(labels > 0).sum() / labels.max() for labels in labelled]) * 0.25
    assert 130 < areas["ki67"] < 400  # um2
    assert areas["pdl1"] > 2 * areas["ki67"]


def test_ihc_sets_lymphocytes_on_other_tissue_where_no_class_is_theirs() -> None:
    masks = Ihc(Ihc.Config())
    request = Request(384, 384, 0.5, get_scheme("ki67"), tps=0.2, tissue=1.0)
    (scores,) = masks.draw([request], [generator(4, Stream.MASK)])
    assert scores.cells is not None
    lymphocytes = next(p for p in scores.cells.populations if p.name == "lymphocyte")
    tile = allocate(scores, request, generator(4, Stream.TIES)).tile
    tumour = int(measure(tile).cells_positive + measure(tile).cells_negative)
    ids = np.unique(tile.instance[tile.semantic == 0])
    assert len(lymphocytes.outlines) > 30
    # ids go by population: tumour, lymphocytes, spindles
    placed = np.isin(tile.instance, tumour + 1 + np.arange(len(lymphocytes.outlines)))
    assert (tile.semantic[placed] == 0).all()
    assert len(ids) > len(lymphocytes.outlines)
    assert scores.cells.attraction is not None
    crowded = scores.cells.attraction
    assert crowded[placed].mean() > crowded[tile.semantic == 0].mean()


def test_polygons_have_clean_borders() -> None:
    masks = Polygons(Polygons.Config())
    islands, regions = [], []
    for seed in range(6):
        tile = realise(masks, Request(384, 512, 0.5, PDL1, tps=0.4), seed)
        sizes = np.concatenate(
            [np.bincount(ndimage.label(tile.semantic == label)[0].ravel())[1:] for label in range(5)]
        )
        islands.append(sizes[sizes < 64].sum() / tile.semantic.size)
        regions.append((sizes >= 64).sum())
    assert np.mean(islands) < 2e-3
    assert 8 < np.mean(regions) < 120


def test_polygons_draw_a_scheme_given_by_the_user() -> None:
    organ = LabelScheme(
        "organ",
        (
            LabelClass(0, "stroma", (0, 0, 0)),
            LabelClass(1, "gland", (1, 0, 0)),
            LabelClass(2, "lumen", (2, 0, 0), ("air",)),
        ),
    )
    masks = Polygons(Polygons.Config())
    request = Request(80, 100, 0.5, organ, fractions=(0.5, 0.3, 0.2))
    assert masks.refusal(request) is None
    tile = realise(masks, request, 0)
    assert np.bincount(tile.semantic.ravel()).tolist() == [4000, 2400, 1600]


def test_polygons_refuse_cells() -> None:
    masks = Polygons(Polygons.Config())
    assert "cells: polygons draws none" in masks.refusal(Request(64, 64, 0.5, PDL1, cells=5))


def test_regions_are_the_same_tissue_at_every_mpp() -> None:
    masks = Polygons(Polygons.Config())
    fractions = (0.3, 0.1, 0.2, 0.2, 0.2)
    fine = realise(masks, Request(256, 256, 0.5, PDL1, fractions=fractions), 4).semantic
    coarse = realise(masks, Request(128, 128, 1.0, PDL1, fractions=fractions), 4).semantic
    assert (fine[::2, ::2] == coarse).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "scheme"), [("ihc", "pdl1"), ("ihc", "ki67"), ("nuclei", "nuclei"), ("nuclei", "ihc")]
)
def test_a_resolution_too_coarse_for_nuclei_is_refused_before_drawing(name: str, scheme: str) -> None:
    generator_class = resolve(MASKS, name, "--masks")
    generator = generator_class(generator_class.Config())

    def refusal(mpp: float) -> str | None:
        return generator.refusal(Request(256, 256, mpp, get_scheme(scheme)))

    assert refusal(0.5) is None
    assert re.search(r"mpp: 8 leaves .* px to the smallest nuclei, use", refusal(8.0) or "")
