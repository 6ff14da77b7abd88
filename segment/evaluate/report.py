"""The report of an evaluation: tables, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.document import Block, Grid, Paragraph, to_markdown
from factory.core.encoding import finite, json_bytes
from manifests.files import write_atomic
from manifests.labels import LabelScheme
from segment.evaluate.evaluate import ImageScore, summarise
from segment.metrics.names import METRICS, label


def evaluation_document(scores: Sequence[ImageScore], header: Mapping[str, Any], scheme: LabelScheme) -> dict[str, Any]:
    """The JSON of an evaluation: header, per image, and per source ``mean`` and ``pooled``; null where undefined.

    Args:
        scores: of every image. scheme: of the weights.
        header: weights, step, split, scheme (its name) and unit: "whole image" or "tile".
    """
    sources = {role: [s for s in scores if s.source == role] for role in dict.fromkeys(s.source for s in scores)}
    document: dict[str, Any] = finite(
        {
            **header,
            "sources": {role: summarise(part, scheme) for role, part in sources.items()},
            "images": [{"name": s.name, "source": s.source, "group": s.group, **s.figures} for s in scores],
        }
    )
    return document


def evaluation_grids(document: Mapping[str, Any]) -> list[Grid]:
    """Figures by source, then PQ of each class of nuclei, and TPS, where the scheme has such."""
    columns = [(role, kind) for role in document["sources"] for kind in ("mean", "pooled")]
    header = ["metric", *(f"{role} ({document['sources'][role]['images']}), {kind}" for role, kind in columns)]
    rows = []
    for name, metric in METRICS.items():
        values = [document["sources"][role][kind].get(name) for role, kind in columns]
        if any(value is not None for value in values):
            rows.append([metric.label, *map(metric.show, values)])
    title = f"{document['split']} split, scheme {document['scheme']}, scored by {document['unit']}"
    grids = [Grid(header, rows, title, aligned=False)]
    for role, part in document["sources"].items():
        if types := {name: figures for name, figures in part["classes"].items() if "pq" in figures}:
            values = [
                [name, *(METRICS[key].show(figures[key]) for key in ("pq", "dice"))] for name, figures in types.items()
            ]
            grids.append(Grid(["class", "PQ", "Dice"], values, f"{role}: nuclei of each class, pooled", aligned=False))
        if tps := part["tps"]:
            error = METRICS["tps_error"].show(tps["mae"])
            title = f"{role}: TPS by {tps['basis']}, mean absolute error {error}, images: {tps['images']}"
            counts = [[name, *map(str, row)] for name, row in zip(tps["classes"], tps["confusion"], strict=False)]
            grids.append(Grid(["truth \\ prediction", *tps["classes"]], counts, title, aligned=False))
    return grids


def write_evaluation(document: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write ``evaluation-<split>.json`` and ``.md``, with ``-tiles`` for tile-wise scores; returns their paths."""
    stem = folder / f"evaluation-{document['split']}{'-tiles' if document['unit'] == 'tile' else ''}"
    paths = stem.with_suffix(".json"), stem.with_suffix(".md")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(paths[0], json_bytes(document))
    blocks = _blocks(document)
    write_atomic(paths[1], to_markdown(f"Evaluation on the {document['split']} split", list(blocks)).encode())
    return paths


def _blocks(document: Mapping[str, Any]) -> Iterator[Block]:
    unit = document["unit"]
    yield Paragraph(
        f"Weights `{document['weights']}` (step {document['step']}), scheme {document['scheme']}, scored by {unit}. "
        f"Mean: over {unit}s, undefined ones left out. Pooled: of the summed counts. Not for diagnosis."
    )
    yield from evaluation_grids(document)
    for role, part in document["sources"].items():
        left_out = ", ".join(f"{label(name)} {count}" for name, count in part["left_out"].items())
        if left_out:
            yield Paragraph(f"{role}: images left out of the mean, where nothing can be scored: {left_out}.")
