"""The parts that the pages of Extend show keep the contracts once they stand in a table."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from factory.masks import MASKS
from factory.masks.base import resolve_mask_generator
from factory.plan.request import Request
from factory.renderers import RENDERERS
from factory.renderers.base import resolve_renderer
from manifests.labels import get_scheme
from manifests.tile import Tile
from tests.docs.pages import ROOT, blocks
from tests.factory.masks.contract import check_mask_generator
from tests.factory.renderers.contract import check_renderer


@pytest.fixture
def _shown_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the examples of both pages into a package and name them in the tables."""
    package = tmp_path / "shown_parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for page, name in (("mask-generator", "stripes"), ("renderer", "wash")):
        (example,) = blocks(ROOT / f"docs/extend/{page}.md", "python")
        (package / f"{name}.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setitem(MASKS, "stripes", "shown_parts.stripes:Stripes")
    monkeypatch.setitem(RENDERERS, "wash", "shown_parts.wash:Wash")


@pytest.mark.usefixtures("_shown_parts")
def test_the_shown_mask_generator_keeps_the_contract() -> None:
    masks = resolve_mask_generator("stripes")
    requests = [Request(height, width, 0.5, get_scheme("tissue")) for height, width in ((32, 64), (64, 64))]
    check_mask_generator(lambda: masks(masks.Config()), requests)


@pytest.mark.usefixtures("_shown_parts")
def test_the_shown_renderer_keeps_the_contract() -> None:
    renderer = resolve_renderer("wash")
    sizes = [(32, 64), (64, 64)]
    tiles = [
        Tile(np.full(size, fill, np.uint8), np.zeros(size, np.int32), 0.5, get_scheme("tissue"))
        for size in sizes
        for fill in (0, 1)
    ]
    check_renderer(lambda: renderer(renderer.Config()), tiles)
