"""A blind test: can a reader tell synthetic tiles from real ones? `factory quiz`."""
