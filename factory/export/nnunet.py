"""nnU-Net v2's raw layout (Isensee et al. 2021): images and label maps in folders, ``dataset.json`` and splits.

The rules are those of its ``verify_dataset_integrity``: label 0 is called background, labels are consecutive, and the
ignore label is the highest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from factory.core.encoding import png
from factory.export.base import Export, Files, Format, Part, Record
from factory.export.origin import summary
from manifests.dataset import Sample
from manifests.errors import UserError
from manifests.labels import IGNORE

_FOLDER = re.compile(r"Dataset\d{3}_\w+")
_FOLDS = 5
_RESERVED = ("background", "ignore")


class NnUnet(Format):
    """A folder of ``nnUNet_raw``: tiles of train and val are training cases, those of test are apart."""

    @staticmethod
    def check(export: Export) -> None:
        """The folder's name is the number and name of the data set; training cases must be there."""
        if not _FOLDER.fullmatch(export.out.name):
            raise UserError(
                f"--out {export.out}: expected a name like Dataset501_Tiles, as nnU-Net wants it. Choose one."
            )
        if not export.tiles.keys() & {"train", "val"}:
            raise UserError("--format nnunet: expected tiles of train or val, got test alone. Use --split all.")
        for name in export.scheme.names[1:]:
            if name in _RESERVED:
                raise UserError(f"--format nnunet: expected no class called {name} but the first, got one. Rename it.")

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """An image and a label map for each tile."""
        where, ignore, ignored, cells = "Ts" if part.split == "test" else "Tr", len(export.scheme), False, 0
        cases = []
        for sample in samples:
            name, comment = sample.row["sample_id"], export.comment(sample.row)
            semantic = sample.tile.semantic
            unlabelled = semantic == IGNORE
            ignored = ignored or bool(unlabelled.any())
            files.put(f"images{where}/{name}_0000.png", png(sample.image, comment))
            files.put(f"labels{where}/{name}.png", png(np.where(unlabelled, np.uint8(ignore), semantic), comment))
            cases.append(f"{name}\t{sample.row['group_id'] or name}")
            cells += sample.row["cells"] or 0
        files.put_piece("cases", part, cases)
        return {"ignored": ignored, "lost": {"cells as objects: nnU-Net has classes alone": cells}}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """``dataset.json``, and ``splits_final.json`` for nnU-Net's folder of preprocessed data."""
        labels = {name: number for number, name in enumerate(export.scheme.names)}
        labels = {"background": 0, **{name: number for name, number in labels.items() if number}}
        if any(record["ignored"] for record in records.values()):
            labels["ignore"] = len(export.scheme)
        files.put_json(
            "dataset.json",
            {
                "name": export.out.name,
                "description": f"{summary(export.mark)} Label 0 is {export.scheme.names[0]}.",
                "licence": ", ".join(export.mark["licences"]) or "not stated",
                "converted_by": "pathology-tile-factory",
                "channel_names": {"0": "R", "1": "G", "2": "B"},
                "labels": labels,
                "numTraining": sum(export.tiles.get(split, 0) for split in ("train", "val")),
                "file_ending": ".png",
                "overwrite_image_reader_writer": "NaturalImage2DIO",
                "pathology_tiles": dict(export.mark),
            },
        )
        cases = {split: dict(line.split("\t") for line in files.lines("cases", split)) for split in ("train", "val")}
        files.put_json("splits_final.json", _folds(cases["train"], cases["val"]))


def _folds(train: dict[str, str], val: dict[str, str]) -> list[dict[str, list[str]]]:
    """Case -> group of both splits -> folds: theirs where there are both, else five (or fewer) that divide no group."""
    if train and val:
        return [{"train": sorted(train), "val": sorted(val)}]
    cases = {**train, **val}
    groups = sorted(set(cases.values()))
    folds = []
    for fold in range(min(_FOLDS, len(groups))):
        held = set(groups[fold::_FOLDS])
        folds.append(
            {
                "train": sorted(case for case, group in cases.items() if group not in held),
                "val": sorted(case for case, group in cases.items() if group in held),
            }
        )
    return folds
