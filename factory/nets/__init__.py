"""Network parts that several generators share. Each file names the paper that its arithmetic is from."""

STRIDE = 32
"""Five halvings: sides of a mask are multiples of this; 512x1024 grows from a seed map of 16x32."""
