"""Mask generators by name. Adding one is a file here and a line below.

A generator is a class with a frozen `Config`, built as ``Generator(config, device)``, that has
``schemes``, the names of the label schemes it draws (``"*"``: any that is not shipped),
``refusal(request) -> str | None``, why a request can never be met, and ``draw(requests, rngs) -> list[Scores]``, which
must not look at anything but each request and its own generator. `composition.allocate` makes the Tile of a Scores.
One that learns from real instances without a training run has ``fit(tiles, request, config, typed) -> Config`` as well:
`factory make --like` calls it. One with weights derives from `trained_masks.TrainedMasks` and has a ``Trainer`` for
`factory train`.
"""

MASKS: dict[str, str] = {
    "polygons": "factory.masks.polygons:Polygons",
    "nuclei": "factory.masks.nuclei:Nuclei",
    "ihc": "factory.masks.ihc:Ihc",
    "depas": "factory.masks.depas:Depas",
    "dcgan": "factory.masks.dcgan:Dcgan",
    "priorpath": "factory.masks.priorpath:PriorPath",
    "cyclegan": "factory.masks.cyclegan:CycleGan",
}

TRAINABLE = ("depas", "dcgan", "priorpath", "cyclegan")
"""Those that `factory train` can train; listed so that its help need not import them."""
