"""Training runs of generators, from data sets to a run folder."""
