"""`segment compare`: one network trained on real, augmented, synthetic and mixed tiles, and the differences."""
