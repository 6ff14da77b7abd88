"""Tests of README and docs: commands parse, generated pages are complete, examples run."""
