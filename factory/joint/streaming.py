"""Labelling of whole images, tile by tile, without upsampled features in memory.

Bilinear upsampling is linear along pixels and the first layer of a pixel classifier is linear along channels, so their
order does not matter. Here the layer comes first, at each tap's own resolution: its few outputs are upsampled straight
to a tile of the image and summed over the taps, and the rest of the network runs on the tile. Only the first layer
commutes: the ReLU behind it does not, and upsampling by two twice differs from upsampling by four.

The summed outputs of all levels with a stride of 8 and more are bilinear between lines 4 pixels apart, as their knots
lie on such lines. They are summed on these lines and upsampled once, so that all blocks of a generator cost little more
than the last ones.

Outputs of the first layer are stored as [h, w, D]. A few rows of a tile are computed at a time, and members one after
the other, so that these outputs stay in the second-level cache of a core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np
import numpy.typing as npt
import torch

from factory.core.precision import Precision
from factory.joint.features import check_shapes
from factory.joint.upsampling import Grid, Places, moved, places_between, places_between_lines, reached
from factory.nets.pixel_classifier import Ensemble, disagreement, fold, majority_vote
from manifests.labels import IGNORE

Tap = npt.NDArray[np.float16] | npt.NDArray[np.float32] | torch.Tensor
"""Output of one layer, of any float format [C, h, w], in any order in memory; an array must be writable for torch."""

TILE_PX = 256
"""Default side of the tiles. With half of it the calls of torch take a tenth longer."""

_STEPS = 1024
"""Steps of the histogram of uncertainty, from 0 to its largest possible value."""

_LATTICE_PX = 4
"""Distance of the lines on which coarse levels are summed."""

_BAND_BYTES = 1 << 20
"""Size of the first layer's outputs for the rows that are computed together."""


@dataclass(frozen=True)
class Labels:
    """Labels of an image.

    Attributes:
        semantic: uint8 [H, W], classes; 255 (ignore) where the members disagree more than allowed.
        uncertainty: mean Jensen-Shannon divergence in nats; None for a single classifier.
        top_uncertainty: the same over the tenth of the pixels where it is largest, by which DatasetGAN's code ranks
            images, up to a thousandth of its scale.
        ignored: share of the pixels with 255.
    """

    semantic: npt.NDArray[np.uint8]
    uncertainty: float | None
    top_uncertainty: float | None
    ignored: float


