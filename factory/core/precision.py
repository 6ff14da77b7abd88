"""Number formats of a network's arithmetic: float32, or bfloat16 where the machine has instructions for it.

torch is imported where it is asked: a `factory make` that draws without a network starts in half the time.
"""

from __future__ import annotations

import contextlib

from factory.core.choices import Precision

__all__ = ["Precision", "autocast", "resolve_precision"]


def resolve_precision(requested: Precision, device: str) -> Precision:
    """``auto`` -> bf16 where the device multiplies bfloat16 in hardware, else fp32.

    A CPU without such instructions emulates them and is slower than in float32.
    """
    if requested != "auto":
        return requested
    import torch

    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device == "cpu" and _cpu_has_bf16() else "fp32"


def autocast(precision: Precision, device: str) -> contextlib.AbstractContextManager[object]:
    """Context of a network's computation: weights stay float32, convolutions run in bfloat16 with bf16."""
    if precision == "fp32":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16)


def _cpu_has_bf16() -> bool:
    import torch

    # torch has no public function for this; without these the answer is no.
    supported = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in supported if ask is not None)
