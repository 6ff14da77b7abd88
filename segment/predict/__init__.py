"""Label maps of images of any size: windows, blending, stitching and the files that come out."""
