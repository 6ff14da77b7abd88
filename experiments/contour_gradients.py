"""How much of a generator's gradient comes from L_s1 and L_s2 of Enhanced Sharp-GAN, at a weight of 1.

    python -m experiments.contour_gradients --data data/monuseg-whole

The gradient of each term to the image, root of the mean square over the pixels of 64 training crops of 128x128: of the
real images, and of the same images under a Gaussian of 2 pixels, as soft as those of a network that begins to learn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from factory.geometry.nuclear_maps import contour_of
from factory.learn.crops import NucleiCrops, instances_of, open_tiles
from factory.nets.contours import contrast, grey_of, smoothness

Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SIZE, _CROPS, _SEED, _MOST_AIR, _SOFT_PX = (128, 128), 64, 7, 0.85, 2.0
LEVELS = 0.1
"""lambda of the presets."""

TERMS: dict[str, Term] = {
    "L_s1, Eq. 6": smoothness,
    "L_s1, differences divided by lambda": partial(smoothness, levels=LEVELS),
    "L_s2, Eq. 7": partial(contrast, levels=LEVELS),
}


def main() -> None:
    """Print a line for each kind of image and term."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    views = NucleiCrops(open_tiles(parser.parse_args().data, None, _SIZE, 1), _SIZE, _CROPS, _SEED, _MOST_AIR).draw(0)
    contours = torch.from_numpy(np.stack([contour_of(instance) for instance in instances_of(views)]))
    reals = np.ascontiguousarray(views[..., 1:4])
    soft = np.stack([cv2.GaussianBlur(image, (0, 0), _SOFT_PX) for image in reals])
    for kind, images in (("real", reals), ("blurred", soft)):
        sizes = {name: gradient(term, images, contours) for name, term in TERMS.items()}
        for name, size in sizes.items():
            print(f"{kind:8} {name:36} {size:.2e}   {size / sizes['L_s2, Eq. 7']:.3f} of L_s2")


def gradient(term: Term, images: np.ndarray, contours: torch.Tensor) -> float:
    """Root of the mean square of a term's gradient to images uint8 [N, H, W, 3] with contours bool [N, H, W]."""
    made = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).requires_grad_()
    (found,) = torch.autograd.grad(term(grey_of(made), contours), made)
    return float(found.square().mean().sqrt())


if __name__ == "__main__":
    main()
