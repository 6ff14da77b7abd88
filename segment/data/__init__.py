"""Training tiles: data sets by role, sampling, augmentation and targets; and whole images for scoring."""
