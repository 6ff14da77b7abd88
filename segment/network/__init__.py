"""Segmentation networks: architectures, output head, weights, and nuclei from their output."""

from typing import Literal

Symmetries = Literal["none", "flips", "dihedral"]
"""Views of an image that test-time augmentation averages: it alone, its 4 mirror images, or all 8 symmetries."""

NETWORKS: dict[str, str] = {
    "unet": "segment.network.networks:Unet",
    "unetplusplus": "segment.network.networks:UnetPlusPlus",
    "segnet": "segment.network.segnet:SegNetVgg16",
}
"""Networks by name. To add one, write a class that fits `segment.network.networks.Architecture` and a line here."""
