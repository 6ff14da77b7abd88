"""The weights that come with the package: small, whole, known for what they are, and of use on an image never seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from skimage import data

from factory.core.checkpoints import BEST, read_tensors
from manifests.errors import UserError
from segment.network.instances import read_tile
from segment.network.weights import STARTER, load_weights, write_weights
from segment.starter.pack import pack

pytestmark = pytest.mark.usefixtures("one_thread")


def test_starter_is_small_trained_on_real_tiles_alone_and_says_what_it_is() -> None:
    weights = load_weights("starter", "cpu")
    assert STARTER.stat().st_size <= 16_000_000
    assert weights.scheme.name == "nuclei"
    assert weights.card["mix"] == "real"
    assert set(weights.card["trained_on"]) == {"real"}
    assert weights.card["mpp"] == [0.25]
    assert len(weights.card["groups"]) == 16
    assert weights.card["licences"] == ["CC BY-NC-SA 4.0"]
    assert "not for diagnosis" in weights.card["use"]
    beside = json.loads(STARTER.with_suffix(".json").read_text())
    assert beside["sha256"]
    assert {key: beside[key] for key in weights.card if key in beside} == weights.card


def test_starter_finds_dark_nuclei_on_an_image_it_never_saw() -> None:
    image = data.immunohistochemistry()[:256, :256]  # the only tissue that scikit-image ships
    weights = load_weights("starter", "cpu")
    maps = weights.predict(image)
    tile = read_tile(maps, weights.scheme, 0.25, weights.instances)
    grey = image.mean(axis=2)
    assert tile.instance.max() > 20
    assert grey[tile.instance > 0].mean() < grey[tile.instance == 0].mean() - 20
    areas = np.bincount(tile.instance.ravel())[1:] * 0.25**2
    assert 5 < np.median(areas) < 100  # square micrometres of a nucleus


def test_packing_halves_the_numbers_and_keeps_the_card(tmp_path: Path) -> None:
    card = json.loads(STARTER.with_suffix(".json").read_text())
    write_weights(tmp_path / BEST, {n: t.float() for n, t in read_tensors(STARTER).items()}, card)
    pack(tmp_path, tmp_path / "small.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < 0.6 * (tmp_path / BEST).stat().st_size
    assert load_weights(tmp_path / "small.safetensors", "cpu").card["instances"] == card["instances"]


def test_a_file_of_that_name_goes_before_the_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({}, "starter")
    with pytest.raises(UserError, match="starter"):
        load_weights("starter", "cpu")
