"""The contract of a mask generator, as functions: whatever stands in the table keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from factory.core.seeds import Stream, generator
from factory.masks.allocate import Scores, Unmet, allocate
from factory.masks.base import MaskGenerator
from factory.plan.request import Request
from manifests.labels import LabelScheme
from manifests.tile import Tile

ATTEMPTS = 4
_REGION_ROLES = {"air", "tumour_positive", "tumour_negative", "inflammation"}

Build = Callable[[], MaskGenerator]


def check_mask_generator(build: Build, requests: Sequence[Request]) -> None:
    """Check form, score-field rule, seeds and independence of the batch on requests that can be met.

    Args:
        build: makes the generator anew. requests: at least two, of sizes that it draws.
    """
    masks = build()
    assert MaskGenerator in type(masks).__mro__
    assert isinstance(masks.config, type(masks).Config)
    assert [masks.refusal(request) for request in requests] == [None] * len(requests)
    seeds = range(len(requests))
    drawn = masks.draw(requests, [generator(seed, Stream.MASK) for seed in seeds])
    assert isinstance(drawn, list)
    for scores, request in zip(drawn, requests, strict=True):
        check_scores(scores, request)
        assert scores.calibrated == (masks.shift_bound is not None)
    turned = masks.draw(requests[::-1], [generator(seed, Stream.MASK) for seed in reversed(seeds)])[::-1]
    for seed, request in enumerate(requests):
        (alone,) = build().draw([request], [generator(seed, Stream.MASK)])
        _assert_same(drawn[seed], alone, request)
        _assert_same(turned[seed], alone, request)
    one, other = masks.draw([requests[0]] * 2, [generator(seed, Stream.MASK) for seed in (1, 2)])
    assert (one.fields != other.fields).any() or _allocated(one, requests[0]) != _allocated(other, requests[0])


def check_scores(scores: Scores, request: Request) -> None:
    """Check the rule of score fields, see `Scores`."""
    scheme, fields = request.scheme, scores.fields
    assert fields.shape == (len(scheme), request.height, request.width)
    assert fields.dtype == np.float32
    assert np.isfinite(fields).all()
    assert len(scores.fractions) == len(scheme)
    assert sum(scores.fractions) == pytest.approx(1.0)
    assert min(scores.fractions) >= 0
    if scores.calibrated:
        assert fields.flags.c_contiguous
        own = np.bincount(fields.argmax(0).ravel(), minlength=len(scheme)) / fields[0].size
        np.testing.assert_allclose(scores.fractions, own, err_msg="fractions are not those of the logits")
        return
    leftover = next(label.id for label in scheme.classes if not _REGION_ROLES & set(label.roles))
    assert not fields[leftover].any(), f"the field of what is left over, {scheme.names[leftover]}, is not 0"
    tissue = [label.id for label in scheme.classes if "air" not in label.roles]
    assert fields[tissue].max() <= 0, "a field of tissue is above that of what is left over"


def check_empty_and_full(build: Build, scheme: LabelScheme, size: tuple[int, int], mpp: float = 0.5) -> None:
    """Check tiles without tissue and without air, where the scheme has air."""
    air = scheme.ids("air")
    empty = realise(build(), Request(*size, mpp, scheme, tissue=0.0), 0)
    assert np.isin(empty.semantic, air).all()
    assert not empty.instance.any()
    full = realise(build(), Request(*size, mpp, scheme, tissue=1.0), 0)
    assert not np.isin(full.semantic, air).any()


def realise(masks: MaskGenerator, request: Request, seed: int) -> Tile:
    """The first of a few attempts that meets the request, as the pipeline does it."""
    for attempt in range(ATTEMPTS):
        (scores,) = masks.draw([request], [generator(seed, Stream.MASK, attempt)])
        try:
            return allocate(scores, request, generator(seed, Stream.TIES, attempt)).tile
        except Unmet as error:
            last = error
    raise last


def _assert_same(one: Scores, other: Scores, request: Request) -> None:
    """Check that two draws are equal bit by bit, cells included."""
    np.testing.assert_array_equal(one.fields, other.fields)
    assert replace(one, fields=other.fields, cells=None) == replace(other, cells=None)
    assert _allocated(one, request) == _allocated(other, request)


def _allocated(scores: Scores, request: Request) -> tuple[bytes, bytes] | str:
    try:
        tile = allocate(scores, request, generator(0, Stream.TIES)).tile
    except Unmet as error:
        return str(error)
    arrays: tuple[npt.NDArray[np.generic], ...] = (tile.semantic, tile.instance)
    return arrays[0].tobytes(), arrays[1].tobytes()
