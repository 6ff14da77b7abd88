"""What kinds of coarse maps a data set holds, and how a person's drawings of them are read: `factory sketches`."""
