"""Types of the fields of cards, the JSON in weights files: checked once, when a file is opened.

A field may be missing, as older releases wrote fewer; whoever asks for it then names the file (`Fields`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.errors import UserError, shown
from manifests.labels import LabelScheme

_Number = Annotated[float, Field(ge=-1e9, le=1e9)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Size = Annotated[list[Annotated[int, Field(ge=1, le=2**16)]], Field(min_length=2, max_length=2)]
_Mpp = Annotated[float, Field(gt=0, le=1e6)]
_Setting = Annotated[int, Field(ge=0, le=2**16)] | _Number | bool | str | None
_Settings = dict[str, _Setting | Annotated[list[_Setting], Field(max_length=64)]]
_Looks = list[list[Annotated[list[_Number], Field(min_length=3, max_length=3)]]]


class _HeldOut(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    mean_dice: _Number
    images: _Count


class _TrainedOn(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    sha256: str


class _Card(BaseModel):
    """Fields that parts of the product read; others are for people."""

    model_config = ConfigDict(strict=True, extra="allow")

    kind: str
    name: str = ""
    licences: list[str] = []
    scheme: dict[str, Any] = {}
    network: _Settings = {}
    step: _Count = 0
    threads: _Count = 1
    fingerprint: str | None = None
    config_sha256: str | None = None
    history: list[dict[str, Any]] = []
    losses: dict[str, Any] = {}
    param_groups: dict[str, list[dict[str, Any]]] = {}


class _GeneratorCard(_Card):
    """Of networks that draw, of labellers and of banks of tissue."""

    generator: str | None = None
    generator_sha256: str = ""
    mpp: _Mpp = 1.0
    sources: list[str] = []
    classes: list[str] = []
    trained_size: _Size = [1, 1]
    condition: dict[str, Any] = {}
    drawing: dict[str, Any] = {}
    config: dict[str, Any] = {}
    looks: _Looks = []
    channels: list[Annotated[int, Field(ge=1, le=2**16)]] = []
    taps: list[str] = []
    held_out: _HeldOut | None = None
    nuclei: dict[str, _Count] = {}
    nuclei_found: list[_Count] = []
    licence_of_slide: dict[str, str | None] = {}
    colours_of: list[str] = []
    arrays: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]] = {}


class _SegmentCard(_Card):
    """Of segmentation networks."""

    mpp: list[_Mpp] = []
    mix: str | None = None
    groups: list[str] = []
    sources: dict[str, list[str]] = {}
    trained_on: dict[str, _TrainedOn] = {}
    head: dict[str, Any] = {}
    instances: dict[str, Any] = {}


class Fields(dict[str, Any]):
    """The fields of a card; a missing one is an error of the file."""

    def __init__(self, fields: dict[str, Any], path: Path) -> None:
        super().__init__(fields)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise UserError(f"{self._path}: card: expected {name}, got none. Train the weights again.")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Fields, (dict(self), self._path))


def check_card(fields: dict[str, Any], path: Path) -> Fields:
    """Check the types of a card's fields. Raises a UserError that names the file and the first field at fault."""
    kind = fields.get("kind")
    model = _SegmentCard if isinstance(kind, str) and kind.startswith("segment") else _GeneratorCard
    try:
        model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"][:3]))
        reason = first["msg"].replace("Input should be", "expected")
        raise UserError(f"{path}: card: {place}: {shown(reason)}, got {shown(repr(first['input']))}.") from error
    try:
        if "scheme" in fields:
            LabelScheme.from_dict(fields["scheme"])
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{path}: card: {error}") from error
    return Fields(fields, path)
