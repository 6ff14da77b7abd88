"""Segmentation networks: architecture, output head, weights, and instances from their output."""

NETWORKS: dict[str, str] = {
    "unetplusplus": "segment.network.networks:unetplusplus",
    "segnet": "segment.network.segnet:segnet",
}
"""Networks by name. Adding one is a function ``(encoder, in_channels, classes) -> Module`` and a line here."""
