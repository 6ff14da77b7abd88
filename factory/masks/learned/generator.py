"""Base of the mask generators with weights, and the scores of logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from factory.learn.crops import MaskCrops, Tiles
from factory.learn.trainer import Crops, Trainer, TrainerConfig
from factory.learn.weights import WeightedPart, WeightsConfig, scheme_of
from factory.masks.allocate import Scores, check
from factory.masks.base import MaskGenerator
from factory.masks.regions import RegionsConfig, draw_regions, region_fields, region_fractions
from factory.nets.annealing import channels_of, to_channels
from factory.plan.request import Request
from manifests.labels import LabelScheme

WEIGHTS_KIND = "generator-weights"
CERTAIN = 2.0
"""Log-odds (88 %) beyond which pixels are ranked by distance instead of by certainty."""
_LEAST_PX = np.float32(1e-3)


class TrainedMasks(WeightedPart, MaskGenerator):
    """Base of the mask generators whose scores are a network's logits."""

    part = "masks"
    kind = WEIGHTS_KIND
    Config: ClassVar[type[WeightsConfig]] = WeightsConfig
    schemes = ("tissue",)
    """Scheme of the starter weights. Other weights may draw any scheme."""
    shift_bound = 4.0
    """`CERTAIN` log-odds, and two pixels from the border."""
    config: WeightsConfig

    @abstractmethod
    def logits(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return the logits of one tile, sharpened as at the end of training: float32 [K, H, W]."""

    def forward(self, *inputs: torch.Tensor) -> npt.NDArray[np.float32]:
        """Run the network on the inputs of one tile: float32 [K, H, W]."""
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = self.network(*(part.to(self.device) for part in inputs))[0].cpu().numpy()
        return logits

    @staticmethod
    def takes(scheme: LabelScheme, own: LabelScheme) -> bool:
        """Return whether weights that draw `own` serve a scheme: the same, or its regions in tissue that they draw."""
        is_tissue = len(own) == 2 and bool(own.ids("air")) and own.name in scheme.projections
        has_cells = bool(scheme.ids("nucleus")) or "cell" in scheme.names
        return WeightedPart.takes(scheme, own) or (is_tissue and not has_cells)

    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""
        if reason := self.misfit(request):
            has_own = request.scheme.ids("nucleus") and scheme_of(self.card).name != request.scheme.name
            return f"{reason}; or leave --masks out, as {request.scheme.name} has its own" if has_own else reason
        if request.cells:
            return f"cells: {self.name} draws regions, got {request.cells} cells; leave --cells out"
        return check(request)

    def caution(self, request: Request) -> str | None:
        """Return a note where the weights draw the tissue alone; see `Cautions`."""
        own = scheme_of(self.card)
        if own.name == request.scheme.name:
            return None
        return (
            f"the weights of {self.name} draw {' and '.join(own.names)} alone; the regions of {request.scheme.name} "
            "are laid out in that tissue as --masks polygons does"
        )

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Draw each request by itself, so that the batch never changes a bit."""
        return [self._draw(request, rng) for request, rng in zip(requests, rngs, strict=True)]

    def _draw(self, request: Request, rng: np.random.Generator) -> Scores:
        own = scheme_of(self.card)
        if own.name == request.scheme.name:
            return to_scores(self.logits(request, rng))
        of_tissue = replace(request, scheme=own, tps=None, tissue=asked_tissue(request), fractions=None)
        return with_regions(to_scores(self.logits(of_tissue, rng)), own, request, rng)


class MaskTrainer(Trainer):
    """Base of their trainers: crops of masks, as input of networks."""

    kind = WEIGHTS_KIND
    streams: ClassVar[int] = 1
    """Independent streams of crops."""

    def __init__(self, config: TrainerConfig, scheme: LabelScheme, device: str) -> None:
        self._config, self._scheme, self._device = config, scheme, device
        self._channels = channels_of(len(scheme))

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Return crops of masks, an array for each stream."""
        config = self._config
        shared = (tiles, config.size, config.batch, config.seed, config.max_background)
        parts = [MaskCrops(*shared, stream) for stream in range(self.streams)]
        return lambda step: [part.draw(step) for part in parts]

    def tensor(self, labels: Crops) -> torch.Tensor:
        """Return masks as input of a network: float32 [N, K, H, W]."""
        return to_channels(torch.from_numpy(labels).to(self._device), self._channels)


def asked_tissue(request: Request) -> float | None:
    """Return the tissue share that a request asks for, by itself or with all classes of air; else None."""
    air = request.scheme.ids("air")
    asked = None if request.fractions is None else [request.fractions[label] for label in air]
    if request.tissue is not None or asked is None or None in asked:
        return request.tissue
    return 1.0 - sum(share or 0.0 for share in asked)


def with_regions(tissue: Scores, own: LabelScheme, request: Request, rng: np.random.Generator) -> Scores:
    """Lay out the regions of a request in tissue that a network drew, as `polygons` does.

    Args:
        tissue: scores of the two classes of the scheme `own`. request: of a scheme that reads as `own`.
        rng: draws the regions and the shares that are not asked for.
    """
    scheme, (air,) = request.scheme, own.ids("air")
    regions = draw_regions(rng, request.height, request.width, request.mpp, RegionsConfig(), scheme)
    drawn = region_fractions(rng, scheme)
    fields = region_fields(regions, rng, scheme, request.height, request.width)
    outside = sum(drawn[label] for label in scheme.ids("air"))
    scale = {True: tissue.fractions[air] / outside, False: (1.0 - tissue.fractions[air]) / (1.0 - outside)}
    for label in scheme.ids("air"):
        fields[label] = tissue.fields[air] - tissue.fields[1 - air]
    shares = tuple(share * scale[label in scheme.ids("air")] for label, share in enumerate(drawn))
    return Scores(fields, shares, calibrated="air")


def to_scores(logits: npt.NDArray[np.float32]) -> Scores:
    """Turn logits into calibrated scores. Without a request the network's own decision stands.

    Args:
        logits: float32 [K, H, W]; K = 1 is the logit of the second class against the first.
    """
    if len(logits) == 1:
        field = rank_certain_pixels(logits[0])
        own = float(np.count_nonzero(field > 0)) / field.size
        return Scores(np.stack([np.zeros_like(field), field]), (1.0 - own, own), calibrated=True)
    order = np.partition(logits, -2, axis=0)
    best, second = order[-1], order[-2]
    margins = (rank_certain_pixels(np.where(field == best, field - second, field - best)) for field in logits)
    fields = np.stack([np.float32(0.5) * margin for margin in margins])  # so that two of them differ by one margin
    shares = np.bincount(fields.argmax(0).ravel(), minlength=len(fields)) / best.size
    return Scores(fields, tuple(shares.tolist()), calibrated=True)


def rank_certain_pixels(margin: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rank the certain pixels of a margin of log-odds by their distance to the nearest pixel of the other decision.

    Deep in tissue the logits of a network that was trained to be certain carry no information; they are often a
    checkerboard, and a shifted threshold would follow it. Beyond `CERTAIN` log-odds a pixel therefore scores `CERTAIN`
    plus its distance in pixels (smoothed by a Gaussian of 1 pixel, which separates pixels at equal distances): a
    threshold that is shifted far removes tissue from its border inwards, or adds it outwards. Signs, which are the
    network's decisions, do not change, nor does a margin of one sign alone.

    Args:
        margin: float32 [H, W], above 0 where the network decides for the class.

    Returns:
        float32 [H, W]: log-odds up to `CERTAIN`, pixels beyond.
    """
    inside = margin > 0
    if inside.all() or not inside.any():  # no border to measure from
        return margin
    far = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    far -= cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
    far = np.maximum(np.abs(cv2.GaussianBlur(far, (0, 0), 1.0)), _LEAST_PX) + np.float32(CERTAIN)
    found: npt.NDArray[np.float32] = np.where(np.abs(margin) > CERTAIN, np.copysign(far, margin), margin)
    return found
