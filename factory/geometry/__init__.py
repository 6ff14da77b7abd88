"""Geometry of nuclei and tissue: outlines, smooth fields, nuclear maps and their statistics. No networks."""
