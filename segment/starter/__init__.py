"""Weights that come with the package, and how they were made (`segment.starter.pack`)."""
