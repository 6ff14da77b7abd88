"""Adding a mask generator or a renderer: one file, one line of a table, and nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from factory.masks import MASKS
from factory.masks.base import resolve_mask_generator
from factory.plan.request import Request
from factory.renderers import RENDERERS
from factory.renderers.base import resolve_renderer
from manifests import open_dataset
from manifests.labels import get_scheme
from manifests.tile import Tile
from tests.conftest import Outcome, assert_refused
from tests.factory.masks.contract import check_empty_and_full, check_mask_generator
from tests.factory.renderers.contract import check_renderer

Cli = Callable[..., Outcome]

STRIPES = '''
"""Tissue in stripes."""

import numpy as np
from pydantic import Field

from factory.core.config import Config
from factory.masks.allocate import Scores, check
from factory.masks.base import MaskGenerator


class StripesConfig(Config):
    """Stripes and their width."""

    width_px: int = Field(default=8, ge=1)


class Stripes(MaskGenerator):
    """Draws stripes of tissue and air."""

    schemes = ("tissue",)
    Config = StripesConfig
    config: StripesConfig

    def refusal(self, request):
        return check(request)

    def draw(self, requests, rngs):
        return [self._draw(request, rng) for request, rng in zip(requests, rngs, strict=True)]

    def _draw(self, request, rng):
        columns = np.arange(request.width) // self.config.width_px % 2
        air = columns.astype(np.float32) + rng.random((request.height, request.width), np.float32)
        return Scores(np.stack([air, np.zeros_like(air)]), (0.5, 0.5))
'''

WASH = '''
"""One colour a class, a little lighter or darker in each tile."""

import numpy as np
from pydantic import Field

from factory.core.config import Config
from factory.renderers.base import Renderer
from factory.renderers.conditions import ConditionConfig


class WashConfig(Config):
    """How far tiles differ."""

    spread: int = Field(default=20, ge=0, le=100)


class Wash(Renderer):
    """Paints classes in grey."""

    condition = ConditionConfig(kind="polygons")
    label_origin = "exact"
    Config = WashConfig
    config: WashConfig

    def render(self, conditions, rngs):
        return [self._render(condition, rng) for condition, rng in zip(conditions, rngs, strict=True)]

    def _render(self, condition, rng):
        shade = 100 + 40 * condition.array + int(rng.integers(self.config.spread + 1))
        return np.stack([shade.astype(np.uint8)] * 3, axis=2)
'''


@pytest.fixture
def _two_new_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask generator ``stripes`` and the renderer ``wash``, in a package outside of the factory."""
    package = tmp_path / "extra_parts"
    package.mkdir()
    for name, text in (("__init__", ""), ("stripes", STRIPES), ("wash", WASH)):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setitem(MASKS, "stripes", "extra_parts.stripes:Stripes")
    monkeypatch.setitem(RENDERERS, "wash", "extra_parts.wash:Wash")


@pytest.mark.usefixtures("_two_new_parts")
def test_new_parts_keep_the_contracts() -> None:
    scheme = get_scheme("tissue")
    masks, renderer = resolve_mask_generator("stripes"), resolve_renderer("wash")
    requests = [Request(height, width, 0.5, scheme) for height, width in ((32, 64), (64, 64))]
    check_mask_generator(lambda: masks(masks.Config()), requests)
    check_empty_and_full(lambda: masks(masks.Config()), scheme, (32, 32))
    tiles = [Tile(np.full(size, fill, np.uint8), np.zeros(size, np.int32), 0.5, scheme)
             for size in ((32, 64), (64, 64)) for fill in (0, 1)]  # fmt: skip
    check_renderer(lambda: renderer(renderer.Config()), tiles)


@pytest.mark.usefixtures("_two_new_parts")
def test_make_takes_new_parts_by_name(cli: Cli, tmp_path: Path) -> None:
    asked = ("--scheme", "tissue", "--tissue", "0.25", "--size", "32x64", "--n", "3", "--seed", "1", "--workers", "1")
    parts = ("--masks", "stripes", "--renderer", "wash", "--set", "masks.width_px=4", "--set", "renderer.spread=50")
    made = cli("factory", "make", *asked, *parts, "--out", "data/new")
    assert made.code == 0, made.err
    dataset = open_dataset(tmp_path / "data/new")
    rows = dataset.table.to_pylist()
    assert {(row["mask_generator"], row["renderer"], row["label_origin"]) for row in rows} == {
        ("stripes", "wash", "exact")
    }
    assert [row["tissue_fraction"] for row in rows] == [0.25] * 3
    assert cli("factory", "replay", rows[0]["sample_id"], "--data", "data/new").code == 0


@pytest.mark.usefixtures("_two_new_parts")
def test_errors_list_new_parts(cli: Cli) -> None:
    assert_refused(cli("factory", "make", "--masks", "stripe"), r"--masks: expected one of .*stripes.*mean stripes")
    assert_refused(cli("factory", "make", "--renderer", "wosh"), r"--renderer: expected one of .*wash.*mean wash")


@pytest.mark.usefixtures("_two_new_parts")
def test_doctor_examines_new_parts(cli: Cli) -> None:
    from factory.doctor.examine import examine_parts

    found = {finding.name: finding.state for finding in examine_parts()}
    assert found["mask generator stripes"] == found["renderer wash"] == "ok"


@pytest.mark.usefixtures("_two_new_parts")
def test_help_lists_new_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from factory.make import request as options

    fresh = importlib.reload(options)
    try:
        assert "stripes" in str(fresh.Masks.__metadata__[0].help)
        assert "wash" in str(fresh.Renderer.__metadata__[0].help)
    finally:
        monkeypatch.undo()
        importlib.reload(options)
