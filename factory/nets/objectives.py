"""Adversarial and feature-matching losses."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

Adversarial = Literal["bce", "lsgan"]


def adversarial_loss(logits: torch.Tensor, real: bool, kind: Adversarial) -> torch.Tensor:
    """Adversarial loss of logits: cross entropy (Goodfellow 2014) or least squares (Mao 2017).

    A generator minimises it with ``real=True``: the non-saturating form of -log D.
    """
    logits = logits.float()
    if kind == "bce":
        return F.softplus(-logits if real else logits).mean()
    return F.mse_loss(logits, torch.full_like(logits, float(real)))


def feature_matching(fake: list[torch.Tensor], real: list[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of a discriminator's hidden layers, their logits left out (Wang et al. 2018, Eq. 4)."""
    terms = [F.l1_loss(a.float(), b.detach().float()) for a, b in zip(fake[:-1], real[:-1], strict=True)]
    return torch.stack(terms).mean()
