"""Segmentation networks: architectures, output head, weights, and nuclei from their output."""

NETWORKS: dict[str, str] = {
    "unet": "segment.network.networks:Unet",
    "unetplusplus": "segment.network.networks:UnetPlusPlus",
    "segnet": "segment.network.segnet:SegNetVgg16",
}
"""Networks by name. To add one, write a class that fits `segment.network.networks.Architecture` and a line here."""
