"""Training of a segmentation network: one run, from data sets to a run folder."""
