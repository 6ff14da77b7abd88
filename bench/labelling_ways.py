"""Measurements of `bench.labelling`, each in a process of its own: labelling an image, memory, and tiles with labels.

Features are random, float32. Streaming reads them as our generator leaves them in memory, a pixel's channels side by
side; the peers read planes, which they upsample faster. All run the same network with its standardisation and norms
folded in; the peers' tiles have the size that was fastest here.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import nn

from bench.timing import median_seconds, peak_mb
from factory.core.checkpoints import BEST, write_weights
from factory.core.weights import read_card
from factory.joint.features import FeatureStore, Shape, need_bytes
from factory.joint.generators import GENERATOR, DrawConfig, draw_latents
from factory.joint.hdgan import BESIDE, Hdgan, HdganConfig, tap_shapes, taps_of
from factory.joint.labeller import KIND
from factory.joint.streaming import StreamingLabeller
from factory.joint.stylegan2 import WEIGHTS_KIND, build
from factory.nets.pixel_classifier import Ensemble, fold, majority_vote
from factory.nets.stylegan2 import StyleGan2Shape, Tap
from manifests.labels import get_scheme

STREAMING, BF16, TILES, WHOLE = "streaming", "streaming, bf16", "tile-wise", "upsample and concatenate"
WAYS = (STREAMING, BF16, TILES, WHOLE)
PRECISIONS = ("fp32", "bf16")
"""Precisions of the generator."""

CLASSES = 5
MARGIN = 1e-4
"""Distance of the two largest logits up to which rounding may decide otherwise."""

_TILE_PX = 128
_PIXELS = 65_536
_SHORT_S = 2.0


def network_of(side: int) -> dict[str, Any]:
    """The published generator (channel_base 32768, channel_max 512) of a square, as a card has it."""
    return {**StyleGan2Shape().model_dump(mode="json"), "size": [side, side]}


def shapes_of(side: int, blocks: int | None) -> dict[str, Shape]:
    """Taps by name of the last blocks of that generator; None takes all."""
    taps = list(tap_shapes(network_of(side)).items())
    return dict(taps if blocks is None else taps[-2 * blocks :])


def random_taps(shapes: Sequence[Shape], *, by_pixels: bool = False) -> list[torch.Tensor]:
    """Features float32 [C, h, w], planes in memory, or with a pixel's channels side by side."""
    rng = np.random.default_rng(0)
    order = torch.channels_last if by_pixels else torch.contiguous_format
    drawn = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for shape in shapes)
    return [planes[None].contiguous(memory_format=order)[0] for planes in drawn]


def random_ensemble(channels: int, members: int) -> Ensemble:
    """Classifiers of the published widths whose norms and standardisation are not the identity."""
    torch.manual_seed(0)
    ensemble = Ensemble(channels, CLASSES, members)
    for layer in ensemble.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    ensemble.standardise_by(torch.randn(2000, channels) + torch.randn(channels))
    return ensemble.eval()


