"""Where a data set comes from, as every exported file says it: synthetic or real, sources, licences, use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.core.datasets import real_pixels_of
from factory.core.folder import library_versions
from manifests.dataset import Dataset
from manifests.labels import LabelScheme


def origin_of(dataset: Dataset, scheme: LabelScheme) -> dict[str, Any]:
    """Origin of the rows of a data set, JSON-ready: its metadata, and whose pixels the rows hold."""
    document = dataset.info.to_dict()
    inside = real_pixels_of(dataset.table, dataset.info)
    digests = {name: _distinct(dataset, f"{name}_sha256") for name in ("config", "mask_weights", "image_weights")}
    return {
        "is_synthetic": document["is_synthetic"],
        "use": document["use"],
        "generator": document["generator"],
        "data_set": dataset.root.resolve().name,
        "training_sources": document["training_sources"],
        "licences": sorted({*document["licences"], *_distinct(dataset, "licence")}),
        "real_pixels": document["real_pixels"],
        "real_groups": list(inside.groups) if inside else [],
        "label_scheme": scheme.name,
        "label_origins": _distinct(dataset, "label_origin"),
        **{f"{name}_sha256": values for name, values in digests.items()},
        "versions": {**document["versions"], **library_versions()},
    }


def _distinct(dataset: Dataset, column: str) -> list[str]:
    return sorted(set(dataset.table[column].unique().to_pylist()) - {None})


def summary(mark: Mapping[str, Any]) -> str:
    """The origin in sentences, for descriptions and cards."""
    if mark["is_synthetic"]:
        what = f"Synthetic images of {mark['generator']}"
        pixels = (
            f"They hold pixels of real images, of {len(mark['real_groups'])} groups." if mark["real_pixels"] else ""
        )
        sources = "Sources of the training data"
    else:
        what, pixels, sources = "Real images", "", "Sources"
    named = f"{sources}: {', '.join(mark['training_sources']) or 'not stated'}."
    licences = f"Licences: {', '.join(mark['licences']) or 'not stated'}."
    return " ".join(text for text in (f"{what}, {mark['use']}.", pixels, named, licences) if text)
