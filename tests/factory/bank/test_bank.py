"""Banks of real tissue: what is collected, how nuclei are filled, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factory.bank.bank import BLOCK, open_bank
from factory.bank.collect import choose_pages, collect
from factory.bank.ground import fibre_directions, fill_nuclei, unlabelled_nuclei
from factory.bank.shapes import measure_shapes
from manifests.errors import UserError
from manifests.table import write_dataset_manifest
from tests.annotated_photograph import MPP, write_photograph
from tests.conftest import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photograph(tmp_path_factory.mktemp("photograph"), "nuclei").root


@pytest.fixture(scope="module")
def bank_file(data: Path) -> Path:
    path = data.parent / "bank.safetensors"
    collect(choose_pages([data], None, 200, 0), path)
    return path


def test_a_bank_holds_the_training_tiles_alone(data: Path, bank_file: Path) -> None:
    bank = open_bank(bank_file)
    assert bank.slides == ("nuclei/00", "nuclei/0256", "nuclei/2560")
    assert bank.card.fields["licences"] == ["CC0-1.0"]
    assert bank.mpp == MPP
    assert bank.has_nuclei
    assert bank.card.fields["nuclei"] == {"nucleus": len(bank.nuclei)}


def test_pages_are_the_tiles_pixel_by_pixel(data: Path, bank_file: Path) -> None:
    bank, (first, *_) = open_bank(bank_file), choose_pages([data], None, 200, 0).chosen
    sample = first.dataset[first.position]
    pixels, (height, width) = bank.page(0)
    assert np.array_equal(bank.image[pixels].reshape(height, width, 3), sample.image)
    assert np.array_equal(bank.nucleus[pixels].reshape(height, width) > 0, sample.tile.instance > 0)
    assert len(bank.blocks) == 3 * (height // BLOCK) * (width // BLOCK)


def test_nuclei_of_a_bank_lie_where_their_page_has_them(bank_file: Path) -> None:
    bank = open_bank(bank_file)
    for row in range(0, len(bank.nuclei), 7):
        pixels, (height, width) = bank.page(int(bank.nuclei.page[row]))
        mask = bank.nucleus[pixels].reshape(height, width) == bank.nuclei.number[row]
        assert mask.sum() == bank.nuclei.area[row]
        assert np.allclose(np.argwhere(mask).mean(0), bank.nuclei.centre[row], atol=0.01)


def test_the_ground_differs_from_the_image_near_dark_bodies_alone(bank_file: Path) -> None:
    bank = open_bank(bank_file)
    changed = (bank.ground != bank.image).any(1)
    assert changed.any()
    assert not changed[bank.nucleus > 0].all() or changed[bank.nucleus > 0].mean() > 0.9
    pixels, (height, width) = bank.page(0)
    filled = bank.blocks[: (height // BLOCK) * (width // BLOCK), 0].reshape(height // BLOCK, width // BLOCK)
    blocks = changed[pixels].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).any((1, 3))
    assert not blocks[filled == 0].any()


def test_filled_nuclei_are_no_longer_dark() -> None:
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(200, 6, (128, 128, 3)), 0, 255).astype(np.uint8)
    ids = np.zeros((128, 128), np.int32)
    ids[40:60, 40:60] = 1
    ids[80:100, 20:50] = 2
    image[ids > 0] = 60
    ground, filled = fill_nuclei(image, ids, np.zeros_like(ids, bool), 0.25, rng)
    assert filled[ids > 0].all()
    assert abs(float(ground[ids > 0].mean()) - 200) < 5
    assert float(ground[ids == 1].std()) > 3  # the grain of the tissue, not the smear of a diffusion
    assert np.array_equal(ground[~filled], image[~filled])


def test_unlabelled_dark_bodies_are_found() -> None:
    image = np.full((128, 128, 3), 210, np.uint8)
    labelled, missed = np.zeros((2, 128, 128), bool)
    labelled[20:50, 20:50] = True
    missed[80:110, 80:110] = True
    image[labelled | missed] = 70
    found = unlabelled_nuclei(image, labelled, 0.5)
    assert found[missed].mean() > 0.9
    assert not found[labelled].any()


@pytest.mark.parametrize(("degrees", "cosine", "sine"), [(0, 1, 0), (90, -1, 0), (45, 0, 1), (135, 0, -1)])
def test_fibres_are_found_in_their_direction(degrees: float, cosine: float, sine: float) -> None:
    y, x = np.mgrid[:96, :96]
    across = -x * np.sin(np.deg2rad(degrees)) + y * np.cos(np.deg2rad(degrees))
    image = np.repeat((128 + 60 * np.sin(across / 2)).astype(np.uint8)[..., None], 3, axis=2)
    found = [plane[30:66, 30:66].mean() for plane in fibre_directions(image, 0.5)]
    assert found == pytest.approx([cosine, sine], abs=0.15)


def test_shapes_of_an_ellipse_and_of_a_cut_one() -> None:
    y, x = np.mgrid[:80, :120]
    ids = ((((x - 50) / 24) ** 2 + ((y - 40) / 12) ** 2) <= 1).astype(np.int32)
    ids[(((x - 119) / 10) ** 2 + ((y - 20) / 10) ** 2) <= 1] = 2
    shapes = measure_shapes(ids)
    assert shapes.centre[0] == pytest.approx([40, 50], abs=0.01)
    assert shapes.axes[0] == pytest.approx([12, 6], abs=0.2)  # half of the semi-axes
    assert shapes.radii[0, [0, 8, 16, 24]] == pytest.approx([24, 12, 24, 12], abs=0.7)  # to the edge of the last pixel
    assert list(shapes.cut) == [False, True]
    assert shapes.radii[1].min() > 0


def test_a_smaller_bank_takes_equally_from_every_slide(data: Path) -> None:
    everything = choose_pages([data], None, 200, 0)
    one_each = choose_pages([data], None, everything.size_bytes / 3e6 * 2.1, 0)
    assert len(one_each.chosen) == 2
    assert len({source.slide for source in one_each.chosen}) == 2


def test_the_same_bank_comes_out_twice(data: Path, bank_file: Path, tmp_path: Path) -> None:
    collect(choose_pages([data], None, 200, 0), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == bank_file.read_bytes()


def test_a_damaged_bank_is_refused(bank_file: Path, tmp_path: Path) -> None:
    content = bytearray(bank_file.read_bytes())
    content[-1000] ^= 1
    damaged = tmp_path / "bank.safetensors"
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        open_bank(damaged)


def test_synthetic_tiles_are_refused_even_if_they_hold_real_pixels(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "made", source="synthetic")
    for real_pixels in (False, True):
        write_dataset_manifest(
            made.root, len(made), made.table.to_pylist(), replace(made.info, real_pixels=real_pixels)
        )
        with pytest.raises(UserError, match="expected real tiles, got synthetic"):
            choose_pages([made.root], None, 200, 0)


def test_data_without_training_tiles_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match="--max-mb"):
        choose_pages([data], None, 0.0001, 0)


def test_a_missing_licence_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from factory.bank import collect as collecting

    found = collecting._training_tiles

    def unlicensed(dataset: object) -> list[collecting.Source]:
        return [replace(source, licence=None) for source in found(dataset)]  # type: ignore[arg-type]

    monkeypatch.setattr(collecting, "_training_tiles", unlicensed)
    with pytest.raises(UserError, match="licence"):
        choose_pages([data], None, 200, 0)
