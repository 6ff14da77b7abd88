"""`segment audit`: checks whether images show what their labels claim, with a segmenter and a stain count."""
