"""Benchmarks of code that claims to be fast, each against a peer or a limit in the same run. Not part of the tests."""
