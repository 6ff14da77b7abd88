"""`factory sketches`: clusters of the coarse maps of a data set, and a check of drawings that imitate them."""
