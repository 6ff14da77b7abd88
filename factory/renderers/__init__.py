"""Renderers by name. Adding one is a file here and a line below.

A renderer is a class with a frozen `Config`, built as ``Renderer(config, device)``, that has
``condition``, the kind of condition map it wants (a name in `factory.conditions.CONDITIONS`), ``label_origin`` ("exact"
where what the mask says is what is drawn, "conditioned" where a network was asked for it), and
``render(conditions, rngs) -> list of uint8 [H, W, 3]``. One that learns from real images without a training run has
``fit(images, scheme, config) -> Config`` as well: `factory make --like` calls it.
"""

RENDERERS: dict[str, str] = {
    "stain": "factory.renderers.stain:Stain",
    "palette": "factory.renderers.palette:Palette",
}
