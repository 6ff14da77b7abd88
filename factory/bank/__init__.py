"""Banks of real tissue: annotated images with their nuclei and textures, from which `exemplar` composes tiles."""
