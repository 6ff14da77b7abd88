"""Images and labels from one generator, by name: the image is drawn first, its labels are read off the generator.

Adding one is a file here and a line below. ``stylegan2`` learns images by a ``Trainer``; ``hdgan`` is fitted to the
features and the annotated images of a trained generator (Histopathology DatasetGAN). ``exemplar`` copies both out of a
bank of real tissue.
"""

from typing import Literal

TRAINABLE = ("stylegan2", "hdgan")
"""Those that `factory train` can train; listed so that its help need not import them."""

FITTED = ("hdgan",)
"""Those among them that are fitted to the features of a generator, in one go, and have no ``Trainer``."""

JOINT: dict[str, str] = {
    "stylegan2": "factory.joint.stylegan2:StyleGan2",
    "hdgan": "factory.joint.hdgan:Hdgan",
    "exemplar": "factory.joint.exemplar.exemplar:Exemplar",
}

RECIPES: dict[str, str] = {
    "hdgan": "factory.make.recipes.joint:prepare",
    "exemplar": "factory.make.recipes.copies:prepare",
}
"""Those that `factory make --joint` draws with -> how a run of them is prepared."""

NoiseInput = Literal["drawn", "constant"]
"""Noise inputs of a generator: drawn for each image, or the constant maps that belong to the weights."""

DRAWING = "drawing"
"""Key of run.yaml with the settings that a generator drew the images with."""

HDGAN = "hdgan"
"""Name of the labeller, and key of run.yaml with its settings."""

EXEMPLAR = "exemplar"
"""Name of the part that copies, and key of run.yaml with its settings."""

SHARES = "shares"
"""Key of run.yaml with the classes whose shares of the pixels were asked for."""
