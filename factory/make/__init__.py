"""Make a data set: flags and YAML become a recipe, a recipe and rows become tiles in a store."""
