"""Renderers by name. Adding one is a file here and a line below.

A renderer is a class with a frozen `Config`, built as ``Renderer(config, device)``, that has
``condition``, the condition map it wants (a `factory.renderers.conditions.ConditionConfig`), ``label_origin`` ("exact"
where what the mask says is what is drawn, "conditioned" where a network was asked for it), and
``render(conditions, rngs) -> list of uint8 [H, W, 3]``. One that learns from real images without a training run has
``fit(images, scheme, config) -> Config`` as well: `factory make --like` calls it. One with weights derives from
`trained_renderers.TrainedRenderer` and has a ``Trainer`` for `factory train`.
"""

TRAINABLE = ("pix2pixhd", "sharpgan", "pix2pix", "cyclegan")
"""Those that `factory train` can train; listed so that its help need not import them."""

RENDERERS: dict[str, str] = {
    "stain": "factory.renderers.stain.stain:Stain",
    "pix2pixhd": "factory.renderers.pix2pixhd:Pix2PixHd",
    "sharpgan": "factory.renderers.sharpgan:SharpGan",
    "pix2pix": "factory.renderers.pix2pix:Pix2Pix",
    "cyclegan": "factory.renderers.cyclegan:CycleGan",
    "palette": "factory.renderers.palette:Palette",
}
