"""nearest.png: the fakes most like a training tile, side by side; modes.png: the typical tile of every mode."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.score.compare import Comparison
from factory.score.copies import Pair
from factory.score.paired import PairedFigures
from factory.score.pictures import to_pictures
from factory.score.similarity import inverse, overlap, turned

_MOST_PAIRS = 12
_PICTURE_PX = 256
_PER_ROW = 3

Picture = npt.NDArray[np.uint8]


def nearest_sheet(comparison: Comparison) -> bytes | None:
    """A PNG of up to 12 pairs, the most similar first: fake, and the place in the training tiles turned as it is."""
    copies, training = comparison.copies, comparison.training
    if copies is None or training is None or not copies.pairs:
        return None
    pairs = copies.pairs[:_MOST_PAIRS]
    matched = comparison.fakes.take([pair.fake_place for pair in pairs])
    windows = np.stack([_window(training.pixels[pair.training_place], pair, matched.shape) for pair in pairs])
    fakes, sources = (to_pictures(side, _PICTURE_PX) for side in (matched, matched.with_pixels(windows)))
    pictures, captions = [], []
    for pair, fake, source in zip(pairs, fakes, sources, strict=True):
        pictures.append(_beside(fake, source))
        verdict = "COPY" if pair.flagged else "below the limit"
        captions.append(f"{pair.similarity:.3f} ({verdict}), {pair.symmetry}\n{pair.fake[:28]} | {pair.training[:28]}")
    title = f"{comparison.fakes.name}: fakes (left) and the likest places of training tiles; limit {copies.limit:.3f}"
    return _sheet(pictures, captions, title, _PER_ROW)


def modes_sheet(comparison: Comparison) -> bytes:
    """A PNG with the most typical real tile of every mode, and the share of reals and fakes there."""
    modes = comparison.modes.modes
    pictures = list(to_pictures(comparison.reals.take([mode.medoid for mode in modes]), _PICTURE_PX))
    captions = [
        f"mode {mode.number}{'' if mode.hits else ' MISSING'}: real {mode.real_share:.0%}, fake {mode.fake_share:.0%}"
        f"\n{mode.sample[:40]}"
        for mode in modes
    ]
    return _sheet(pictures, captions, f"{comparison.fakes.name}: modes of the real tiles", 4)


def pairs_sheet(figures: PairedFigures, name: str) -> bytes:
    """A PNG with the best, the median and the worst pair of each measure in a row: fake, and the real image."""
    pictures, captions = [], []
    for one in figures.measures:
        for which in ("best", "median", "worst"):
            place = getattr(one, which)
            pair = figures.pairs[place]
            pictures.append(_beside(*figures.shown[place]))
            value = getattr(pair.quality, one.name)
            captions.append(f"{one.name.upper()} {value:.3f}, {which}\n{pair.fake[:28]} | {pair.real[:28]}")
    return _sheet(pictures, captions, f"{name}: fakes (left) and the real images of their masks", _PER_ROW)


def _window(training: Picture, pair: Pair, shape: tuple[int, int]) -> Picture:
    """The place of a training tile that a fake is like, turned as the fake is; class 0 or black beyond the tile."""
    canvas = turned(np.zeros((*shape, *training.shape[2:]), np.uint8), pair.symmetry)
    inside, source = overlap(canvas, training, pair.position)
    inside[:] = source
    return turned(canvas, inverse(pair.symmetry))


def _beside(left: Picture, right: Picture) -> Picture:
    gap = np.full((left.shape[0], 6, 3), (230, 159, 0), np.uint8)
    return np.concatenate([left, gap, right], 1)


def _sheet(pictures: list[Picture], captions: list[str], title: str, per_row: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(per_row, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[:2]
    cell = 14.0 / per_row
    figure = Figure(
        figsize=(max(7.0, cell * columns), 0.5 + rows * (cell * height / width + 0.55)), layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    places: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, picture, caption in zip(places, pictures, captions, strict=False):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(caption, fontsize=7, color="#B00000" if "COPY" in caption or "MISSING" in caption else "black")
    figure.suptitle(f"{title}; synthetic, not for diagnosis", fontsize=10)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
