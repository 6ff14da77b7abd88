"""What generators and their judges minimise."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

Adversarial = Literal["bce", "lsgan"]


def judged_as(logits: torch.Tensor, real: bool, kind: Adversarial) -> torch.Tensor:
    """Distance of a judge's logits from "real" or "made up": cross entropy (Goodfellow 2014) or squares (Mao 2017).

    A generator minimises it with ``real=True``: the non-saturating form of -log D.
    """
    logits = logits.float()
    if kind == "bce":
        return F.softplus(-logits if real else logits).mean()
    return F.mse_loss(logits, torch.full_like(logits, float(real)))


def feature_matching(fake: list[torch.Tensor], real: list[torch.Tensor], window_px: int = 1) -> torch.Tensor:
    """Mean absolute difference of a judge's hidden layers, their logits left out (Wang et al. 2018, Eq. 4).

    Args:
        fake, real: what each of its stages gives.
        window_px: differences are of means over windows of this side in the judge's pixels; 1 is the paper's. Where a
            cell may lie elsewhere than in the real image, the mean of all that may be there matches best pixel by
            pixel, and that is a blur; means over a few cells ask for as many of them.
    """
    terms = []
    for a, b in zip(fake[:-1], real[:-1], strict=True):
        stride = 2 * round(fake[0].shape[-1] / a.shape[-1])
        window = max(1, min(window_px // stride, *a.shape[2:]))
        a, b = (F.avg_pool2d(part, window) if window > 1 else part for part in (a.float(), b.detach().float()))
        terms.append(F.l1_loss(a, b))
    return torch.stack(terms).mean()
