"""Every renderer of the table keeps the contract, and renderers that break it are found out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from factory.core.config import parse
from factory.core.seeds import Stream, generator
from factory.learn.base import UsesWeights
from factory.plan.request import Request
from factory.renderers import COLLECTED, RENDERERS
from factory.renderers.base import Image, Renderer, resolve_renderer
from factory.renderers.conditions import Condition
from factory.renderers.palette import Palette
from manifests.labels import SCHEMES, get_scheme
from manifests.tile import Tile
from tests.annotated_photograph import bank_of_photograph
from tests.factory.renderers.contract import Build, check_renderer, conditioned
from tests.factory.renderers.test_stain import discs
from tests.mask_training import SIZE, blobs, trained_once

pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")

LIGHT = {
    "width": 4, "downs": 3, "blocks": 1, "kernel": 3, "upsampling": "resize", "norm": "batch", "modulated": True,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "pix2pixhd like the light preset": {"network": LIGHT, "steps": 40, "look_every": 40, "learning_rate": 5e-3},
    "pix2pixhd like the paper's": {"network": {"width": 4, "downs": 3, "blocks": 2}, "look": False},
}
"""Other networks that a renderer may have, beside the smallest of each."""


def schemes_of(name: str) -> Sequence[str]:
    return ("ki67",) if issubclass(resolve_renderer(name), UsesWeights) else tuple(SCHEMES)


PAIRS = [(name, scheme) for name in RENDERERS for scheme in schemes_of(name)]
LEARNT = [
    name
    for name in (*RENDERERS, *VARIANTS)
    if name not in COLLECTED and issubclass(resolve_renderer(name.split()[0]), UsesWeights)
]


@pytest.fixture(scope="module")
def build_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Build]:
    """``build_of("pix2pix")``: makes that renderer, with weights that were trained for a few steps."""
    weights = trained_once(tmp_path_factory.mktemp("weights"), "renderers")
    bank = bank_of_photograph(tmp_path_factory.mktemp("bank"), "ki67")

    def build_for(variant: str, **values: Any) -> Build:
        name = variant.split()[0]
        part = resolve_renderer(name)
        if not issubclass(part, UsesWeights):
            return lambda: part(part.Config())
        if name in COLLECTED:
            return lambda: part(parse(part.Config, {"bank": str(bank)}, "renderer").model_copy(update=values))
        run = weights(name, "ki67", **VARIANTS.get(variant, {}))
        config = part(parse(part.Config, {"weights": str(run), "precision": "fp32", **values}, "renderer"), "cpu")
        resolved = config.resolved_config()
        return lambda: part(resolved)

    return build_for


def tile_of(semantic: npt.NDArray[np.uint8], scheme: str) -> Tile:
    """A tile with discs as instances, off the air."""
    labels = get_scheme(scheme)
    instance = discs(*semantic.shape, radius=4, spacing=24)
    instance[np.isin(semantic, labels.ids("air"))] = 0
    return Tile(semantic, instance, 0.5, labels)


def tiles_for(scheme: str) -> list[Tile]:
    """Tiles of several sizes with all classes."""
    classes = len(get_scheme(scheme))
    return [tile_of(blobs(seed, classes, size), scheme) for seed, size in enumerate([SIZE, (64, 64), (96, 64)])]


def plain_tiles(scheme: str) -> list[Tile]:
    """A tile of each class alone, without instances: empty and full ones among them."""
    labels = get_scheme(scheme)
    bare = np.zeros(SIZE, np.int32)
    return [Tile(np.full(SIZE, label.id, np.uint8), bare, 0.5, labels) for label in labels.classes]


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
def test_every_renderer_keeps_the_contract(name: str, scheme: str, build_of: Callable[..., Build]) -> None:
    check_renderer(build_of(name), tiles_for(scheme))


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
def test_empty_and_full_tiles_are_rendered(name: str, scheme: str, build_of: Callable[..., Build]) -> None:
    check_renderer(build_of(name), plain_tiles(scheme))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", LEARNT)
def test_renderers_with_weights_keep_the_contract_in_each_precision(
    variant: str, precision: str, build_of: Callable[..., Build]
) -> None:
    build = build_of(variant, precision=precision)
    check_renderer(build, tiles_for("ki67"))
    for height, width in (SIZE, (64, 32), (96, 64)):
        assert build().refusal(Request(height, width, 0.5, get_scheme("ki67"))) is None
    (image,) = build().render([conditioned(build(), tiles_for("ki67")[0], 0)], [generator(0, Stream.RENDER)])
    assert len(np.unique(image)) > 8


class Broken(Palette):
    """Base of renderers that break one rule each."""

    def render(self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]) -> list[Image]:
        return [self.spoilt(image, rng) for image, rng in zip(super().render(conditions, rngs), rngs, strict=True)]

    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return image ^ rng.integers(0, 2, image.shape, np.uint8)


class Floats(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return image / np.float32(255)  # type: ignore[return-value]


class ThreeByThree(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return np.zeros((3, 3), np.float32)  # type: ignore[return-value]


class ChannelsFirst(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return np.ascontiguousarray(image.transpose(2, 0, 1))


class Transposed(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return np.ascontiguousarray(image.transpose(1, 0, 2))


class WithAlpha(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return np.concatenate([image, image[..., :1]], axis=2)


class AView(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return image[:, :, ::-1]


class Unseeded(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        return image ^ np.random.default_rng().integers(0, 2, image.shape, np.uint8)


class Remembers(Broken):
    def spoilt(self, image: Image, rng: np.random.Generator) -> Image:
        self.count = getattr(self, "count", 0) + 1
        return image + np.uint8(self.count)


class SharedGenerator(Broken):
    def render(self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]) -> list[Image]:
        return super().render(conditions, [rngs[0]] * len(rngs))


class OneTooFew(Broken):
    def render(self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]) -> list[Image]:
        return super().render(conditions, rngs)[:-1]


class DrawsOnTheMap(Broken):
    def render(self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]) -> list[Image]:
        images = super().render(conditions, rngs)
        for condition in conditions:
            condition.array[:] = 0
        return images


class MadeUpOrigin(Broken):
    label_origin = "drawn"  # type: ignore[assignment]


@pytest.mark.parametrize("broken", Broken.__subclasses__(), ids=lambda broken: broken.__name__)
def test_a_broken_renderer_fails_the_contract(broken: type[Renderer]) -> None:
    check_renderer(lambda: Broken(Broken.Config()), tiles_for("pdl1"))
    with pytest.raises((AssertionError, ValueError)):
        check_renderer(lambda: broken(broken.Config()), tiles_for("pdl1"))
