"""Network parts that several generators share. Each file names the paper that its arithmetic is from."""
