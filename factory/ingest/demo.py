"""Image of `make demo`: scikit-image's immunohistochemistry photograph, in four quarters.

The photograph (colon, DAB and haematoxylin; courtesy of the Center for Microscopy and Molecular Imaging) ships with
scikit-image. One image is one slide, and training needs three: the quarters stand in for slides, which is why the
scores of the demo are a smoke test and no result.
"""

from __future__ import annotations

import sys
from pathlib import Path

from manifests.files import write_atomic

SPLITS = {"upper-right": "train", "lower-right": "train", "lower-left": "val", "upper-left": "test"}
"""The right half is for training, as it has the least DAB: it becomes the ground of the tiles."""


def write_demo_images(folder: Path) -> None:
    """Write the quarters as PNG, 256 x 256 each, and a ``splits.csv`` for `factory ingest --splits`."""
    import cv2
    from skimage.data import immunohistochemistry

    image = cv2.cvtColor(immunohistochemistry(), cv2.COLOR_RGB2BGR)
    half = image.shape[0] // 2
    folder.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        top = 0 if name.startswith("upper") else half
        left = 0 if name.endswith("left") else half
        _, content = cv2.imencode(".png", image[top : top + half, left : left + half])
        write_atomic(folder / f"{name}.png", content.tobytes())
    lines = ["name,split", *(f"{name},{split}" for name, split in SPLITS.items())]
    write_atomic(folder / "splits.csv", ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    write_demo_images(Path(sys.argv[1]))
