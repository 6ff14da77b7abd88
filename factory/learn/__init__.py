"""Shared parts of all trainings: crops of real tiles, weights with their cards, sample sheets."""
