"""What stands under a tile: requested and achieved figures, in words."""

from __future__ import annotations

from typing import Any


def percent(share: float) -> str:
    """``0.12 -> "12.0 %"``."""
    return f"{100 * share:.1f} %"


def caption(row: dict[str, Any]) -> tuple[str, ...]:
    """Lines under a tile: its id, TPS asked and achieved, tissue and cells. What has no meaning is left out."""
    split = f" · {row['split']}" if row["split"] else ""
    asked_for_content = row["request_tissue"] is not None or row["request_cells"] is not None
    content = (
        [_tissue(row), _cells(row)] if asked_for_content else [" · ".join(filter(None, (_tissue(row), _cells(row))))]
    )
    return tuple(line for line in (f"{row['sample_id']}{split}", _tps(row), *content) if line)


def _tps(row: dict[str, Any]) -> str:
    parts = [
        f"{percent(row[name])} {word}"
        for name, word in (("request_tps", "asked"), ("tps_area", "area"), ("tps_cells", "cells"))
        if row[name] is not None
    ]
    if row["tps_area"] is None and row["tps_cells"] is None and row["has_tumour"] is False:
        parts.append("no tumour")
    return "TPS " + ", ".join(parts) if parts else ""


def _tissue(row: dict[str, Any]) -> str:
    achieved, asked = row["tissue_fraction"], row["request_tissue"]
    if achieved is None:
        return ""
    return (
        f"tissue {percent(asked)} asked, {percent(achieved)} area"
        if asked is not None
        else f"tissue {percent(achieved)}"
    )


def _cells(row: dict[str, Any]) -> str:
    achieved, asked = row["cells"], row["request_cells"]
    if achieved is None or (asked is None and row["label_origin"] == "weak"):
        return ""  # weak labels know no cells: none is drawn, which does not say that none is there
    return f"cells {asked} asked, {achieved} drawn" if asked is not None else f"{achieved} cells"