class StreamingLabeller:
    """An ensemble of pixel classifiers that labels images of any size in the memory of a tile.

    Args:
        ensemble: of pixel classifiers; used as in eval mode. channels: of the taps, in order; together the ensemble's.
        device: where it runs. precision: fp32, or bf16 for the products of matrices; sums are float32.
    """

    def __init__(
        self, ensemble: Ensemble, channels: Sequence[int], device: str = "cpu", precision: Precision = "fp32"
    ) -> None:
        if sum(channels) != ensemble.channels:
            raise ValueError(f"channels: expected {ensemble.channels} in all, got {sum(channels)}")
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision: expected fp32 or bf16, got {precision!r}")
        self.channels, self.device = tuple(channels), torch.device(device)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        folded = fold(ensemble)
        self.members, self.classes = folded.members, folded.classes
        self._means = torch.split(folded.mean.to(self.device), list(channels))
        self._firsts = torch.split(folded.first.to(self.device, self._dtype), list(channels), 1)
        self._first_bias = folded.first_bias.to(self.device)
        self._rest = [
            part.to(self.device, self._dtype)
            for part in (folded.second, folded.second_bias, folded.third, folded.third_bias)
        ]

    def logits(
        self, taps: Sequence[Tap], size: tuple[int, int], tile_px: int = TILE_PX
    ) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Rows and columns of every tile, and the members' logits there, float32 [E, K, h, w].

        Args:
            taps: of one image. size: height and width of the image, which the taps' sides divide by powers of two.
            tile_px: side of the tiles; those at the end are smaller. It changes roundings, no more.
        """
        if tile_px < 1:
            raise ValueError(f"tile_px: expected at least 1, got {tile_px}")
        levels = self._levels(taps, size)
        cuts = [[slice(at, min(at + tile_px, side)) for at in range(0, side, tile_px)] for side in size]
        for rows, columns in product(*cuts):
            with torch.inference_mode():
                logits = self._tile(levels, size, rows, columns)
            yield rows, columns, logits

    def label(
        self, taps: Sequence[Tap], size: tuple[int, int], tile_px: int = TILE_PX, most_uncertain: float | None = None
    ) -> Labels:
        """Label an image by majority vote; pixels with more disagreement than `most_uncertain` become 255 (ignore).

        Args:
            taps, size, tile_px: as in `logits`. most_uncertain: largest Jensen-Shannon divergence, in nats, of a pixel
                that keeps its label; None keeps all.
        """
        if most_uncertain is not None and self.members == 1:
            raise ValueError(
                "most_uncertain: expected an ensemble, got one classifier, which has no uncertainty to bound"
            )
        semantic: npt.NDArray[np.uint8] = np.empty(size, np.uint8)
        uncertainty = _Uncertainty(math.log(max(min(self.members, self.classes), 2)))
        for rows, columns, logits in self.logits(taps, size, tile_px):
            labels = majority_vote(logits)
            if self.members > 1:
                divergence = disagreement(logits)
                uncertainty.add(divergence)
                if most_uncertain is not None:
                    labels[divergence > most_uncertain] = IGNORE
            semantic[rows, columns] = labels.cpu().numpy()
        ignored = float(np.count_nonzero(semantic == IGNORE) / semantic.size) if most_uncertain is not None else 0.0
        return Labels(semantic, uncertainty.mean, uncertainty.top_tenth, ignored)

    def _levels(self, taps: Sequence[Tap], size: tuple[int, int]) -> list[_Level]:
        """Taps by resolution."""
        shapes = [(int(c), int(h), int(w)) for c, h, w in (tap.shape for tap in taps)]
        if tuple(shape[0] for shape in shapes) != self.channels:
            raise ValueError(f"taps: expected channels {self.channels}, got {tuple(shape[0] for shape in shapes)}")
        check_shapes(shapes, size)
        order = sorted(range(len(taps)), key=lambda number: shapes[number][1:])
        levels = []
        for sides, numbers in groupby(order, lambda number: shapes[number][1:]):
            chosen = list(numbers)
            levels.append(
                _Level(
                    sides,
                    [torch.as_tensor(taps[number]) for number in chosen],
                    torch.cat([self._means[number] for number in chosen]),
                    torch.cat([self._firsts[number] for number in chosen], 1),
                )
            )
        return levels

    def _tile(self, levels: list[_Level], size: tuple[int, int], rows: slice, columns: slice) -> torch.Tensor:
        """The members' logits in a tile, float32 [E, K, h, w]."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        own = next((level for level in levels if level.size == size), None)
        coarser = _Coarser([level for level in levels if level is not own], size, rows, columns)
        logits = self._first_bias.new_empty(self.members, self.classes, height, width)
        step = max(_BAND_BYTES // (4 * width * self._first_bias.shape[1]), 1) if self.device.type == "cpu" else height
        hidden = self._first_bias.new_empty(min(step, height), width, self._first_bias.shape[1])
        grids = [coarser.grids(member, bias) for member, bias in enumerate(self._first_bias)]
        for start in range(0, height, step):
            stop = min(start + step, height)
            features = None if own is None else own.features(slice(rows.start + start, rows.start + stop), columns)
            for member in range(self.members):
                total = hidden[: stop - start]
                if own is None or features is None:
                    total.zero_()
                else:
                    _write_product(total, features, own.weight[member])
                for grid in grids[member]:
                    grid.add_to(total, start)
                logits[member, :, start:stop] = self._rest_of_network(total.relu_(), member)
        return logits

    def _rest_of_network(self, hidden: torch.Tensor, member: int) -> torch.Tensor:
        """Logits [K, h, w] from the activations [h, w, D] of a member's first layer, after its ReLU."""
        second, second_bias, third, third_bias = (part[member] for part in self._rest)
        narrow = torch.addmm(second_bias, hidden.flatten(0, 1).to(self._dtype), second).relu_()
        return torch.addmm(third_bias, third, narrow.T).view(-1, *hidden.shape[:2])


@dataclass(frozen=True)
class _Level:
    """All taps [C, h, w] of one resolution, their mean [C], and their weight in the first layer, [E, C, D]."""

    size: tuple[int, int]
    taps: list[torch.Tensor]
    mean: torch.Tensor
    weight: torch.Tensor

    def features(self, rows: slice, columns: slice) -> torch.Tensor:
        """All taps in the pixels of a window, [P, C], minus their mean, in the number format of the weights."""
        parts = [tap[:, rows, columns].to(self.mean.device) for tap in self.taps]
        if all(tap.stride(0) == 1 for tap in self.taps):  # a pixel's channels lie side by side, as on disk
            x = torch.cat([part.permute(1, 2, 0) for part in parts], 2).flatten(0, 1)
            return torch.sub(x, self.mean).to(self.weight.dtype)
        x = torch.cat(parts).flatten(1)
        return torch.sub(x, self.mean[:, None]).to(self.weight.dtype).T


class _Coarser:
    """The levels coarser than the image, in windows of a tile with the halo that interpolation needs."""

    def __init__(self, levels: Sequence[_Level], size: tuple[int, int], rows: slice, columns: slice) -> None:
        cuts = (rows, columns)
        pixels = [np.arange(cut.start, cut.stop, dtype=np.float64) for cut in cuts]
        lines = [np.arange(cut.start // _LATTICE_PX, -(-cut.stop // _LATTICE_PX) + 1) * _LATTICE_PX for cut in cuts]
        self._fine, self._coarse = [], []
        for level in levels:
            strides = (size[0] // level.size[0], size[1] // level.size[1])
            if min(strides) < 2 * _LATTICE_PX:
                self._fine.append(_Window.of(level, size, pixels))
            else:
                self._coarse.append(_Window.of(level, size, [line - 0.5 for line in lines]))
        self._shape = (len(lines[0]), len(lines[1]))
        self._between = [places_between_lines(cut, _LATTICE_PX) for cut in cuts]

    def grids(self, member: int, bias: torch.Tensor) -> list[Grid]:
        """Outputs of a member's first layer: bias [D] and all coarse levels in one grid, then a grid for each other."""
        total = bias.repeat(*self._shape, 1)
        for window in self._coarse:
            window.grid(member).add_to(total)
        return [Grid(total, *self._between), *(window.grid(member) for window in self._fine)]


@dataclass(frozen=True)
class _Window:
    """Features [h' w', C] of a level, weights of the first layer [E, C, D], and the positions of pixels in them."""

    size: tuple[int, int]
    features: torch.Tensor
    weight: torch.Tensor
    down: Places
    along: Places

    @classmethod
    def of(cls, level: _Level, size: tuple[int, int], places: Sequence[npt.NDArray[np.float64]]) -> _Window:
        """The window of a level that some rows and columns of an image need."""
        down, along = (
            places_between(each, side, native) for each, side, native in zip(places, size, level.size, strict=True)
        )
        rows, columns = reached(down), reached(along)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return cls(shape, level.features(rows, columns), level.weight, moved(down), moved(along))

    def grid(self, member: int) -> Grid:
        """The outputs of a member's first layer, without its bias."""
        outputs = torch.mm(self.features, self.weight[member]).float()
        return Grid(outputs.view(*self.size, -1), self.down, self.along)


def _write_product(total: torch.Tensor, features: torch.Tensor, weight: torch.Tensor) -> None:
    """Write the products of [h w, C] and [C, D] to float32 [h, w, D]."""
    flat = total.flatten(0, 1)
    if weight.dtype == flat.dtype:
        torch.mm(features, weight, out=flat)
    else:
        flat.copy_(torch.mm(features, weight))


class _Uncertainty:
    """A histogram of the uncertainty of pixels, with the sum in each bin; `largest` is the end of its range."""

    def __init__(self, largest: float) -> None:
        self._largest = largest
        self._counts, self._sums = np.zeros(_STEPS, np.int64), np.zeros(_STEPS)

    def add(self, divergence: torch.Tensor) -> None:
        values = divergence.flatten().double().cpu().numpy()
        steps = np.minimum(values * (_STEPS / self._largest), _STEPS - 1).astype(np.int64)
        self._counts += np.bincount(steps, minlength=_STEPS)
        self._sums += np.bincount(steps, values, _STEPS)

    @property
    def mean(self) -> float | None:
        total = int(self._counts.sum())
        return float(self._sums.sum() / total) if total else None

    @property
    def top_tenth(self) -> float | None:
        """Mean of the most uncertain tenth of the pixels; a bin that is taken in part counts with its own mean."""
        total = int(self._counts.sum())
        if not total:
            return None
        wanted = max(total // 10, 1)
        before = np.cumsum(self._counts[::-1]) - self._counts[::-1]
        taken = np.clip(wanted - before, 0, self._counts[::-1])
        means = self._sums[::-1] / np.maximum(self._counts[::-1], 1)
        return float((taken * means).sum() / wanted)
