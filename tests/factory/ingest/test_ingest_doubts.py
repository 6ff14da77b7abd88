"""Input that `factory ingest` accepts with a warning: instance maps whose ids probably ran past 8 bits."""

from pathlib import Path

import numpy as np
import pytest

from factory.ingest.labels import _doubts
from tests.ingest_files import ingest_command, save, tissue_image

SIDE, STEP = 320, 16


def grid(count: int) -> np.ndarray:
    """Discs of 11 px with ids 1, 2, ... on a grid, row by row: int32 [SIDE, SIDE]."""
    rows, columns = np.indices((STEP, STEP)) - STEP // 2
    disc = rows**2 + columns**2 <= 30
    instance = np.zeros((SIDE, SIDE), np.int32)
    across = SIDE // STEP
    for number in range(count):
        y, x = number // across * STEP, number % across * STEP
        instance[y : y + STEP, x : x + STEP] = disc * (number + 1)
    return instance


def wrapped(count: int) -> np.ndarray:
    """As written in 8 bits, without the id 255 that would have it refused: uint8."""
    low = (grid(count) % 256).astype(np.uint8)
    return np.where(low == 255, np.uint8(0), low)


def split(count: int, in_two: int) -> np.ndarray:
    """A map of `count` nuclei of which `in_two` are crossed by another, the last one: uint8."""
    instance = grid(count)
    for number in range(1, in_two + 1):
        rows, columns = np.nonzero(instance == number)
        middle = np.abs(columns - int(columns.mean())) <= 2
        instance[rows[middle], columns[middle]] = 0
    return instance.astype(np.uint8)


@pytest.mark.parametrize(("count", "apart"), [(400, 144), (280, 24)])
def test_ids_that_came_round_again_are_doubted(count: int, apart: int) -> None:
    (doubt,) = _doubts(wrapped(count))
    assert doubt.startswith(f"{apart} of 254 ids lie in pieces far apart")
    assert "16 bits" in doubt


def test_ordinary_maps_are_not_doubted() -> None:
    assert _doubts(grid(400).astype(np.uint16)) == []
    assert _doubts(grid(250).astype(np.uint8)) == []
    assert _doubts(split(250, 200)) == []
    assert _doubts(np.zeros((8, 8), np.uint8)) == []
    ring = grid(40).astype(np.uint8)
    ring[[0, -1]] = ring[:, [0, -1]] = 200  # in one piece, round all others
    assert _doubts(ring) == []
    twice = grid(250).astype(np.uint8)
    for number in range(1, 7):  # a few mistakes: one id for two nuclei
        twice[twice == 250 - number] = number
    assert _doubts(twice) == []


def test_the_report_names_the_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "source"
    for stem, instance in (("a", grid(30).astype(np.uint8)), ("b", wrapped(400))):
        save(root / "images" / f"{stem}.png", tissue_image(size=(SIDE, SIDE)))
        save(root / "instances" / f"{stem}.png", instance)
    assert ingest_command(root, "--mpp", "0.25", "--split", "1,0,0", "--out", tmp_path / "out") == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("warning:")]
    assert len(lines) == 1
    assert lines[0].startswith("warning: instances/b.png: 144 of 254 ids lie in pieces far apart")
