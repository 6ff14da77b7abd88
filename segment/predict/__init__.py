"""Label maps of images of any size: windows, blending, stitching and the files that come out."""

from typing import Literal

Format = Literal["png", "tiff", "geojson", "dataset"]
FORMATS: tuple[Format, ...] = ("png", "tiff", "geojson", "dataset")
"""Formats of the outputs."""
