"""Similarity of two sets of tiles: distances, coverage, statistics and copies, each with its floor and ceiling.

`compare_sets` takes arrays, `factory score` takes data sets; both give the same `Comparison`.
"""

from factory.score.compare import Comparison, compare_sets
from factory.score.settings import Settings
from factory.score.tiles import TileSet

__all__ = ["Comparison", "Settings", "TileSet", "compare_sets"]
