"""The commands of `factory`: one file each, imports of its own inside the function, so that `--help` is quick."""
