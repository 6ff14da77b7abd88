"""Banks small enough to ship."""

from pathlib import Path

import numpy as np
import pytest

from factory.bank.bank import open_bank
from factory.bank.packed import pack_bank, unpack_bank
from factory.bank.shipped import starter_bank
from factory.core.weights import read_card
from manifests.errors import UserError
from tests.annotated_photograph import bank_of_photograph


def test_a_packed_bank_keeps_its_labels_and_nearly_its_pixels(tmp_path: Path) -> None:
    source, packed = bank_of_photograph(tmp_path / "bank", "tissue"), tmp_path / "packed.safetensors"
    pack_bank(source, packed, most_nuclei=9, card={"name": "small"})
    path = unpack_bank(packed, tmp_path / "banks")
    before, after = open_bank(source), open_bank(path)
    assert packed.stat().st_size < 0.2 * source.stat().st_size
    assert after.card.fields["name"] == "small"
    assert after.slides == before.slides
    assert len(after.nuclei) == 9
    for name in ("pages", "semantic", "nucleus", "blocks", "shares", "colour"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert np.abs(before.image.astype(int) - after.image).mean() < 6
    written = path.stat().st_mtime_ns
    assert unpack_bank(packed, tmp_path / "banks") == path
    assert path.stat().st_mtime_ns == written
    packed.write_bytes(packed.read_bytes()[:-50])
    with pytest.raises(UserError, match="packed"):
        unpack_bank(packed, tmp_path / "others")


def test_the_bank_that_ships_has_free_pixels_alone() -> None:
    path = starter_bank()
    assert path is not None
    card = read_card(path).fields
    assert card["licences"] == ["CC0-1.0"]
    assert all(source.startswith("htt36/") for source in card["sources"])
    assert path.stat().st_size <= 8_000_000
