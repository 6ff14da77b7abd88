"""Tiles to learn from: data sets by role, sampling, augmentation, targets."""
