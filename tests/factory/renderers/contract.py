"""The contract of a renderer, as functions: whatever stands in the table keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from factory.core.seeds import Stream, generator
from factory.renderers.base import Image, Renderer
from factory.renderers.conditions import Condition, ConditionConfig, draw_condition
from manifests.tile import Tile

Build = Callable[[], Renderer]


def check_renderer(build: Build, tiles: Sequence[Tile]) -> None:
    """Check form, seeds and independence of the batch.

    Args:
        build: makes the renderer anew. tiles: at least two that it renders, of different sizes.
    """
    renderer = build()
    assert Renderer in type(renderer).__mro__
    assert isinstance(renderer.config, type(renderer).Config)
    assert isinstance(renderer.condition, ConditionConfig)
    assert renderer.label_origin in ("exact", "conditioned")
    conditions = [conditioned(renderer, tile, seed) for seed, tile in enumerate(tiles)]
    seeds = range(len(tiles))
    before = [condition.array.copy() for condition in conditions]
    images = renderer.render(conditions, [generator(seed, Stream.RENDER) for seed in seeds])
    for condition, array in zip(conditions, before, strict=True):
        np.testing.assert_array_equal(condition.array, array, err_msg="the condition map was changed")
    assert isinstance(images, list)
    for image, tile in zip(images, tiles, strict=True):
        check_image(image, tile)
    turned = renderer.render(conditions[::-1], [generator(seed, Stream.RENDER) for seed in reversed(seeds)])[::-1]
    for seed, condition in enumerate(conditions):
        (alone,) = build().render([condition], [generator(seed, Stream.RENDER)])
        np.testing.assert_array_equal(images[seed], alone)
        np.testing.assert_array_equal(turned[seed], alone)


def check_image(image: Image, tile: Tile) -> None:
    """Check the form of an image."""
    assert image.shape == (*tile.semantic.shape, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


def conditioned(renderer: Renderer, tile: Tile, seed: int) -> Condition:
    """The condition map of a tile, as the pipeline draws it."""
    return draw_condition(renderer.condition, tile, generator(seed, Stream.CONDITION))
