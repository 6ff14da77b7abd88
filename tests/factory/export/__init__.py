"""Tests of `factory export`: the way through all formats, and each format by its consumer's own library."""
