"""Features of generated images on disk: what a generator computes on its way, each layer at its own resolution.

A *tap* is the output of one layer, [C, h, w], of an image [H, W] whose sides h and w divide by powers of two. The
published way upsamples every tap to H x W and stores that: 16.6 GB for an image of 4096 x 4096 with 496 channels in
float16. Here taps are stored as they are (1.04 GB), and what upsampling would give is interpolated where it is asked
for: `Features.gather`.

An image is two files: ``NAME.f16``, its taps one after the other, float16 [h, w, C], which is how a pixel's channels
lie side by side; and ``NAME.json``, its description, written last. Without the second file the first does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.joint.upsampling import Places, places_between
from manifests.errors import FaultError, UserError
from manifests.files import publish, temporary_beside, write_atomic
from manifests.limits import read_json

Shape = tuple[int, int, int]
"""Channels, height and width of a tap."""

Taps = Sequence[npt.NDArray[Any]]
"""Taps of one image, float16 or float32 [C, h, w] each, in a fixed order."""

DTYPE = np.dtype("<f2")

_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ROWS_BYTES = 1 << 24

_NUMBERS = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""The value of every float16 bit pattern as float32, as numba has no float16."""


@dataclass(frozen=True)
class Record:
    """Description of the stored features of an image.

    Attributes:
        name: of the image, letters, digits, _ and -. size: its height and width. shapes: of its taps, in order.
        latent_sha256: of the latent that the image is made of. weights_sha256: of the generator.
        sha256: of the bytes of ``NAME.f16``. dtype, layout, version: of that file, the same for all.
    """

    name: str
    size: tuple[int, int]
    shapes: tuple[Shape, ...]
    latent_sha256: str
    weights_sha256: str
    sha256: str
    dtype: str = DTYPE.str
    layout: str = "HWC, tap after tap"
    version: int = _VERSION

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each tap."""
        return tuple(shape[0] for shape in self.shapes)

    @property
    def size_bytes(self) -> int:
        """Bytes of all taps."""
        return need_bytes(self.shapes)


def need_bytes(shapes: Sequence[Shape], images: int = 1) -> int:
    """Bytes that the features of a number of images take."""
    return images * DTYPE.itemsize * sum(prod(shape) for shape in shapes)


def check_shapes(shapes: Sequence[Shape], size: tuple[int, int]) -> None:
    """Refuse shapes that cannot be layers of a generator of such an image."""
    if not shapes:
        raise ValueError("taps: expected at least one, got none")
    for number, shape in enumerate(shapes):
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"tap {number}: expected an array [C, h, w], got shape {tuple(shape)}")
        for side, whole in zip(shape[1:], size, strict=True):
            stride = whole // side
            if whole % side or stride & (stride - 1):
                raise ValueError(
                    f"tap {number}: expected sides that divide {size[0]}x{size[1]} by powers of two, "
                    f"got {shape[1]}x{shape[2]}"
                )


class FeatureStore:
    """A folder with the features of images of one generator.

    Args:
        folder: where; made when something is written.
        weights_sha256: of the generator's weights; features of other weights are refused.
    """

    def __init__(self, folder: Path, weights_sha256: str) -> None:
        self.folder, self.weights_sha256 = folder, weights_sha256

    def missing(self, names: Sequence[str]) -> list[str]:
        """The names that have no stored features yet."""
        absent = [name for name in names if not self._record_path(name).exists()]
        for name in set(names).difference(absent):
            self.read(name)
        return absent

    def check_space(self, shapes: Sequence[Shape], images: int) -> None:
        """Refuse a disk that is too small for the features of more images; called before the first is written."""
        folder = self.folder.absolute()
        while not folder.exists():
            folder = folder.parent
        need, free = need_bytes(shapes, images), shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"{self.folder}: expected {need / 1e9:.2f} GB free for the features of {images} images, "
                f"got {free / 1e9:.2f} GB. Free some, choose another folder, or keep fewer blocks or images."
            )

    def write(self, name: str, taps: Taps, size: tuple[int, int], latent_sha256: str) -> Record:
        """Write the features of one image, whole or not at all; earlier ones of this name are removed first.

        Args:
            name: of the image. taps: float16 or float32 [C, h, w] each. size: height and width of the image.
            latent_sha256: of what it is made of.

        Raises:
            ValueError: for taps that are no layers of such an image. UserError: for a name with other letters.
            FaultError: for values that are no numbers or too large for float16; nothing is left of the image then.
        """
        shapes = tuple((int(c), int(h), int(w)) for c, h, w in (tap.shape for tap in taps))
        check_shapes(shapes, size)
        record_path, path = self._record_path(name), self._data_path(name)
        self.check_space(shapes, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        record_path.unlink(missing_ok=True)  # from here on the name has no features, until the end
        temporary = temporary_beside(path)
        try:
            sha256 = _write_taps(temporary, taps, name)
            publish(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        record = Record(name, size, shapes, latent_sha256, self.weights_sha256, sha256)
        write_atomic(record_path, json.dumps(asdict(record), indent=2).encode() + b"\n")
        return record

    def read(self, name: str, latent_sha256: str | None = None) -> Features:
        """Open the features of an image; their bytes are read when they are used.

        Args:
            name: of the image. latent_sha256: what it must be made of; None takes any.

        Raises:
            UserError: for features that are missing, cut short, or of another generator or latent.
        """
        path = self._data_path(name)
        record = _read_record(self._record_path(name))
        if record.name != name:
            raise UserError(f"{self._record_path(name)}: expected the features of {name}, got those of {record.name}.")
        for what, expected, got in (
            ("generator", self.weights_sha256, record.weights_sha256),
            ("latent", latent_sha256 or record.latent_sha256, record.latent_sha256),
        ):
            if expected != got:
                raise UserError(
                    f"{path}: expected features of the {what} {expected[:12]}, got those of {got[:12]}. "
                    "Write them anew, or use another folder."
                )
        found = path.stat().st_size if path.exists() else 0
        if found != record.size_bytes:
            raise UserError(
                f"{path}: expected {record.size_bytes:,} bytes, got {found:,}: the file is cut short or another. "
                f"Delete {name}.json and write the features anew."
            )
        return Features(path, record)

    def _data_path(self, name: str) -> Path:
        return self.folder / f"{_checked(name)}.f16"

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{_checked(name)}.json"


class Features:
    """Taps of one image on disk, mapped into memory; made by `FeatureStore.read`.

    Attributes:
        path: of the bytes. record: what they are. maps: float16 [h, w, C] of each tap. Changes to them stay in
            memory; they are mapped so because torch takes no array that is read-only.
    """

    def __init__(self, path: Path, record: Record) -> None:
        self.path, self.record = path, record
        self.maps: list[npt.NDArray[np.float16]] = []
        offset = 0
        for channels, height, width in record.shapes:
            shape = (height, width, channels)
            self.maps.append(np.memmap(path, DTYPE, "c", offset, shape).view(np.ndarray))
            offset += need_bytes([shape])

    @property
    def taps(self) -> list[npt.NDArray[np.float16]]:
        """The taps as views [C, h, w], the layout of a generator."""
        return [values.transpose(2, 0, 1) for values in self.maps]

    def verify(self) -> None:
        """Compare all bytes with their digest."""
        with self.path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != self.record.sha256:
            raise UserError(
                f"{self.path}: expected sha256 {self.record.sha256[:12]}, got {found[:12]}: the file is damaged. "
                f"Delete {self.record.name}.json and write the features anew."
            )

    def gather(self, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Features of some pixels, as in taps that are upsampled to the image's size and concatenated.

        Args:
            pixels: int64 [P, 2], rows and columns in the image.

        Returns:
            float32 [P, sum of C], taps in order, interpolated bilinearly like torch's ``F.interpolate`` without
            ``align_corners``.
        """
        size = self.record.size
        if pixels.size and (pixels.min() < 0 or (pixels.max(0) >= np.array(size)).any()):
            raise ValueError(f"pixels: expected places in {size[0]}x{size[1]}, got others")
        out = np.empty((len(pixels), sum(self.record.channels)), np.float32)
        places: dict[tuple[int, int], tuple[Places, Places]] = {}
        start = 0
        for values in self.maps:
            height, width, channels = values.shape
            if (height, width) not in places:  # two layers of a block have the same
                rows, columns = np.ascontiguousarray(pixels[:, 0]), np.ascontiguousarray(pixels[:, 1])
                places[height, width] = (places_between(rows, size[0], height), places_between(columns, size[1], width))
            (above, below, down), (left, right, along) = places[height, width]
            _gather(values.view(np.uint16), above, below, down, left, right, along, _NUMBERS, start, out)
            start += channels
        return out


