"""`segment predict`: label maps of images of any size, from overlapping windows, as files or a data set."""

from typing import Literal

Format = Literal["png", "tiff", "geojson", "dataset"]
FORMATS: tuple[Format, ...] = ("png", "tiff", "geojson", "dataset")
"""Formats of the outputs."""
