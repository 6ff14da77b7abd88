"""Placement of cells in a tile: which nuclei, where, and how closely packed."""
