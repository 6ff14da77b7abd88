"""Train and evaluate segmentation networks on real, synthetic and mixed tiles. Uses only `core` of `factory`."""
