"""Stains of H&E: images composed of known ones give them back, and get those of others."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from factory.core.config import parse
from manifests import get_scheme
from manifests.errors import UserError
from segment.data.references import macenko_references, stain_reference
from segment.data.stains import MacenkoConfig, Stains, estimate_stains, median_stains, mix_densities, restain, transfer

NUCLEI = get_scheme("nuclei")


def unit(*values: float) -> tuple[float, float, float]:
    red, green, blue = (np.array(values) / np.linalg.norm(values)).tolist()
    return red, green, blue


ONE = Stains(haematoxylin=unit(0.65, 0.70, 0.29), eosin=unit(0.07, 0.99, 0.11), strength=(2.0, 1.5))
OTHER = Stains(haematoxylin=unit(0.55, 0.74, 0.39), eosin=unit(0.16, 0.82, 0.54), strength=(2.6, 1.2))


def tissue(stains: Stains, seed: int = 0, side: int = 64) -> np.ndarray:
    """Pixels of both stains in every proportion, some of each alone; their 99th percentile is about `strength`."""
    rng = np.random.default_rng(seed)
    share = np.clip(rng.uniform(-0.2, 1.2, (side, side)), 0, 1)
    amount = np.stack([1 - share, share], -1) * rng.uniform(0.3, 1, (side, side, 1)) * stains.strength
    return np.rint(255 * np.exp(-amount @ np.array([stains.haematoxylin, stains.eosin]))).astype(np.uint8)


def angle(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return float(np.degrees(np.arccos(min(np.dot(one, other), 1))))


@pytest.mark.parametrize("stains", [ONE, OTHER])
def test_stains_of_an_image_are_found(stains: Stains) -> None:
    found = estimate_stains([tissue(stains)])
    assert found is not None
    assert angle(found.haematoxylin, stains.haematoxylin) < 3
    assert angle(found.eosin, stains.eosin) < 3
    np.testing.assert_allclose(found.strength, stains.strength, rtol=0.15)


def test_an_image_with_other_stains_looks_as_if_it_had_been_stained_so() -> None:
    wanted, got = tissue(OTHER), restain(tissue(ONE), ONE, OTHER)
    assert np.abs(wanted.astype(int) - got.astype(int)).max() <= 12  # dark pixels of 8 bits
    assert np.abs(wanted.astype(int) - got.astype(int)).mean() < 1


vectors = st.tuples(*[st.floats(0.05, 1)] * 3).map(lambda values: unit(*values))


@settings(max_examples=30, deadline=None)
@given(vectors, vectors, st.tuples(st.floats(1, 3), st.floats(1, 3)))
def test_transfer_there_and_back_changes_nothing_and_keeps_white(
    haematoxylin: tuple[float, float, float], eosin: tuple[float, float, float], strength: tuple[float, float]
) -> None:
    if angle(haematoxylin, eosin) < 5:
        return
    stains = Stains(haematoxylin=haematoxylin, eosin=eosin, strength=strength)
    there, back = transfer(ONE, stains), transfer(stains, ONE)
    np.testing.assert_allclose(back @ there, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(there @ ONE.haematoxylin, np.multiply(haematoxylin, strength[0] / 2), atol=1e-9)
    assert (mix_densities(np.full((2, 2, 3), 255, np.uint8), there) == 255).all()


def test_too_little_tissue_or_one_stain_alone_is_none() -> None:
    glass = np.full((64, 64, 3), 245, np.uint8)
    glass[:2] = tissue(ONE)[:2]
    assert estimate_stains([glass]) is None
    assert estimate_stains([np.full((64, 64, 3), (120, 60, 160), np.uint8)]) is None
    assert estimate_stains([]) is None


def test_reference_of_a_folder_is_the_median_of_its_images(tmp_path: Path) -> None:
    images = [tissue(ONE), tissue(ONE, 1), tissue(OTHER, 2)]
    for number, image in enumerate([*images, np.full((64, 64, 3), 250, np.uint8)]):
        Image.fromarray(image).save(tmp_path / f"p{number}.png")
    found = [stains for image in images if (stains := estimate_stains([image]))]
    reference = stain_reference(tmp_path, NUCLEI)
    assert reference == median_stains(found)
    assert angle(reference.haematoxylin, ONE.haematoxylin) < 3
    assert stain_reference(tmp_path / "p2.png", NUCLEI).haematoxylin == pytest.approx(found[2].haematoxylin)
    config = MacenkoConfig(probability=1.0, references=str(tmp_path))
    assert macenko_references(config, NUCLEI, []) == tuple(found)
    assert macenko_references(MacenkoConfig(), NUCLEI, []) == ()


def test_references_that_cannot_be_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(tmp_path / "glass.png")
    with pytest.raises(UserError, match=r"expected images of stained tissue .*, got none"):
        stain_reference(tmp_path, NUCLEI)
    with pytest.raises(UserError, match=r"expected an image, a folder of images or a data set, got none"):
        stain_reference(tmp_path / "absent", NUCLEI)
    with pytest.raises(UserError, match=r"expected a scheme of H&E, got ihc, whose classes differ by their stain"):
        macenko_references(MacenkoConfig(probability=0.5), get_scheme("ihc"), [])
    with pytest.raises(UserError, match="expected a probability above 0 with references"):
        parse(MacenkoConfig, {"references": "images"}, "config")
