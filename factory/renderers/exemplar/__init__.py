"""Composes tiles of real tissue: quilted ground, real nuclei in drawn outlines, painted markers."""
