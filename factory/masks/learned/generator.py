"""Mask generators with weights: what they draw, and how logits become scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from factory.learn.weights import WeightedPart, WeightsConfig
from factory.masks.allocate import Scores, check
from factory.masks.base import MaskGenerator
from factory.plan.request import Request

if TYPE_CHECKING:
    import torch

WEIGHTS_KIND = "generator-weights"
SURE = 2.0
"""Log-odds, 88 %, beyond which a network's certainty is not asked any further."""
_LEAST_PX = np.float32(1e-3)


class TrainedMasks(WeightedPart, MaskGenerator):
    """Base of the generators whose scores are a network's logits."""

    part = "masks"
    kind = WEIGHTS_KIND
    Config: ClassVar[type[WeightsConfig]] = WeightsConfig
    schemes = ("tissue",)
    """What the starter weights draw; other weights may draw any scheme."""
    shift_bound = 4.0
    """`MakeConfig.shift_bound` unless another is asked for: `SURE` log-odds, and two pixels from the border."""
    config: WeightsConfig

    @abstractmethod
    def logits(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """What the network says of one tile, sharpened as at the end of its training: float32 [K, H, W]."""

    def said(self, *inputs: torch.Tensor) -> npt.NDArray[np.float32]:
        """What the network says of the inputs of one tile: float32 [K, H, W]."""
        import torch

        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = self.network(*(part.to(self.device) for part in inputs))[0].cpu().numpy()
        return logits

    def refusal(self, request: Request) -> str | None:
        """Why a request can never be met, or None."""
        if reason := self.misfit(request):
            return reason
        if request.cells:
            return f"cells: {self.name} draws regions, got {request.cells} cells"
        return check(request)

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Score fields for every request, each computed by itself, so that no batch changes a bit of it."""
        return [to_scores(self.logits(request, rng)) for request, rng in zip(requests, rngs, strict=True)]


def to_scores(logits: npt.NDArray[np.float32]) -> Scores:
    """Logits of a network as calibrated scores; where nothing is asked, the network's own decision stands.

    Args:
        logits: float32 [K, H, W]; K = 1 is the logit of the second class against the first.
    """
    if len(logits) == 1:
        field = settled(logits[0])
        own = float(np.count_nonzero(field > 0)) / field.size
        return Scores(np.stack([np.zeros_like(field), field]), (1.0 - own, own), calibrated=True)
    order = np.partition(logits, -2, axis=0)
    best, second = order[-1], order[-2]
    margins = (settled(np.where(field == best, field - second, field - best)) for field in logits)
    fields = np.stack([np.float32(0.5) * margin for margin in margins])  # so that two of them differ by one margin
    shares = np.bincount(fields.argmax(0).ravel(), minlength=len(fields)) / best.size
    return Scores(fields, tuple(shares.tolist()), calibrated=True)


def settled(margin: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A margin of log-odds whose sure pixels are ranked by their distance to the nearest pixel that decides otherwise.

    A network that was trained to be sure says nothing more by how sure it is: deep in tissue its logits are whatever
    its layers left there, a checkerboard as a rule, and a threshold moved that far would cut along it. Beyond `SURE`
    log-odds a pixel counts `SURE` + its distance in pixels (smoothed by a Gaussian of 1 pixel, which parts the many
    that are equally far), so that a threshold moved far takes tissue from its border inwards, or adds it from there
    outwards. The sign, which is the network's decision, stays; and so does a margin of one sign alone.

    Args:
        margin: float32 [H, W], above 0 where the network takes the class.

    Returns:
        float32 [H, W]: log-odds up to `SURE`, pixels beyond.
    """
    inside = margin > 0
    if inside.all() or not inside.any():  # no border to measure from
        return margin
    far = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    far -= cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
    far = np.maximum(np.abs(cv2.GaussianBlur(far, (0, 0), 1.0)), _LEAST_PX) + np.float32(SURE)
    found: npt.NDArray[np.float32] = np.where(np.abs(margin) > SURE, np.copysign(far, margin), margin)
    return found
