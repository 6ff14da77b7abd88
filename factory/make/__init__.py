"""Making of data sets: options and YAML become a recipe, a recipe and rows become tiles in a store."""
