"""Brings real images into a data set of tiles; nothing is written before every file was read and found right.

`request` turns the command's options into a configuration, `pairing` finds the files that belong together, `geometry`
reads their headers, `tiling` decodes each image once, checks it and chooses its tiles, `grouping` assigns groups and
splits, `writing` decodes the images a second time and writes whole shards.
"""
