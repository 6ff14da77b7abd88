"""Images and labels from one generator: the image is drawn first, its labels are read off the generator (HDGAN)."""
