"""Shipped presets of mask generators: each loads, and the published outlines differ from the default as documented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from skimage.measure import regionprops

from factory.core.config import parse
from factory.core.registry import resolve
from factory.core.shipped import configs_dir
from factory.masks import MASKS
from factory.masks.allocate import allocate
from factory.masks.nuclei import Nuclei, NucleiConfig
from factory.plan.request import Request
from manifests.labels import SCHEMES

PRESETS = sorted((configs_dir() / "masks").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_loads(path: Path) -> None:
    values = dict(yaml.safe_load(path.read_text())["masks"])
    generator = resolve(MASKS, values.pop("name"), "--masks")
    generator(parse(generator.Config, values, str(path)))


def solidity(config: NucleiConfig) -> float:
    request = Request(256, 256, 0.25, SCHEMES["nuclei"])
    values = []
    for seed in range(16):
        (scores,) = Nuclei(config).draw([request], [np.random.default_rng(seed)])
        instance = allocate(scores, request, np.random.default_rng(seed + 1000)).tile.instance
        values += [region.solidity for region in regionprops(instance) if region.area >= 60]
    return float(np.median(values))


def test_default_outlines_are_as_solid_as_annotated_nuclei_and_the_published_ones_less() -> None:
    values = dict(yaml.safe_load((configs_dir() / "masks" / "hou2019.yaml").read_text())["masks"])
    published = parse(NucleiConfig, {key: value for key, value in values.items() if key != "name"}, "hou2019.yaml")
    # 0.957 is the median of 6612 annotated nuclei of MoNuSeg's training set (bench/stain_constants.py)
    default = solidity(NucleiConfig())
    assert default == pytest.approx(0.957, abs=0.01)
    assert solidity(published) < default - 0.008


def test_published_nuclei_are_of_one_kind_and_as_many_as_published() -> None:
    values = dict(yaml.safe_load((configs_dir() / "masks" / "hou2019.yaml").read_text())["masks"])
    published = parse(NucleiConfig, {key: value for key, value in values.items() if key != "name"}, "hou2019.yaml")
    assert published.shares == (1.0, 0.0, 0.0)
    assert published.tumour.elongation == (1.0, 1.0)
    assert published.clusters == 0.0
    # mean and spread of N(30 d + 20, 40) in 460x460 px and of N(1.2 + d / 8, 0.32) over d of U(0, 3)
    rng = np.random.default_rng(0)
    d, deviates = rng.uniform(0, 3, 100_000), rng.normal(size=(2, 100_000))
    counts = (30 * d + 20 + 40 * deviates[0]) * (256 / 460) ** 2
    sizes = 1.2 + d / 8 + 0.32 * deviates[1]
    assert published.crowding == (0.0, 0.0)
    assert (20.0, published.count_spread) == pytest.approx((counts.mean(), counts.std()), rel=0.03)
    assert (published.bias, published.bias_spread) == pytest.approx((sizes.mean(), sizes.std()), rel=0.02)
