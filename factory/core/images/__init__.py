"""Flat image files, read with their size checked before they are decoded; the one way in for every command."""
