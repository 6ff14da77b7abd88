"""A factory for labelled pathology tiles: plan, draw masks, render, store, verify."""