@compiled(fastmath=True)
def _gather(
    values: npt.NDArray[np.uint16],
    above: npt.NDArray[np.int64],
    below: npt.NDArray[np.int64],
    down: npt.NDArray[np.float32],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    along: npt.NDArray[np.float32],
    numbers: npt.NDArray[np.float32],
    start: int,
    out: npt.NDArray[np.float32],
) -> None:
    """Write bilinear means of a tap, the bits of float16 [h, w, C], into the columns of `out` from `start` on."""
    one = np.float32(1.0)
    for pixel in range(above.size):
        t, s = down[pixel], along[pixel]
        first, second = values[above[pixel], left[pixel]], values[above[pixel], right[pixel]]
        third, fourth = values[below[pixel], left[pixel]], values[below[pixel], right[pixel]]
        a, b, c, d = (one - t) * (one - s), (one - t) * s, t * (one - s), t * s
        row = out[pixel]
        for channel in range(values.shape[2]):
            row[start + channel] = (
                a * numbers[first[channel]]
                + b * numbers[second[channel]]
                + c * numbers[third[channel]]
                + d * numbers[fourth[channel]]
            )


def _write_taps(path: Path, taps: Taps, name: str) -> str:
    """Write taps as float16 [h, w, C], some rows at a time, and sync them; returns the sha256 of the bytes."""
    sha256 = hashlib.sha256()
    with path.open("wb") as stream:
        for number, tap in enumerate(taps):
            channels, height, width = tap.shape
            step = max(_ROWS_BYTES // (channels * width * DTYPE.itemsize), 1)
            for row in range(0, height, step):
                with np.errstate(over="ignore"):  # found below
                    rows = np.ascontiguousarray(tap[:, row : row + step].transpose(1, 2, 0), DTYPE)
                if not np.isfinite(rows).all():
                    raise FaultError(
                        f"features of {name}: expected numbers that float16 holds, got others in tap {number}. "
                        "The generator's weights or its latent are broken."
                    )
                content = rows.data.cast("B")
                sha256.update(content)
                stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return sha256.hexdigest()


def _read_record(path: Path) -> Record:
    try:
        document = read_json(path)
        height, width = map(int, document["size"])
        shapes = tuple((int(c), int(h), int(w)) for c, h, w in document["shapes"])
        record = Record(**{**document, "size": (height, width), "shapes": shapes})
        check_shapes(shapes, record.size)
        if not all(isinstance(text, str) for text in (record.latent_sha256, record.weights_sha256, record.sha256)):
            raise TypeError("digests")
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected the record of an image's features, got no such file.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: expected the record of an image's features, got {type(error).__name__}.") from error
    form = (record.version, record.dtype, record.layout)
    known = (_VERSION, DTYPE.str, Record.layout)
    if form != known:
        raise UserError(f"{path}: expected features of the form {known}, got {form}. Write them anew.")
    return record


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(f"features: expected a name of letters, digits, _ and -, got {name!r}.")
    return name
