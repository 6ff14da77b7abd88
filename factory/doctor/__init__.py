"""Examine the installation: `factory doctor`."""
