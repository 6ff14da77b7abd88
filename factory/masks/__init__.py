"""Mask generators by name. A new one is a file here, or a folder, and a line below; `base` says what it must have."""

UNTRAINED: dict[str, str] = {
    "polygons": "factory.masks.polygons:Polygons",
    "nuclei": "factory.masks.nuclei:Nuclei",
    "ihc": "factory.masks.ihc:Ihc",
}
"""Those that draw without weights."""

TRAINED: dict[str, str] = {
    "depas": "factory.masks.depas:Depas",
    "dcgan": "factory.masks.depas:Dcgan",
    "priorpath": "factory.masks.priorpath:PriorPath",
    "cyclegan": "factory.masks.cyclegan:CycleGan",
}
"""Those that draw with weights. Each has a ``Trainer``, by which `factory train` trains it."""

MASKS: dict[str, str] = {**UNTRAINED, **TRAINED}
TRAINABLE = tuple(TRAINED)
