"""Scores of trained weights on a split of data sets."""
