"""Shared parts of the mask generators that draw with trained weights."""
