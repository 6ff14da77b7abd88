"""Pages of the starter bank `exemplar-tissue`: CC0 tissue in H&E, shown as the pale counterstain of an immunostain.

python -m factory.starter.counterstain IMAGES DYES OUT

IMAGES has the tiles of breast tissue, JPEG. DYES is a data set of immunostains whose colours are shown; no pixel of it
is taken. What follows are ordinary commands (docs/reference/starter-weights.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.dyes import dyes_like, measure_dyes, show_in_dyes
from factory.core.console import run
from factory.core.images.files import read_rgb
from manifests.errors import UserError
from manifests.files import write_atomic

IMAGES = (3, 4, 5, 9, 10, 11, 15, 16, 26, 27, 29, 31, 33, 34, 35, 36)
"""Numbers of the images: those with air or fat, whose air is clear."""
MPP = 0.5
_ENLARGED = 3
"""Nuclei of lymphocytes are 4 to 5 pixels wide, so a pixel is about 1.5 um and not the 1 um that is said of them."""
_SHARPENED = 1.0


def write_pages(images: Path, dyes: Path, out: Path) -> None:
    """Write ``NUMBER.png`` for each of `IMAGES`: enlarged, and shown in one of the dyes.

    Raises:
        UserError: where an image is missing, or shows too little stained tissue.
    """
    shown = dyes_like(dyes, MPP)
    out.mkdir(parents=True, exist_ok=True)
    for place, number in enumerate(IMAGES):
        page = enlarged(read_rgb(images / f"Image_{number:03}.jpg"))
        own = measure_dyes([page], MPP, str(number))
        if own is None:
            raise UserError(f"{images}: expected stained tissue in Image_{number:03}.jpg, got too little.")
        page = show_in_dyes(page, own, shown[place % len(shown)])
        write_atomic(out / f"{number:03}.png", cv2.imencode(".png", page[..., ::-1])[1].tobytes())


def enlarged(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Enlarge an image, without the grid of its pixels and sharpened again: uint8 [3 H, 3 W, 3]."""
    height, width = (side // 16 * 16 for side in image.shape[:2])
    size = (width * _ENLARGED, height * _ENLARGED)
    large = cv2.resize(np.ascontiguousarray(image[:height, :width]), size, interpolation=cv2.INTER_CUBIC)
    large = cv2.GaussianBlur(large, (0, 0), 0.3 * _ENLARGED)
    blurred = cv2.GaussianBlur(large, (0, 0), 0.7 * _ENLARGED).astype(np.float32)
    sharp: npt.NDArray[np.uint8] = np.clip(np.rint(large + _SHARPENED * (large - blurred)), 0, 255).astype(np.uint8)
    return sharp


def main(arguments: list[str]) -> None:
    """Run the command."""
    if len(arguments) != 3:
        raise UserError(f"expected: IMAGES DYES OUT, got {' '.join(arguments) or 'nothing'}.")
    write_pages(*(Path(argument) for argument in arguments))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
