"""Every mask generator of the table keeps the contract, and generators that break it are found out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from factory.core.config import parse
from factory.learn.base import UsesWeights
from factory.masks import MASKS
from factory.masks.allocate import Scores
from factory.masks.base import MaskGenerator, resolve_mask_generator
from factory.masks.polygons import Polygons
from factory.plan.request import Request
from manifests.labels import SCHEMES, get_scheme
from tests.factory.masks.contract import Build, check_empty_and_full, check_mask_generator
from tests.mask_training import SIZE, trained_once

pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")

LEARNT = ("tissue", "pdl1_cells")
"""Schemes that small weights are trained on."""


def schemes_of(name: str) -> Sequence[str]:
    part = resolve_mask_generator(name)
    return LEARNT if issubclass(part, UsesWeights) else [scheme for scheme in part.schemes if scheme in SCHEMES]


PAIRS = [(name, scheme) for name in MASKS for scheme in schemes_of(name)]


@pytest.fixture(scope="module")
def build_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Build]:
    """``build_of("depas", "tissue")``: makes that generator, with weights that were trained for a few steps."""
    weights = trained_once(tmp_path_factory.mktemp("weights"))

    def build_for(name: str, scheme: str, **values: Any) -> Build:
        part = resolve_mask_generator(name)
        if not issubclass(part, UsesWeights):
            return lambda: part(part.Config())
        values = {"weights": str(weights(name, scheme)), "precision": "fp32", **values}
        config = part(parse(part.Config, values, "masks"), "cpu").resolved_config()
        return lambda: part(config)

    return build_for


def request_for(scheme: str, height: int, width: int, **more: Any) -> Request:
    asked = {"tps": 0.3} if get_scheme(scheme).ids("tumour_positive") else {}
    return Request(height, width, 0.5, get_scheme(scheme), **(asked | more))


def sizes_of(name: str) -> list[tuple[int, int]]:
    if not issubclass(resolve_mask_generator(name), UsesWeights):
        return [(96, 128), (64, 64), (160, 96)]
    return [SIZE] * 3 if name == "dcgan" else [SIZE, (64, 32), (96, 64)]


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
def test_every_mask_generator_keeps_the_contract(name: str, scheme: str, build_of: Callable[..., Build]) -> None:
    check_mask_generator(build_of(name, scheme), [request_for(scheme, *size) for size in sizes_of(name)])


@pytest.mark.parametrize("name", [name for name in MASKS if issubclass(resolve_mask_generator(name), UsesWeights)])
def test_half_precision_keeps_the_contract(name: str, build_of: Callable[..., Build]) -> None:
    requests = [request_for("tissue", *size, tissue=0.4) for size in sizes_of(name)]
    check_mask_generator(build_of(name, "tissue", precision="bf16"), requests)


@pytest.mark.parametrize(("name", "scheme"), [pair for pair in PAIRS if get_scheme(pair[1]).ids("air")])
def test_a_tile_may_be_all_air_or_without_air(name: str, scheme: str, build_of: Callable[..., Build]) -> None:
    check_empty_and_full(build_of(name, scheme), get_scheme(scheme), sizes_of(name)[0])


class Broken(Polygons):
    """Base of generators that break one rule each."""

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        return [self.spoilt(scores) for scores in super().draw(requests, rngs)]

    def spoilt(self, scores: Scores) -> Scores:
        return scores

    def with_field(self, scores: Scores, label: int, value: float) -> Scores:
        fields = scores.fields.copy()
        fields[label, 0, 0] = value
        return dataclasses.replace(scores, fields=fields)


class LeftoverAboveZero(Broken):
    def spoilt(self, scores: Scores) -> Scores:
        return self.with_field(scores, 0, 0.5)


class TissueAboveLeftover(Broken):
    def spoilt(self, scores: Scores) -> Scores:
        return self.with_field(scores, 2, 0.5)


class NotANumber(Broken):
    def spoilt(self, scores: Scores) -> Scores:
        return self.with_field(scores, 4, np.nan)


class Doubles(Broken):
    def spoilt(self, scores: Scores) -> Scores:
        return dataclasses.replace(scores, fields=scores.fields.astype(np.float64))  # type: ignore[arg-type]


class ClassMissing(Broken):
    def spoilt(self, scores: Scores) -> Scores:
        return dataclasses.replace(scores, fields=scores.fields[:-1])


class SharesBelowOne(Broken):
    def spoilt(self, scores: Scores) -> Scores:
        return dataclasses.replace(scores, fractions=tuple(share / 2 for share in scores.fractions))


class FalselyCalibrated(Broken):
    shift_bound = 1.0

    def spoilt(self, scores: Scores) -> Scores:
        return dataclasses.replace(scores, calibrated=True)


class Unseeded(Broken):
    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        return super().draw(requests, [np.random.default_rng() for _ in rngs])


class DeafToTheSeed(Broken):
    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        return super().draw(requests, [np.random.default_rng(0) for _ in rngs])


class SharedGenerator(Broken):
    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        return super().draw(requests, [rngs[0]] * len(rngs))


class OneTooFew(Broken):
    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        return super().draw(requests, rngs)[:-1]


@pytest.mark.parametrize("broken", Broken.__subclasses__(), ids=lambda broken: broken.__name__)
def test_a_broken_mask_generator_fails_the_contract(broken: type[MaskGenerator]) -> None:
    requests = [request_for("pdl1", *size) for size in sizes_of("polygons")]
    check_mask_generator(lambda: Broken(Broken.Config()), requests)
    with pytest.raises((AssertionError, ValueError)):
        check_mask_generator(lambda: broken(broken.Config()), requests)


class AlwaysSomeAir(Broken):
    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        return super().draw([dataclasses.replace(r, height=r.height + 1) for r in requests], rngs)


def test_a_broken_mask_generator_fails_on_empty_and_full_tiles() -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_empty_and_full(lambda: AlwaysSomeAir(Polygons.Config()), get_scheme("pdl1"), (64, 64))
