"""Requests: a distribution becomes manifest rows, one request a tile."""
