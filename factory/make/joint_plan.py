"""What is asked of `factory make --joint`: a plan of the weights' tiles, with shares of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from factory.core.config import Config
from factory.core.resolutions import SAME_MPP
from factory.plan.class_shares import draw_shares
from factory.plan.rows import PlanConfig, load_scheme, with_column
from manifests.errors import UserError
from manifests.labels import LabelScheme


class JointMakeConfig(Config):
    """Every setting of `factory make --joint` that changes a byte of its output.

    Attributes:
        plan: what is asked; resolution and scheme are those of the weights, and size where these have one.
        shares: class -> distribution of its share of all pixels, see `factory.plan.distributions`.
        joint: ``name`` and, optionally, values of its own Config. shard: tiles in a shard file.
    """

    plan: PlanConfig
    shares: dict[str, str] = Field(default_factory=dict)
    joint: dict[str, Any]
    shard: int = Field(default=64, ge=1, le=65_536)


def plan_for(asked: PlanConfig, scheme: LabelScheme, *, mpp: float, size: tuple[int, int] | None) -> PlanConfig:
    """Return the plan with size, resolution and scheme of the weights, where nothing else was typed.

    Args:
        asked: as typed. scheme, mpp: of the weights. size: of their tiles; None leaves the default.

    Raises:
        UserError: for another scheme, and shares of the tissue, which are asked by class here.
    """
    for name, value in (("tumour", asked.tumour), ("inflammation", asked.inflammation)):
        if value is not None:
            raise UserError(f"--{name}: expected none with --joint, which takes shares by class. Write --share CLASS=.")
    typed = asked.model_fields_set
    if "scheme" in typed and load_scheme(asked.scheme).name != scheme.name:
        raise UserError(f"--scheme: expected {scheme.name}, which the weights tell apart, got {asked.scheme}.")
    own = {"mpp": mpp, **({} if size is None else {"size": size})}
    return asked.model_copy(
        update={"scheme": scheme.name, **{key: value for key, value in own.items() if key not in typed}}
    )


def refuse_other_tiles(rows: pa.Table, scheme: LabelScheme, *, mpp: float, size: tuple[int, int] | None) -> None:
    """Refuse rows of a plan that ask for other tiles than the weights draw.

    Raises:
        UserError: for another size, resolution or scheme.
    """
    first = rows.select(["height", "width", "mpp", "label_scheme"]).slice(0, 1).to_pylist()[0]
    if size is not None and (first["height"], first["width"]) != size:
        raise UserError(
            f"--size: expected {size[0]}x{size[1]}, which the weights draw, got {first['height']}x{first['width']}."
        )
    if abs(first["mpp"] - mpp) > SAME_MPP * mpp:
        raise UserError(f"--mpp: expected {mpp:g}, which the weights draw, got {first['mpp']:g}. Leave it out.")
    if first["label_scheme"] != scheme.name:
        raise UserError(f"--scheme: expected {scheme.name}, which the weights tell apart, got {first['label_scheme']}.")


def with_shares(rows: pa.Table, config: JointMakeConfig, scheme: LabelScheme) -> pa.Table:
    """Return rows with requested shares; what is left is divided equally among the other classes, to fill a row.

    Raises:
        UserError: for an unknown class, shares of more than 1 in all, and shares that the rows have already.
    """
    if config.shares and rows["request_fractions"].null_count < len(rows):
        raise UserError("--share: expected none beside a --manifest that asks for shares. Leave one out.")
    shares = draw_shares(config.shares, scheme, len(rows), config.plan.seed)
    if shares is None:
        return rows
    total = np.nansum(shares, 1)
    left = np.isnan(shares).sum(1, keepdims=True)
    filled: npt.NDArray[np.float64] = np.where(np.isnan(shares), (1 - total)[:, None] / np.maximum(left, 1), shares)
    return with_column(rows, "request_fractions", np.clip(filled, 0, 1).tolist())
