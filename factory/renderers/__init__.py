"""Renderers by name. A new one is a file here, or a folder, and a line below; `base` says what it must have."""

UNTRAINED: dict[str, str] = {
    "stain": "factory.renderers.stain.stain:Stain",
    "palette": "factory.renderers.palette:Palette",
}
"""Those that draw without weights."""

COLLECTED: dict[str, str] = {
    "exemplar": "factory.renderers.exemplar.exemplar:Exemplar",
}
"""Those that draw with pixels of real images, which `factory train` collects in seconds."""

TRAINED: dict[str, str] = {
    "pix2pixhd": "factory.renderers.pix2pixhd:Pix2PixHd",
    "sharpgan": "factory.renderers.sharpgan:SharpGan",
    "pix2pix": "factory.renderers.pix2pix:Pix2Pix",
    "cyclegan": "factory.renderers.cyclegan:CycleGan",
}
"""Those that draw with weights. Each has a ``Trainer``, by which `factory train` trains it."""

RENDERERS: dict[str, str] = {**UNTRAINED, **COLLECTED, **TRAINED}
TRAINABLE = tuple(TRAINED)
