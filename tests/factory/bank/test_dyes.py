"""Dyes measured on real images, and tissue shown in them."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from factory.bank.dyes import Dyes, dyes_like, measure_dyes, show_in_dyes
from factory.bank.stain_separation import Stains, compose, estimate_stains, separate, stain_of
from factory.renderers.stain.dyes import DAB, EOSIN, HAEMATOXYLIN_HE
from manifests.errors import UserError
from tests.ingest_files import save

MPP = 0.5
Image = npt.NDArray[np.uint8]
VIOLET = Dyes(
    source="lab/slide",
    licence="CC0-1.0",
    stain="ihc",
    background=(252, 248, 251),
    haematoxylin=(0.7, 0.63, 0.34),
    second=DAB,
    ground=0.09,
    nuclei=0.45,
    dark=1.0,
    eosin=0.02,
)


@pytest.fixture(scope="module")
def stroma() -> Image:
    """The part of the photograph between its brown glands."""
    return np.ascontiguousarray(data.immunohistochemistry()[200:, 390:])


@pytest.fixture(scope="module")
def pink(stroma: Image) -> Image:
    """The same tissue as if it were stained by haematoxylin and eosin."""
    haematoxylin = np.maximum(separate(stroma, estimate_stains([stroma]))[0], 0).reshape(-1)
    eosin = 0.3 * (haematoxylin > 0.03)
    stains = Stains(np.full(3, 244.0), np.asarray(HAEMATOXYLIN_HE), np.asarray(EOSIN))
    densities = np.stack([2 * haematoxylin, eosin, 0 * eosin]).astype(np.float32)
    return compose(densities, stains).reshape(stroma.shape)


def measured(image: Image) -> Dyes:
    found = measure_dyes([image], MPP, "here")
    assert found is not None
    return found


def test_tissue_has_the_dyes_that_it_is_shown_in(stroma: Image, pink: Image) -> None:
    for image in (stroma, pink):
        shown = measured(show_in_dyes(image, measured(image), VIOLET))
        assert shown.stain == "ihc"
        np.testing.assert_allclose(shown.haematoxylin, VIOLET.haematoxylin, atol=0.05)
        assert shown.ground == pytest.approx(VIOLET.ground, rel=0.3)
        assert shown.nuclei == pytest.approx(VIOLET.nuclei, rel=0.2)


def test_tissue_in_its_own_dyes_is_as_it_was_and_air_takes_the_new_light(stroma: Image, pink: Image) -> None:
    for image in (stroma, pink):
        own = measured(image)
        usual = (image.min(axis=2) > 70) & (image <= np.floor(own.background)).all(axis=2)
        np.testing.assert_allclose(show_in_dyes(image, own, own)[usual], image[usual], atol=2)
    air = np.full((64, 64, 3), np.rint(measured(stroma).background), np.uint8)
    np.testing.assert_allclose(show_in_dyes(air, measured(stroma), VIOLET)[0, 0], VIOLET.background, atol=1)


def test_the_density_of_dab_stays(stroma: Image) -> None:
    own = measured(stroma)
    density = np.zeros((3, stroma[..., 0].size), np.float32)
    density[1] = 0.8
    brown = compose(density, own.stains).reshape(stroma.shape)
    dab = separate(show_in_dyes(brown, own, VIOLET), VIOLET.stains)[1]
    assert np.median(dab) == pytest.approx(0.8, abs=0.05)


def test_eosin_and_violet_haematoxylin_are_told_apart(stroma: Image, pink: Image) -> None:
    assert stain_of([pink]) == "he"
    assert stain_of([stroma]) == stain_of([show_in_dyes(pink, measured(pink), VIOLET)]) == "ihc"


def test_every_file_of_a_folder_is_a_slide(tmp_path: Path, stroma: Image) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", stroma)
    assert [dyes.source for dyes in dyes_like(tmp_path, MPP)] == [f"{tmp_path.name}/a", f"{tmp_path.name}/b"]


def test_references_without_use_are_refused(tmp_path: Path, stroma: Image, pink: Image) -> None:
    with pytest.raises(UserError, match="expected a data set, a folder of images or an image"):
        dyes_like(tmp_path, MPP)
    save(tmp_path / "white.png", np.full((64, 64, 3), 245, np.uint8))
    with pytest.raises(UserError, match="expected images with stained tissue, got none"):
        dyes_like(tmp_path, MPP)
    save(tmp_path / "pink.png", pink)
    save(tmp_path / "blue.png", cv2.GaussianBlur(stroma, (0, 0), 0.5))
    with pytest.raises(UserError, match="expected H&E or immunostains, got both"):
        dyes_like(tmp_path, MPP)
