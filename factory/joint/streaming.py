"""Labels of a whole image, tile by tile, without its features ever being upsampled.

Bilinear upsampling is linear along pixels and the first layer of a pixel classifier is linear along channels, so either
may come first. Here the layer does, at each tap's own resolution: its few outputs are upsampled straight to a tile of
the image and summed over the taps, and the rest of the network runs on the tile. Only the first layer commutes: the
ReLU behind it does not, and two doublings are no upsampling by four.

Everything lies in memory as [h, w, C]. A tile of 64 fits into a core's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np
import numpy.typing as npt
import torch

from factory.core.compiled import compiled
from factory.core.precision import Precision
from factory.joint.features import Places, check_shapes, places_between
from factory.joint.labeller import disagreement, majority_vote
from factory.nets.pixel_classifier import Ensemble, fold
from manifests.labels import IGNORE

Tap = npt.NDArray[np.float16] | npt.NDArray[np.float32] | torch.Tensor
"""Output of one layer, float16 or float32 [C, h, w], in any order in memory; an array must be writable for torch."""

_STEPS = 1024
"""Of the scale on which doubt is counted, from 0 to its largest value."""


@dataclass(frozen=True)
class Labels:
    """Labels of an image.

    Attributes:
        semantic: uint8 [H, W], classes, 255 where the members disagree more than was allowed.
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
        ensemble: of pixel classifiers; used as in eval mode.
        channels: of the taps, in order; together the ensemble's.
        device: where it runs.
        precision: fp32, or bf16 for the products of matrices; sums are float32.

    Raises:
        ValueError: for channels that are not the ensemble's, or a precision that is not resolved.
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
        self._firsts = torch.split(folded.first.to(self.device, self._dtype), list(channels))
        self._first_bias = folded.first_bias.to(self.device)
        self._rest = [
            part.to(self.device, self._dtype)
            for part in (folded.second, folded.second_bias, folded.third, folded.third_bias)
        ]

    def logits(
        self, taps: Sequence[Tap], size: tuple[int, int], tile_px: int = 64
    ) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Rows and columns of every tile, and the members' logits there, float32 [E, K, h, w].

        Args:
            taps: of one image. size: height and width of the image, which the taps' sides divide by powers of two.
            tile_px: side of the tiles; those at the end are as large as what is left. No matter for the result.

        Raises:
            ValueError: for taps that are not those of the classifiers, or no layers of such an image.
        """
        if tile_px < 1:
            raise ValueError(f"tile_px: expected at least 1, got {tile_px}")
        with torch.inference_mode():
            levels = self._levels(taps, size, tile_px)
        cuts = [[slice(at, min(at + tile_px, side)) for at in range(0, side, tile_px)] for side in size]
        for rows, columns in product(*cuts):
            with torch.inference_mode():
                said = self._tile(levels, size, rows, columns)
            yield rows, columns, said

    def label(
        self,
        taps: Sequence[Tap],
        size: tuple[int, int],
        tile_px: int = 64,
        most_uncertain: float | None = None,
    ) -> Labels:
        """Label an image: the majority's vote, and what the members disagree on more than `most_uncertain` as 255.

        Args:
            taps, size, tile_px: as in `logits`. most_uncertain: largest Jensen-Shannon divergence, in nats, of a pixel
                that keeps its label; None keeps all.

        Raises:
            ValueError: as `logits`; for a bound that a single classifier, which never disagrees, cannot have.
        """
        if most_uncertain is not None and self.members == 1:
            raise ValueError("most_uncertain: expected an ensemble, got one classifier, which has no doubt to bound")
        semantic: npt.NDArray[np.uint8] = np.empty(size, np.uint8)
        doubts = _Doubts(math.log(min(self.members, self.classes)))
        for rows, columns, logits in self.logits(taps, size, tile_px):
            labels = majority_vote(logits)
            if self.members > 1:
                doubt = disagreement(logits)
                doubts.add(doubt)
                if most_uncertain is not None:
                    labels[doubt > most_uncertain] = IGNORE
            semantic[rows, columns] = labels.cpu().numpy()
        ignored = float(np.count_nonzero(semantic == IGNORE) / semantic.size) if most_uncertain is not None else 0.0
        return Labels(semantic, doubts.mean, doubts.top_tenth, ignored)

    def _levels(self, taps: Sequence[Tap], size: tuple[int, int], tile_px: int) -> list[_Level]:
        """Taps by resolution, the image's own first; levels no larger than a tile with their outputs ready."""
        shapes = [(int(c), int(h), int(w)) for c, h, w in (tap.shape for tap in taps)]
        if tuple(shape[0] for shape in shapes) != self.channels:
            raise ValueError(f"taps: expected channels {self.channels}, got {tuple(shape[0] for shape in shapes)}")
        check_shapes(shapes, size)
        order = sorted(range(len(taps)), key=lambda number: (-shapes[number][1], -shapes[number][2], number))
        levels = []
        for (height, width), numbers in groupby(order, lambda number: shapes[number][1:]):
            chosen = list(numbers)
            level = _Level(
                (height, width),
                [_pixels_of(taps[number]) for number in chosen],
                [self._means[number] for number in chosen],
                torch.cat([self._firsts[number] for number in chosen]),
            )
            if height * width <= tile_px**2 and (height, width) != size:
                level.ready = level.outputs(slice(0, height), slice(0, width))
            levels.append(level)
        return levels

    def _tile(self, levels: list[_Level], size: tuple[int, int], rows: slice, columns: slice) -> torch.Tensor:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        total: torch.Tensor | None = None
        for level in levels:
            if level.size == size:
                total = level.outputs(rows, columns) + self._first_bias
                continue
            if total is None:
                total = self._first_bias.repeat(height, width, 1)
            down, along = (
                places_between(np.arange(cut.start, cut.stop), side, native)
                for cut, side, native in zip((rows, columns), size, level.size, strict=True)
            )
            if level.ready is None:
                outputs = level.outputs(_reached(down), _reached(along))
                down, along = _moved(down), _moved(along)
            else:
                outputs = level.ready
            _add_upsampled(total, outputs, down, along)
        assert total is not None  # there is at least one tap
        return self._rest_of_network(total.relu_())

    def _rest_of_network(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [E, K, h, w] of what the first layer says behind its ReLU, [h, w, E D]."""
        height, width, _ = hidden.shape
        second, second_bias, third, third_bias = self._rest
        x = hidden.to(self._dtype).view(height * width, self.members, -1)
        said = hidden.new_empty(self.members, self.classes, height * width)
        for member in range(self.members):  # one after the other: torch's batched product is slow in bfloat16
            narrow = torch.addmm(second_bias[member], x[:, member], second[member]).relu_()
            said[member] = torch.addmm(third_bias[member], third[member], narrow.T)
        return said.view(self.members, self.classes, height, width)


class _Level:
    """All taps of one resolution.

    Attributes:
        size: height and width. ready: outputs of the first layer, float32 [h, w, E D], where they are kept.
    """

    def __init__(
        self, size: tuple[int, int], pixels: list[torch.Tensor], means: list[torch.Tensor], weight: torch.Tensor
    ) -> None:
        self.size = size
        self._pixels, self._means, self._weight = pixels, means, weight
        self.ready: torch.Tensor | None = None

    def outputs(self, rows: slice, columns: slice) -> torch.Tensor:
        """What the first layer, without its bias, says of a window: float32 [h, w, E D]."""
        device, dtype = self._weight.device, self._weight.dtype
        parts = [
            (pixels[rows, columns].to(device, torch.float32) - mean).to(dtype)
            for pixels, mean in zip(self._pixels, self._means, strict=True)
        ]
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        return torch.mm(x.flatten(0, 1), self._weight).float().view(*x.shape[:2], -1)


def _pixels_of(tap: Tap) -> torch.Tensor:
    """A view [h, w, C] of a tap."""
    tensor = tap if isinstance(tap, torch.Tensor) else torch.from_numpy(tap)
    return tensor.permute(1, 2, 0)


def _reached(places: Places) -> slice:
    """What an interpolation reads along an axis: the tile's part of the tap, and the halo that it needs."""
    first, second, _ = places
    return slice(int(first[0]), int(second[-1]) + 1)


def _moved(places: Places) -> Places:
    """Places counted from the first that is read."""
    first, second, share = places
    return first - first[0], second - first[0], share


def _add_upsampled(total: torch.Tensor, outputs: torch.Tensor, down: Places, along: Places) -> None:
    """Add the bilinear means of [h', w', D] to a tile [h, w, D]; on the CPU without any array between."""
    if total.device.type == "cpu":
        _add_on_cpu(total.numpy(), outputs.numpy(), *down, *along)
    else:
        _add_elsewhere(total, outputs, down, along)


def _add_elsewhere(total: torch.Tensor, outputs: torch.Tensor, down: Places, along: Places) -> None:
    (above, below, t), (left, right, s) = (
        [torch.from_numpy(part).to(total.device) for part in places] for places in (down, along)
    )
    between = torch.lerp(outputs[above], outputs[below], t[:, None, None])
    total += torch.lerp(between[:, left], between[:, right], s[None, :, None])


@compiled(fastmath=True)
def _add_on_cpu(
    total: npt.NDArray[np.float32],
    outputs: npt.NDArray[np.float32],
    above: npt.NDArray[np.int64],
    below: npt.NDArray[np.int64],
    t: npt.NDArray[np.float32],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    s: npt.NDArray[np.float32],
) -> None:
    height, width, channels = total.shape
    between = np.empty(outputs.shape[1:], np.float32)
    first, last = left[0], right[width - 1] + 1
    for row in range(height):
        a, b, weight = above[row], below[row], t[row]
        for column in range(first, last):
            for channel in range(channels):
                start = outputs[a, column, channel]
                between[column, channel] = start + weight * (outputs[b, column, channel] - start)
        for column in range(width):
            a, b, weight = left[column], right[column], s[column]
            for channel in range(channels):
                start = between[a, channel]
                total[row, column, channel] += start + weight * (between[b, channel] - start)


class _Doubts:
    """Counts of the pixels' doubt on a scale, and their sums; `largest` is the end of the scale."""

    def __init__(self, largest: float) -> None:
        self._largest = largest
        self._counts, self._sums = np.zeros(_STEPS, np.int64), np.zeros(_STEPS)

    def add(self, doubt: torch.Tensor) -> None:
        values = doubt.flatten().double().cpu().numpy()
        steps = np.minimum(values * (_STEPS / self._largest), _STEPS - 1).astype(np.int64)
        self._counts += np.bincount(steps, minlength=_STEPS)
        self._sums += np.bincount(steps, values, _STEPS)

    @property
    def mean(self) -> float | None:
        total = int(self._counts.sum())
        return float(self._sums.sum() / total) if total else None

    @property
    def top_tenth(self) -> float | None:
        """Mean of the largest tenth; of the step that is taken in part, its own mean counts."""
        total = int(self._counts.sum())
        if not total:
            return None
        wanted = max(total // 10, 1)
        before = np.cumsum(self._counts[::-1]) - self._counts[::-1]
        taken = np.clip(wanted - before, 0, self._counts[::-1])
        means = self._sums[::-1] / np.maximum(self._counts[::-1], 1)
        return float((taken * means).sum() / wanted)
