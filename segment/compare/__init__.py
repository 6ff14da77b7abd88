"""Whether synthetic tiles help: one network trained on real, augmented, synthetic and mixed tiles, and the gain."""