class Direct:
    """Labels from upsampled features.

    Args:
        ensemble: of classifiers. taps: [C, h, w] each. side: of the image.
    """

    def __init__(self, ensemble: Ensemble, taps: Sequence[torch.Tensor], side: int) -> None:
        self.ensemble, self.taps, self.side = ensemble, taps, side
        folded = fold(ensemble)
        self._first = folded.first.transpose(1, 2).flatten(0, 1).contiguous()
        self._first_bias = (folded.first_bias - folded.mean @ folded.first).flatten()[:, None]
        self._second, self._second_bias = folded.second.transpose(1, 2).contiguous(), folded.second_bias[:, :, None]
        self._third, self._third_bias = folded.third, folded.third_bias

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[E, K, P] of upsampled features [C, P], by matrices that everything is folded into."""
        hidden = torch.addmm(self._first_bias, self._first, x).relu_().view(len(self._second), -1, x.shape[1])
        narrow = torch.baddbmm(self._second_bias, self._second, hidden).relu_()
        return torch.baddbmm(self._third_bias, self._third, narrow)

    def plain_logits(self, x: torch.Tensor) -> torch.Tensor:
        """The same by the network as it was trained."""
        logits: torch.Tensor = self.ensemble(x.T)
        return logits

    def tile(self, row: int, column: int) -> torch.Tensor:
        """Features of a tile, [C, h, w]: windows of all taps with a halo, upsampled and concatenated."""
        parts = []
        for tap in self.taps:
            stride = self.side // tap.shape[1]
            if stride == 1:
                parts.append(tap[:, row : row + _TILE_PX, column : column + _TILE_PX])
                continue
            cuts = [slice(max(at // stride - 1, 0), -(-(at + _TILE_PX) // stride) + 1) for at in (row, column)]
            up = F.interpolate(tap[None, :, cuts[0], cuts[1]], scale_factor=stride, mode="bilinear")[0]
            top, left = row - cuts[0].start * stride, column - cuts[1].start * stride
            parts.append(up[:, top : top + _TILE_PX, left : left + _TILE_PX])
        return torch.cat(parts)

    def by_tiles(self, plain: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 [H, W]; by the network as it was trained also how far the two largest logits are apart."""
        labels = np.empty((self.side, self.side), np.uint8)
        margins = np.empty((self.side, self.side) if plain else (0, 0), np.float32)
        for row in range(0, self.side, _TILE_PX):
            for column in range(0, self.side, _TILE_PX):
                x = self.tile(row, column)
                said = (self.plain_logits if plain else self.logits)(x.flatten(1))
                said = said.view(*said.shape[:2], *x.shape[1:])
                place = (slice(row, row + _TILE_PX), slice(column, column + _TILE_PX))
                labels[place] = majority_vote(said).numpy()
                if plain:
                    first, second = said[0].topk(2, 0).values
                    margins[place] = (first - second).numpy()
        return labels, margins

    def whole(self, dtype: torch.dtype) -> np.ndarray:
        """Labels uint8 [H, W] of all features upsampled to the image's size, 65,536 pixels at a time."""
        channels = sum(len(tap) for tap in self.taps)
        up, start = torch.empty(channels, self.side**2, dtype=dtype), 0
        for tap in self.taps:
            each = F.interpolate(tap[None], (self.side, self.side), mode="bilinear")[0]
            up[start : start + len(tap)] = each.flatten(1)
            start += len(tap)
        parts = [majority_vote(self.logits(part.float())) for part in torch.split(up, _PIXELS, 1)]
        return torch.cat(parts).numpy().reshape(self.side, self.side)


def timed(way: str, side: int, blocks: int | None, members: int, folder: Path) -> dict[str, Any]:
    """Seconds of a way, median of five where it is short, else of one time, and its memory in MB; leaves its labels."""
    shapes = shapes_of(side, blocks)
    dtype = format_of(shapes, side)
    if way == WHOLE and dtype is None:
        return {"skipped": f"{size_of(shapes, side, 2):.1f} GB in float16 and what is beside them do not fit"}
    taps = random_taps(list(shapes.values()), by_pixels=way in (STREAMING, BF16))
    channels = [shape[0] for shape in shapes.values()]
    ensemble = random_ensemble(sum(channels), members)
    direct = Direct(ensemble, taps, side)
    if way in (STREAMING, BF16):
        labeller = StreamingLabeller(ensemble, channels, precision="bf16" if way == BF16 else "fp32")

        def work() -> np.ndarray:
            given = [Tap(name, tap[None]) for name, tap in zip(shapes, taps, strict=True)]
            return labeller.label(taps_of(given, list(shapes)), (side, side)).semantic
    elif way == TILES:
        work = lambda: direct.by_tiles()[0]  # noqa: E731
    else:
        assert dtype is not None
        work = lambda: direct.whole(dtype)  # noqa: E731
    before = peak_mb()
    with torch.inference_mode():
        started = time.process_time()
        labels = work()
        seconds, repeats = time.process_time() - started, 1
        if seconds < _SHORT_S:
            seconds, repeats = median_seconds(work, 5, time.process_time), 5
    found = {"seconds": seconds, "repeats": repeats, "before_mb": before, "peak_mb": peak_mb()}
    np.save(folder / f"{way}.npy", labels)
    if way == TILES and members == 1:
        with torch.inference_mode():
            for name, values in zip(("plain", "margins"), direct.by_tiles(plain=True), strict=True):
                np.save(folder / f"{name}.npy", values)
    return found | ({"format": str(dtype).removeprefix("torch.")} if way == WHOLE else {})


