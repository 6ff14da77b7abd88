"""Segmentation networks: architecture, output head, weights, and instances from their output."""
