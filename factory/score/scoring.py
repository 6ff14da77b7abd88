"""Runs a score from data sets to files; everything that can be refused is refused before pixels are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.datasets import check_out as check_outside
from factory.core.datasets import real_pixels_of
from factory.core.devices import resolve_device
from factory.core.encoding import json_bytes
from factory.core.folder import is_begun, library_versions, lock_folder
from factory.score.compare import Comparison, compare_sets
from factory.score.features import check_extractor, open_extractor
from factory.score.paired import PairedFigures, Pairing, measure_pairs, pairs_table
from factory.score.plots import modes_sheet, nearest_sheet, pairs_sheet, plot_score
from factory.score.real_pixels import RealPixelFigures, measure_real_pixels, real_pixel_document
from factory.score.report import markdown, paired_document, to_document
from factory.score.settings import Settings
from factory.score.sources import Inputs, load
from factory.score.tiles import reduction
from manifests.errors import UserError
from manifests.files import remove_orphans, write_atomic

JSON, MARKDOWN, PLOT, NEAREST, MODES = "score.json", "score.md", "score.png", "nearest.png", "modes.png"
PAIRS, PAIRS_TABLE = "pairs.png", "pairs.parquet"
FILES = (JSON, MARKDOWN, PLOT, NEAREST, MODES, PAIRS, PAIRS_TABLE)

_LEAST_PICTURE_PX = 32  # for extractors with five poolings


@dataclass(frozen=True)
class Score:
    """A comparison, notes on the data in lines, the pairs if they were measured, and the real pixels if there are."""

    comparison: Comparison
    notes: tuple[str, ...]
    paired: PairedFigures | None = None
    real_pixels: RealPixelFigures | None = None


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder in a data set, one with other files, and one with an earlier score unless it is overwritten."""
    check_outside(out)
    if is_begun(out, "a score", FILES.__contains__) and not overwrite:
        raise UserError(f"{out}: expected an empty folder, got a score in it. Use another --out, or --overwrite.")


def check_settings(settings: Settings) -> Settings:
    """Returns the settings with a device that this machine has; refuses an unusable extractor."""
    check_extractor(settings.features, settings.weights_path)
    return settings.model_copy(update={"device": resolve_device(settings.device)})


def check_size(inputs: Inputs, settings: Settings) -> None:
    """Refuses tiles whose pictures are too small for five poolings."""
    factor = reduction(inputs.shape, settings.picture_px)
    height, width = (side // factor for side in inputs.shape)
    if min(height, width) < _LEAST_PICTURE_PX:
        raise UserError(
            f"{inputs.fake.root}: expected tiles whose pictures are at least {_LEAST_PICTURE_PX}x{_LEAST_PICTURE_PX}, "
            f"got {height}x{width} of tiles of {inputs.shape[0]}x{inputs.shape[1]}. Make larger or less oblong ones."
        )


def score(inputs: Inputs, settings: Settings, n: int | None = None, pairing: Pairing | None = None) -> Score:
    """Reads the tiles and compares them, at most `n` of either kind; with `pairing` its pairs too.

    Raises:
        UserError: when too few tiles remain. FaultError: when weights cannot be downloaded.
    """
    check_size(inputs, settings)
    extractor = open_extractor(settings.features, settings.weights_path)
    loaded = load(inputs, settings.seed, most=n)
    count = min(len(loaded.fakes), len(loaded.reals), n or len(loaded.reals))
    notes = list(loaded.notes)
    if n is not None and n > count:
        notes.append(f"--n {n}: {count} tiles of either kind are compared, as many as both have")
    for side, role in ((loaded.fakes, "fakes"), (loaded.reals, "real tiles")):
        if len(side) > count:
            notes.append(f"{count} of {len(side)} {role} drawn with seed {settings.seed}: equal numbers on both sides")
    fake = inputs.fake.dataset
    comparison = compare_sets(
        loaded.fakes,
        loaded.reals,
        settings,
        n=count,
        training=loaded.training,
        training_crops=loaded.training_crops,
        controls=loaded.controls,
        extractor=extractor,
        search_copies=inputs.on == "masks" or real_pixels_of(fake.table, fake.info) is None,
    )
    paired = measure_pairs(pairing, inputs, settings.seed) if pairing else None
    real_pixels = measure_real_pixels(fake, comparison.fakes.ids)
    return Score(comparison, (*notes, *(paired.notes if paired else ())), paired, real_pixels)


def write_score(out: Path, done: Score, inputs: Inputs, *, overwrite: bool) -> list[Path]:
    """Writes all files and returns their paths; with `overwrite` an earlier score is removed first."""
    files = _files(done, inputs)
    check_out(out, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out):
        remove_orphans(out)
        for name in FILES:
            (out / name).unlink(missing_ok=True)
        for name, content in files.items():
            write_atomic(out / name, content)
    return [out / name for name in files]


def _files(done: Score, inputs: Inputs) -> dict[str, bytes]:
    comparison = done.comparison
    name = inputs.fake.root.resolve().name
    document: dict[str, Any] = {
        "what": "factory score",
        "on": inputs.on,
        "inputs": {
            "fake": inputs.fake.to_dict(),
            "real": [source.to_dict() for source in inputs.reals],
            "train": [source.to_dict() for source in inputs.training],
            "control": [source.to_dict() for source in inputs.controls],
        },
        "notes": list(done.notes),
        "versions": library_versions("numpy", "scipy", "torch", "torchvision", "timm", "scikit-learn"),
        **to_document(comparison),
    }
    if done.paired is not None:
        document["paired"] = paired_document(done.paired)
    if done.real_pixels is not None:
        document["real_pixels"] = real_pixel_document(done.real_pixels)
    files = {
        JSON: json_bytes(document, indent=1),
        MARKDOWN: markdown(comparison, name, done.notes, done.paired, done.real_pixels).encode(),
        PLOT: plot_score(comparison),
        MODES: modes_sheet(comparison),
    }
    if (nearest := nearest_sheet(comparison)) is not None:
        files[NEAREST] = nearest
    if done.paired is not None:
        files |= {PAIRS: pairs_sheet(done.paired, name), PAIRS_TABLE: pairs_table(done.paired)}
    return files


def default_out(fake: Path) -> Path:
    """Returns ``runs/score/NAME``, with the name of the fakes' folder."""
    return Path("runs/score") / fake.resolve().name
