"""Micrometres per pixel, from every place where a file states them; where places disagree, that is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from factory.core.resolutions import SAME_MPP

Stated = tuple[tuple[str, float], ...]
"""Where a file states its resolution, and the micrometres per pixel, the most trustworthy first."""

_PLAUSIBLE_MPP = (0.05, 20.0)
_UM_PER_TAG = {2: 25_400.0, 3: 10_000.0}
"""Micrometres in an inch and a centimetre, by the values of the tag ResolutionUnit (TIFF 6.0, section 8)."""

_UM_PER_UNIT = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0, "in": 25_400.0,
}  # fmt: skip
_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")


def plausible_mpp(x_um: float, y_um: float) -> float | None:
    """Micrometres per pixel of two axes where they agree and a microscope could have made them, else None."""
    low, high = _PLAUSIBLE_MPP
    if not (low <= x_um <= high and low <= y_um <= high) or abs(x_um - y_um) > 0.05 * x_um:
        return None
    return (x_um + y_um) / 2 if x_um != y_um else x_um


def disagreement(stated: Stated, given: float | None, used: float) -> str | None:
    """What a file or `--mpp` says besides the resolution that is used, in words; None where all agree."""
    sources = [*stated, *([("--mpp", given)] if given is not None else [])]
    if all(abs(mpp / used - 1) <= SAME_MPP for _, mpp in sources):
        return None
    says = ", ".join(f"{name} {mpp:.4g}" for name, mpp in sources)
    return f"sources of the resolution disagree ({says}): {used:.4g} um per pixel is used"


def stated_by_tiff(file: Any, page: Any) -> Stated:
    """Resolutions in the metadata of an open `tifffile.TiffFile` and its first page."""
    found = (
        ("OME-XML", _of_ome(page.description) if file.is_ome else None),
        ("ImageJ's tag", _of_imagej(file, page)),
        ("Aperio's tag", _of_aperio(page.description)),
        ("the TIFF tag", _of_tags(page, _UM_PER_TAG.get(int(_tag(page, "ResolutionUnit") or 0)))),
    )
    return tuple((name, mpp) for name, mpp in found if mpp is not None)


def stated_by_density(dots_per_inch: Sequence[float] | None) -> Stated:
    """The resolution of a PNG or JPEG, from its dots per inch; those of screens and printers are no microscope's."""
    if dots_per_inch is None or not all(value > 0 for value in dots_per_inch):
        return ()
    mpp = plausible_mpp(*(25_400.0 / float(value) for value in dots_per_inch))
    return () if mpp is None else (("dots per inch", mpp),)


def _of_ome(description: str) -> float | None:
    """PhysicalSizeX and PhysicalSizeY of the first Pixels element (OME schema 2016-06; the unit's default is µm)."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        pixels = next((node for node in fromstring(description).iter() if node.tag.endswith("}Pixels")), None)
        sizes = []
        for axis in "XY":
            unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm")) if pixels is not None else None
            value = pixels.get(f"PhysicalSize{axis}") if pixels is not None else None
            sizes.append(float(value) * unit if value is not None and unit is not None else None)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    x_um, y_um = sizes[0] or sizes[1], sizes[1] or sizes[0]
    return plausible_mpp(x_um, y_um) if x_um is not None and y_um is not None else None


def _of_imagej(file: Any, page: Any) -> float | None:
    """XResolution counts pixels in the unit that ImageJ's description names."""
    if not file.is_imagej:
        return None
    unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    return _of_tags(page, _UM_PER_UNIT.get(unit.strip().lower()))


def _of_aperio(description: str) -> float | None:
    match = _APERIO_MPP.search(description)
    try:
        return plausible_mpp(float(match[1]), float(match[1])) if match else None
    except ValueError:
        return None


def _of_tags(page: Any, unit_um: float | None) -> float | None:
    x, y = _tag(page, "XResolution"), _tag(page, "YResolution")
    if unit_um is None or not all(value and len(value) == 2 and value[0] and value[1] for value in (x, y)):
        return None
    return plausible_mpp(unit_um * x[1] / x[0], unit_um * y[1] / y[0])


def _tag(page: Any, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value
