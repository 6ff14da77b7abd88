"""Mixing of real and synthetic tiles over the steps of a training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from manifests.errors import UserError

Role = Literal["real", "synth"]

_NUMBER = r"(\d*\.?\d+)"
_PRETRAINED = 0.5


@dataclass(frozen=True)
class Shares:
    """Share of synthetic tiles among the crops of a training: 1 during pretraining, then evenly from `first` to `last`.

    Attributes:
        first, last: shares after the start, 0..1.
        crops: of the whole training; needed only where the shares differ. alone: crops of the pretraining.
    """

    first: float
    last: float
    crops: int = 0
    alone: int = 0

    @classmethod
    def constant(cls, share: float) -> Shares:
        """The same share from the first crop to the last."""
        return cls(share, share)

    def drawn(self, crops: int) -> int:
        """Synthetic tiles among the first `crops` crops, to the nearest whole one."""
        after = crops - self.alone
        if after <= 0:
            return crops
        total = self.first * after
        if self.last != self.first:
            total += (self.last - self.first) * after * after / (2 * (self.crops - self.alone))
        return self.alone + int(np.floor(total + 0.5))


@dataclass(frozen=True)
class Mix:
    """What a training draws from.

    Attributes:
        roles: real, synth or both.
        synth_share: share of synthetic tiles after pretraining; None weights both by their pixels.
        last_share: the share at the last step, which is reached evenly; None keeps it constant.
        pretrained: share of the steps that come first, on synthetic tiles alone.
    """

    roles: tuple[Role, ...]
    synth_share: float | None = None
    last_share: float | None = None
    pretrained: float = 0.0

    def shares(self, by_pixels: float, steps: int, batch: int) -> Shares:
        """Shares over a training.

        Args:
            by_pixels: share of synthetic tiles where the mix names none. steps, batch: of the training.
        """
        first = by_pixels if self.synth_share is None else self.synth_share
        last = first if self.last_share is None else self.last_share
        return Shares(first, last, steps * batch, self.pretraining_steps(steps) * batch)

    def pretraining_steps(self, steps: int) -> int:
        """Steps on synthetic tiles alone at the start of a training."""
        return int(np.floor(self.pretrained * steps + 0.5))


def parse_mix(text: str, rest: float = 0.0) -> Mix:
    """Read ``real``, ``synth``, ``real+synth``, ``real+synth:0.3``, ``real+synth:0.7..0.1``, ``synth-then-real:0.5``.

    Args:
        text: as written. rest: share of synthetic tiles after pretraining.

    Raises:
        UserError: for another form, and shares that are not between 0 and 1.
    """
    plain: dict[str, Mix] = {
        "real": Mix(("real",), 0.0),
        "synth": Mix(("synth",), 1.0),
        "real+synth": Mix(("real", "synth")),
        "synth-then-real": Mix(("real", "synth"), rest, pretrained=_PRETRAINED),
    }
    if text in plain:
        return plain[text]
    if match := re.fullmatch(rf"synth-then-real:{_NUMBER}", text):
        if 0 < float(match[1]) < 1:
            return Mix(("real", "synth"), rest, pretrained=float(match[1]))
    elif match := re.fullmatch(rf"real\+synth:{_NUMBER}\.\.{_NUMBER}", text):
        first, last = float(match[1]), float(match[2])
        if 0 <= min(first, last) < max(first, last) <= 1:
            return Mix(("real", "synth"), first, last)
    elif (match := re.fullmatch(rf"real\+synth:{_NUMBER}", text)) and 0 < float(match[1]) < 1:
        return Mix(("real", "synth"), float(match[1]))
    raise UserError(
        "--mix: expected real, synth, real+synth, real+synth:SHARE of synthetic tiles, real+synth:FIRST..LAST share "
        f"or synth-then-real:SHARE of the steps, with shares between 0 and 1, got {text!r}. "
        "Write for example --mix real+synth:0.3."
    )
