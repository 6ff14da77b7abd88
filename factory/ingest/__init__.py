"""Real images into the contract: pairing, checking, tiling and writing; one file per source format.

The way through: `request` reads the options, `pairing` finds the files that belong together, `survey` decodes each of
them once and collects everything that is wrong, `grouping` gives groups and splits, `writing` decodes them a second
time and writes whole shards. Nothing is written before everything was read and found right.
"""
