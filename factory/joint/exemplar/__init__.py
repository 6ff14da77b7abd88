"""Copies tissue with its labels: patches bring their labels along, real nuclei their own outlines."""