def size_of(shapes: dict[str, Shape], side: int, item_bytes: int) -> float:
    """Gigabytes of all features upsampled."""
    return sum(shape[0] for shape in shapes.values()) * side**2 * item_bytes / 1e9


def format_of(shapes: dict[str, Shape], side: int) -> torch.dtype | None:
    """Float32 where upsampled features fit into the memory that is free, else float16, as published; None for neither.

    Beside them is the largest tap, upsampled before it is put in its place.
    """
    free = 0.9 * psutil.virtual_memory().available / 1e9
    beside = max(shape[0] for shape in shapes.values()) * side**2 * 4 / 1e9
    sizes = {torch.float32: size_of(shapes, side, 4), torch.float16: size_of(shapes, side, 2)}
    return next((dtype for dtype, size in sizes.items() if size + beside <= free), None)


def stored(side: int, blocks: int | None, folder: Path) -> dict[str, Any]:
    """Bytes of an image's features on disk, and those that were announced; leaves them."""
    shapes = list(shapes_of(side, blocks).values())
    store = FeatureStore(folder, "random")
    store.write("image", [tap.numpy() for tap in random_taps(shapes)], (side, side), "random")
    found = store.read("image")
    return {"bytes": found.path.stat().st_size, "announced": need_bytes(shapes)}


def memory_alone(side: int, blocks: int | None, folder: Path) -> dict[str, Any]:
    """MB before and at most, of labels of features on disk; those that are read are counted in it."""
    channels = [shape[0] for shape in shapes_of(side, blocks).values()]
    labeller = StreamingLabeller(random_ensemble(sum(channels), 1), channels)
    features, before = FeatureStore(folder, "random").read("image"), peak_mb()
    labeller.label(features.taps, (side, side))
    return {"before_mb": before, "peak_mb": peak_mb()}


def write_pair(side: int, blocks: int | None, members: int, precision: str, folder: Path) -> dict[str, Any]:
    """Write a generator and a labeller of random weights, as `factory train` leaves them."""
    torch.manual_seed(0)
    network, shapes, scheme = network_of(side), shapes_of(side, blocks), get_scheme("pdl1")
    channels = [shape[0] for shape in shapes.values()]
    origin = {"scheme": scheme.to_dict(), "mpp": 0.5, "sources": [], "licences": []}
    card = {**origin, "kind": WEIGHTS_KIND, "generator": GENERATOR, "network": network}
    write_weights(folder / BESIDE, build(network).state_dict(), card)
    shape = {"channels": sum(channels), "classes": len(scheme), "members": members}
    drawing = DrawConfig.model_validate({"precision": precision}).model_dump(mode="json", exclude={"weights"})
    labeller = {
        **origin, "kind": KIND, "network": shape, "channels": channels, "taps": list(shapes), "held_out": None,
        "generator_sha256": read_card(folder / BESIDE).sha256, "trained_size": [side, side], "drawing": drawing,
    }  # fmt: skip
    write_weights(folder / BEST, random_ensemble(sum(channels), members).state_dict(), labeller)
    return {}


def memory_in_all(folder: Path) -> dict[str, Any]:
    """MB before and at most, and seconds, of an image drawn and labelled in one pass, as `factory make` does it."""
    part = Hdgan(Hdgan.resolve_weights(HdganConfig(weights=str(folder)), "cpu"))
    before, started = peak_mb(), time.process_time()
    part.draw(0)
    return {"before_mb": before, "peak_mb": peak_mb(), "seconds": time.process_time() - started}


def sampling(precision: str, folder: Path) -> dict[str, Any]:
    """Seconds of an image of the generator, and of one with its labels."""
    config = HdganConfig.model_validate({"weights": str(folder), "precision": precision})
    part = Hdgan(Hdgan.resolve_weights(config, "cpu"))
    latents = draw_latents([0], part.generator.network.z_dim)
    rngs = [np.random.default_rng(0)]
    image = median_seconds(lambda: part.generator.draw(latents, rngs, 0.7), 5, time.process_time)
    return {"image": image, "labelled": median_seconds(lambda: part.draw(0), 5, time.process_time)}
