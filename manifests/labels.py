"""Label schemes: the classes of semantic masks, and projections of one scheme onto another."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError

IGNORE = 255
"""The label of unlabelled pixels, as outside an ROI, excluded from measures, losses and metrics in every scheme."""

TpsBasis = Literal["area", "cells"]
_NAME = re.compile(r"[A-Za-z0-9_-]+")
ROLES = ("air", "tumour_positive", "tumour_negative", "inflammation", "nucleus", "nuclear_marker", "")
"""Roles of classes. `nuclear_marker` accompanies `tumour_positive`: the stain is in nuclei (Ki-67) and not on membranes
(PD-L1), though the class may be a region."""

NUCLEUS_LOOKS = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
REGION_LOOKS = ("epithelium", "stroma", "inflammation", "necrosis", "muscle", "mucus", "fat", "blood")
APPEARANCES = (*REGION_LOOKS, *NUCLEUS_LOOKS, "")
"""What a class looks like, where its roles do not say it: kinds of tissue, and of nuclei (those of PanNuke)."""


@dataclass(frozen=True)
class LabelClass:
    """One class of a scheme.

    Attributes:
        id: in the mask. name: of the class. colour: RGB, for overlays. roles: of `ROLES`.
        appearance: of `APPEARANCES`; what a renderer without examples draws.
    """

    id: int
    name: str
    colour: tuple[int, int, int]
    roles: tuple[str, ...] = ()
    appearance: str = ""


@dataclass(frozen=True)
class LabelScheme:
    """The classes of a semantic mask, ids 0..C-1 in order, and the projections onto other schemes.

    Attributes:
        name: the scheme's name, as `label_scheme` in a manifest.
        classes: the classes; `classes[i].id == i`.
        projections: target scheme name -> target id per class, e.g. ``{"tissue": (1, 1, 1, 1, 0)}``.
        tps_basis: basis of a requested TPS: pixels of the mask ("area") or instances ("cells").
    """

    name: str
    classes: tuple[LabelClass, ...]
    projections: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tps_basis: TpsBasis = "area"

    def __post_init__(self) -> None:
        object.__setattr__(self, "projections", MappingProxyType(dict(self.projections)))
        where = f"label scheme {self.name!r}"
        if not _NAME.fullmatch(self.name):
            raise UserError(f"{where}: expected a name of letters, digits, _ and -.")
        if not self.classes or len(self.classes) > IGNORE:
            raise UserError(f"{where}: expected 1 to {IGNORE} classes, got {len(self.classes)}.")
        for position, label in enumerate(self.classes):
            if label.id != position:
                raise UserError(f"{where}: expected ids 0..{len(self.classes) - 1} in order, got {label.id}.")
            unknown = set(label.roles) - set(ROLES)
            if unknown:
                raise UserError(f"{where}: class {label.name}: expected roles of {ROLES[:-1]}, got {sorted(unknown)}.")
            if label.appearance not in APPEARANCES:
                known = ", ".join(APPEARANCES[:-1])
                raise UserError(f"{where}: class {label.name}: appearance: expected {known}, got {label.appearance}.")
            if not all(0 <= value <= 255 for value in label.colour):
                raise UserError(f"{where}: class {label.name}: expected RGB from 0 to 255, got {label.colour}.")
        if len({label.name for label in self.classes}) != len(self.classes):
            raise UserError(f"{where}: expected unique class names.")
        for target, ids in self.projections.items():
            if len(ids) != len(self.classes):
                raise UserError(f"{where}: projection to {target}: expected {len(self.classes)} ids, got {len(ids)}.")
            if not all(0 <= value <= IGNORE for value in ids):
                raise UserError(f"{where}: projection to {target}: expected ids from 0 to {IGNORE}, got {list(ids)}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return (LabelScheme, (self.name, self.classes, dict(self.projections), self.tps_basis))

    def __hash__(self) -> int:
        return hash((self.name, self.classes))

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in id order."""
        return tuple(label.name for label in self.classes)

    def ids(self, role: str) -> tuple[int, ...]:
        """Ids of the classes that have a role, e.g. ``pdl1.ids("air") == (4,)``."""
        return tuple(label.id for label in self.classes if role in label.roles)

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """RGB colour of every mask value: uint8 [256, 3]; `IGNORE` and unused values are mid grey."""
        colours = np.full((256, 3), 128, np.uint8)
        for label in self.classes:
            colours[label.id] = label.colour
        return colours

    def reads_as(self, target: LabelScheme) -> bool:
        """Whether masks of this scheme can be read as `target`: it is the same, or a projection exists."""
        return target.name == self.name or target.name in self.projections

    def projection(self, target: LabelScheme) -> npt.NDArray[np.uint8]:
        """Look-up table uint8 [256] that turns a mask of this scheme into one of `target`; `IGNORE` stays.

        Raises:
            UserError: when this scheme does not project onto `target`.
        """
        table = np.full(256, IGNORE, np.uint8)
        if target.name == self.name:
            table[: len(self)] = np.arange(len(self))
            return table
        if not self.reads_as(target):
            known = ", ".join([self.name, *sorted(self.projections)])
            raise UserError(f"label scheme {self.name}: expected a projection onto one of {known}, got {target.name}.")
        table[: len(self)] = self.projections[target.name]
        return table

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, the inverse of `from_dict`."""
        return {
            "name": self.name,
            "tps_basis": self.tps_basis,
            "classes": [
                {"id": c.id, "name": c.name, "colour": list(c.colour), "roles": list(c.roles)}
                | ({"appearance": c.appearance} if c.appearance else {})  # schemes from before have no such key
                for c in self.classes
            ],
            "projections": {target: list(ids) for target, ids in self.projections.items()},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LabelScheme:
        """Read a scheme from a parsed YAML or JSON mapping.

        Raises:
            UserError: when a key is missing or a value has the wrong form.
        """
        try:
            for number, entry in enumerate(document["classes"]):
                for key in ("id", "name", "colour"):
                    if key not in entry:
                        example = {"id": number, "name": "tumour", "colour": "[200, 30, 30]"}[key]
                        raise UserError(
                            f"label scheme {document.get('name', '')}: class {entry.get('name', number)}: expected "
                            f"{key}, got none. Write for example {key}: {example}."
                        )
            classes = tuple(
                LabelClass(
                    int(c["id"]),
                    str(c["name"]),
                    _colour(c["colour"]),
                    tuple(c.get("roles", ())),
                    str(c.get("appearance", "")),
                )
                for c in document["classes"]
            )
            projections = {str(k): tuple(int(i) for i in v) for k, v in dict(document.get("projections", {})).items()}
            name, basis = str(document["name"]), document.get("tps_basis", "area")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"label scheme: expected name, classes [{{id, name, colour, roles}}] and projections, got {error!r}."
            ) from error
        if basis not in ("area", "cells"):
            raise UserError(f"label scheme {name!r}: tps_basis: expected area or cells, got {basis!r}.")
        return cls(name, classes, projections, basis)


def _colour(values: Any) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


_PDL1 = (
    LabelClass(0, "other", (214, 206, 196)),
    LabelClass(1, "inflammation", (68, 114, 196), ("inflammation",)),
    LabelClass(2, "PD-L1 negative", (86, 170, 92), ("tumour_negative",)),
    LabelClass(3, "PD-L1 positive", (192, 57, 43), ("tumour_positive",)),
    LabelClass(4, "air", (255, 255, 255), ("air",)),
)

_KI67 = (
    LabelClass(0, "other", (214, 206, 196)),
    LabelClass(1, "Ki-67 negative", (86, 170, 92), ("tumour_negative",)),
    LabelClass(2, "Ki-67 positive", (192, 57, 43), ("tumour_positive", "nuclear_marker")),
    LabelClass(3, "air", (255, 255, 255), ("air",)),
)
"""Regions of Ki-67 immunohistochemistry, used in place of PD-L1 where no annotated PD-L1 is available."""

_NUCLEI_TYPES = (
    LabelClass(0, "background", (236, 220, 228)),
    LabelClass(1, "neoplastic", (205, 60, 60), ("nucleus",), "neoplastic"),
    LabelClass(2, "inflammatory", (60, 150, 70), ("nucleus",), "inflammatory"),
    LabelClass(3, "connective", (50, 90, 190), ("nucleus",), "connective"),
    LabelClass(4, "dead", (235, 180, 40), ("nucleus",), "dead"),
    LabelClass(5, "epithelial", (240, 130, 40), ("nucleus",), "epithelial"),
)
"""The five types of nuclei of PanNuke in its order (Gamper et al. 2020)."""

SCHEMES: dict[str, LabelScheme] = {
    scheme.name: scheme
    for scheme in (
        LabelScheme("pdl1", _PDL1, {"tissue": (1, 1, 1, 1, 0)}),
        LabelScheme("pdl1_cells", (*_PDL1, LabelClass(5, "cell", (72, 52, 92))), {"tissue": (1, 1, 1, 1, 0, 1)}),
        LabelScheme("ki67", _KI67, {"tissue": (1, 1, 1, 0)}),
        LabelScheme("ki67_cells", (*_KI67, LabelClass(4, "cell", (72, 52, 92))), {"tissue": (1, 1, 1, 0, 1)}),
        LabelScheme(
            "tissue",
            (LabelClass(0, "air", (255, 255, 255), ("air",)), LabelClass(1, "tissue", (178, 102, 140))),
        ),
        LabelScheme(
            "nuclei",
            (LabelClass(0, "background", (236, 220, 228)), LabelClass(1, "nucleus", (92, 58, 140), ("nucleus",))),
        ),
        LabelScheme(
            "ihc",
            (
                LabelClass(0, "background", (228, 230, 238)),
                LabelClass(1, "negative cell", (74, 110, 180), ("nucleus", "tumour_negative")),
                LabelClass(2, "positive cell", (140, 84, 40), ("nucleus", "tumour_positive")),
            ),
            {"nuclei": (0, 1, 1)},
            tps_basis="cells",
        ),
        LabelScheme("nuclei_types", _NUCLEI_TYPES, {"nuclei": (0, 1, 1, 1, 1, 1)}),
    )
}
"""The schemes that ship with the contract, by name."""


def get_scheme(name: str) -> LabelScheme:
    """The shipped scheme of that name.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    if name not in SCHEMES:
        near = difflib.get_close_matches(name, SCHEMES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"label scheme: expected one of {', '.join(SCHEMES)} or a YAML file, got {name!r}.{hint}")
    return SCHEMES[name]


def common_scheme(schemes: list[LabelScheme]) -> LabelScheme:
    """The richest scheme that all of `schemes` read as: the one with most classes.

    Raises:
        UserError: when there is none.
    """
    candidates = {scheme.name: scheme for scheme in schemes}
    for scheme in schemes:
        candidates |= {target: SCHEMES[target] for target in scheme.projections if target in SCHEMES}
    shared = [c for c in candidates.values() if all(s.reads_as(c) for s in schemes)]
    if not shared:
        names = ", ".join(sorted({scheme.name for scheme in schemes}))
        raise UserError(f"label schemes: expected data sets with a common scheme, got {names}. Use one of them alone.")
    return max(shared, key=lambda scheme: (len(scheme), scheme.name))
