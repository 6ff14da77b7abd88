"""The renderer `stain`: the physics of dyes over the anatomy that a mask describes. No weights."""
