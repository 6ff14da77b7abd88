"""How good a labeller is on annotated images that it never saw: accuracy and Dice by class, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.joint.labeller import Annotated, Calibration, calibrate
from factory.joint.streaming import StreamingLabeller
from factory.nets.pixel_classifier import Ensemble
from manifests.labels import IGNORE, LabelScheme

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassFigures:
    """Of one class, over the pixels of all images; None where it has no meaning.

    Attributes:
        name: of the class. pixels: that the annotation gives it. accuracy: share of these that is labelled so, the
            "class-wise pixel-level accuracy" of Histopathology-DatasetGAN. dice: 2 TP / (2 TP + FP + FN).
    """

    name: str
    pixels: int
    accuracy: float | None
    dice: float | None


@dataclass(frozen=True)
class HeldOut:
    """Of all held-out images together.

    Attributes:
        images, pixels: looked at, without those of 255. accuracy: share of the pixels that is labelled as annotated.
        mean_dice: over the classes that occur in annotation or labels. The "dice coefficient" in the code of
            Histopathology-DatasetGAN counts the pixels of all classes together, which is `accuracy`, image by image.
        classes: in the order of the scheme.
        uncertainty: mean Jensen-Shannon divergence in nats; None for a single classifier. calibration: see there.
    """

    images: int
    pixels: int
    accuracy: float
    mean_dice: float
    classes: tuple[ClassFigures, ...]
    uncertainty: float | None
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """For a person: the figures, class by class."""
        error = self.calibration.error
        found = [
            f"held out: {self.images} images, mean Dice {self.mean_dice:.3f}, {self.accuracy:.1%} of the pixels right, "
            f"calibration error {error:.3f}"
        ]
        for each in self.classes:
            accuracy, dice = (
                "none there" if value is None else f"{value:.{digits}}"
                for value, digits in ((each.accuracy, "1%"), (each.dice, "3f"))
            )
            found.append(f"  {each.name}: accuracy {accuracy}, Dice {dice}, {each.pixels:,} pixels")
        return found


def judge(
    ensemble: Ensemble, images: Sequence[Annotated], scheme: LabelScheme, *, seed: int, device: str = "cpu"
) -> tuple[HeldOut, list[npt.NDArray[np.uint8]]]:
    """Label annotated images and compare; also returns the labels, uint8 [H, W] each.

    Args:
        ensemble: in eval mode. images: that it was not trained on, at least one. scheme: of the labels.
        seed: of the pixels that calibration is measured on. device: where it runs.
    """
    labeller = StreamingLabeller(ensemble, images[0].features.record.channels, device)
    counts, labels, doubts = np.zeros((len(scheme), len(scheme)), np.int64), [], []
    for image in images:
        said = labeller.label(image.features.taps, image.features.record.size)
        counts += confusion(image.labels, said.semantic, len(scheme))
        labels.append(said.semantic)
        doubts.append(said.uncertainty)
    classes = class_figures(counts, scheme)
    known = [value for value in doubts if value is not None]
    found = HeldOut(
        images=len(images),
        pixels=int(counts.sum()),
        accuracy=float(np.trace(counts) / counts.sum()),
        mean_dice=float(np.mean([each.dice for each in classes if each.dice is not None])),
        classes=classes,
        uncertainty=float(np.mean(known)) if known else None,
        calibration=calibrate(ensemble, images, seed=seed),
    )
    return found, labels


def confusion(truth: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], classes: int) -> Counts:
    """How many pixels of each class [rows] are labelled as each class [columns]; those with 255 in either are not."""
    said = (truth != IGNORE) & (labels != IGNORE)
    pairs = truth[said].astype(np.int64) * classes + labels[said]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_figures(counts: Counts, scheme: LabelScheme) -> tuple[ClassFigures, ...]:
    """Figures of every class from a table of `confusion`."""
    right, annotated, labelled = np.diag(counts), counts.sum(1), counts.sum(0)
    return tuple(
        ClassFigures(
            label.name,
            int(annotated[label.id]),
            float(right[label.id] / annotated[label.id]) if annotated[label.id] else None,
            float(2 * right[label.id] / (annotated[label.id] + labelled[label.id]))
            if annotated[label.id] + labelled[label.id]
            else None,
        )
        for label in scheme.classes
    )
