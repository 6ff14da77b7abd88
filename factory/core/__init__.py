"""Foundations of all parts: configuration, runs, images, weights files, devices, statistics."""
