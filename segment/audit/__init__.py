"""`segment audit`: an independent judge says of every image whether it shows what its row claims."""
