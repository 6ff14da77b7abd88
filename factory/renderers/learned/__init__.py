"""Shared parts of the renderers that draw with trained weights."""
