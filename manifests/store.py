"""The Zarr v3 layout of a data set: three arrays in shards, written whole, one sample at a time.

Any Zarr v3 reader opens the store. Writing goes through `ShardWriter`, which streams: a sample is encoded, appended and
forgotten, so memory does not grow with the shard, and a shard file appears under its name only when it is complete.
Inner chunk: one sample. Codecs: zstd, then crc32c (a flipped bit is an error, never a wrong pixel).
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import OrderedDict, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numcodecs.zstd import Zstd

from manifests.errors import FaultError, UserError, shown
from manifests.files import link_on, publish, read_part, read_tail, refuse_links, temporary_beside, write_atomic
from manifests.limits import read_json

STORE = "store.zarr"
LAYOUT_VERSION = 1
MAX_TILE_PX = 2**27
ZSTD_LEVEL = 1

_ABSENT = 2**64 - 1
_CACHED_INDICES = 64
_ZSTD = pa.Codec("zstd", compression_level=ZSTD_LEVEL)
"""Arrow's zstd: stateless, and releases the interpreter's lock."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store: its name, dtype and trailing axes."""

    name: str
    dtype: np.dtype[Any]
    channels: tuple[int, ...] = ()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of its axes."""
        return ("tile", "y", "x", *("channel" for _ in self.channels))


ARRAYS = (
    ArraySpec("image", np.dtype("u1"), (3,)),
    ArraySpec("semantic", np.dtype("u1")),
    ArraySpec("instance", np.dtype("<u4")),
)


@dataclass(frozen=True)
class Layout:
    """Sizes of a store: `n` tiles of `height` x `width` pixels, `shard` tiles to a file and array."""

    n: int
    height: int
    width: int
    shard: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.n // self.shard)

    def rows(self, shard: int) -> range:
        """Indices of the samples in a shard."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.n))

    def sample_shape(self, spec: ArraySpec) -> tuple[int, ...]:
        """Shape of one sample of an array."""
        return (self.height, self.width, *spec.channels)


@dataclass(frozen=True)
class FileRecord:
    """A published file: its path relative to the data set, its size and its sha256."""

    path: str
    size: int
    sha256: str


def shard_path(array: str, shard: int, channels: tuple[int, ...]) -> str:
    """Path of a shard file, relative to the data set's folder."""
    return "/".join([STORE, array, "c", str(shard), "0", "0", *("0" for _ in channels)])


def create_store(root: Path, layout: Layout, attributes: Mapping[str, Any]) -> None:
    """Write the metadata of an empty store, file by file; writing it again gives the same bytes.

    Axes have names, and the metadata of all arrays stand in the group's own file too (consolidated). Stores of earlier
    releases have neither and stay as they are.

    Args:
        root: the data set's folder.
        layout: sizes.
        attributes: JSON-ready, of `DatasetInfo.to_dict`.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.core.buffer import Buffer

    documents: dict[str, Buffer] = {}
    named = not _is_earlier(root)
    group = zarr.create_group(
        zarr.storage.MemoryStore(documents),
        zarr_format=3,
        attributes={"layout_version": LAYOUT_VERSION, "pathology_tiles": dict(attributes)},
    )
    for spec in ARRAYS:
        sample = layout.sample_shape(spec)
        group.create_array(
            spec.name,
            shape=(layout.n, *sample),
            dtype=spec.dtype,
            chunks=(1, *sample),
            shards=(layout.shard, *sample),
            compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
            fill_value=0,
            dimension_names=spec.dimensions if named else None,
        )
    if named:
        with warnings.catch_warnings():  # Zarr v3 does not specify it yet; zarr and xarray read it
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
            zarr.consolidate_metadata(group.store)
    for name, document in sorted(documents.items(), reverse=True):  # the group's own file last
        path = root / STORE / name
        refuse_links(root, f"{STORE}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, document.to_bytes())


def _is_earlier(root: Path) -> bool:
    """Whether there is a store in a data set's folder whose metadata are not consolidated."""
    try:
        return "consolidated_metadata" not in _read_json(root, f"{STORE}/zarr.json")
    except UserError:
        return False


def read_layout(root: Path) -> Layout:
    """Sizes of the store in a data set's folder, checked before anything is decoded.

    Raises:
        UserError: when there is no store, it is a link, or its arrays are not those of this layout.
    """
    found: set[tuple[int, int, int, int]] = set()
    for spec in ARRAYS:
        where = root / STORE / spec.name / "zarr.json"
        document = _read_json(root, f"{STORE}/{spec.name}/zarr.json")
        try:
            (sharding,) = document["codecs"]
            grids = (
                document["shape"],
                document["chunk_grid"]["configuration"]["chunk_shape"],
                sharding["configuration"]["chunk_shape"],
            )
            names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
            kind = document["data_type"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: expected a sharded Zarr v3 array of layout {LAYOUT_VERSION}.") from error
        rank = 3 + len(spec.channels)
        is_grid = all(
            isinstance(grid, list) and len(grid) == rank and all(type(length) is int and length > 0 for length in grid)
            for grid in grids
        )
        if not is_grid or [grid[1:] for grid in grids] != [grids[0][1:]] * 3 or grids[2][0] != 1:
            raise UserError(f"{where}: expected shape [N, H, W{', 3' if spec.channels else ''}] in shards of samples.")
        shape, outer, _ = grids
        if tuple(shape[3:]) != spec.channels or kind != spec.dtype.name or names != ["bytes", "zstd", "crc32c"]:
            raise UserError(
                f"{where}: expected {spec.dtype.name} with codecs bytes, zstd, crc32c, got {kind}, {names}."
            )
        if shape[1] * shape[2] > MAX_TILE_PX:
            raise UserError(f"{where}: expected tiles of at most {MAX_TILE_PX} pixels, got {shape[1]}x{shape[2]}.")
        found.add((*shape[:3], outer[0]))
    if len(found) != 1:
        raise UserError(f"{root / STORE}: expected arrays of one size and shard, got {sorted(found)}.")
    return Layout(*found.pop())


def _read_json(root: Path, name: str) -> dict[str, Any]:
    """The metadata in a file of a store, by its name relative to the data set."""
    path = root / name
    refuse_links(root, name)
    try:
        document = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: expected the metadata of a Zarr array, got {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, got {shown(str(error))}.") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(document).__name__}.")
    return document


class ShardWriter:
    """Streams the samples of one shard to temporary files and publishes them together.

    Use as a context manager; `append` every sample in order, then `publish`. Left without `publish`, it leaves nothing.

    Args:
        root: the data set's folder, with a store in it.
        layout: sizes of the store.
        shard: number of the shard.
        threads: encode in that many threads; 0 encodes in the caller.
    """

    def __init__(self, root: Path, layout: Layout, shard: int, threads: int = 0) -> None:
        refuse_links(root, *(shard_path(spec.name, shard, spec.channels) for spec in ARRAYS))
        self._layout, self._rows = layout, layout.rows(shard)
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._window: deque[Future[list[bytes]]] = deque()
        self._files = [_ShardFile(root, spec, layout, shard) for spec in ARRAYS]
        self._count = 0

    def __enter__(self) -> ShardWriter:
        return self

    def append(
        self, image: npt.NDArray[np.uint8], semantic: npt.NDArray[np.uint8], instance: npt.NDArray[np.int32]
    ) -> None:
        """Add the next sample: uint8 [H, W, 3], uint8 [H, W], int32 [H, W].

        Raises:
            ValueError: for another shape or dtype, or one sample too many.
        """
        if self._count >= len(self._rows):
            raise ValueError(f"shard holds {len(self._rows)} samples, got one more")
        self._count += 1
        arrays: tuple[npt.NDArray[Any], ...] = (image, semantic, instance)
        for file, array in zip(self._files, arrays, strict=True):
            file.check(array)
        if self._pool is None:
            self._write([_encode(array) for array in arrays])
            return
        self._window.append(self._pool.submit(lambda: [_encode(array) for array in arrays]))
        if len(self._window) > 4:
            self._write(self._window.popleft().result())

    def publish(self) -> list[FileRecord]:
        """Finish, fsync and name the files.

        Raises:
            ValueError: when samples are missing.
        """
        if self._count != len(self._rows):
            raise ValueError(f"expected {len(self._rows)} samples in the shard, got {self._count}")
        while self._window:
            self._write(self._window.popleft().result())
        return [file.publish() for file in self._files]

    def _write(self, chunks: list[bytes]) -> None:
        for file, chunk in zip(self._files, chunks, strict=True):
            file.append(chunk)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        for file in self._files:
            file.discard()


class _ShardFile:
    """One array's part of a shard: chunks one after the other, then the index and its crc32c (Zarr sharding codec)."""

    def __init__(self, root: Path, spec: ArraySpec, layout: Layout, shard: int) -> None:
        self._spec, self._shape = spec, layout.sample_shape(spec)
        self._relative = shard_path(spec.name, shard, spec.channels)
        self._path = root / self._relative
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_beside(self._path)
        self._stream: BinaryIO = self._temporary.open("wb")
        self._sha256 = hashlib.sha256()
        self._index = np.full((layout.shard, 2), _ABSENT, "<u8")
        self._count = self._size = 0

    def check(self, array: npt.NDArray[Any]) -> None:
        if array.shape != self._shape or array.dtype.itemsize != self._spec.dtype.itemsize:
            raise ValueError(
                f"{self._spec.name}: expected {self._spec.dtype} {self._shape}, got {array.dtype} {array.shape}"
            )

    def append(self, chunk: bytes) -> None:
        self._index[self._count] = self._size, len(chunk)
        self._count += 1
        self._put(chunk)

    def publish(self) -> FileRecord:
        index = self._index.tobytes()
        self._put(index + _crc32c(index))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        publish(self._temporary, self._path)
        return FileRecord(self._relative, self._size, self._sha256.hexdigest())

    def _put(self, content: bytes) -> None:
        self._stream.write(content)
        self._sha256.update(content)
        self._size += len(content)

    def discard(self) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)


class StoreReader:
    """Random access to the samples of a store; safe to share between threads, and to pickle."""

    def __init__(self, root: Path) -> None:
        self.root, self.layout = root, read_layout(root)
        self._indices: OrderedDict[tuple[str, int], tuple[npt.NDArray[np.uint64], int]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoreReader, (self.root,))

    def read(self, index: int, name: str) -> npt.NDArray[Any]:
        """One sample of one array: image uint8 [H, W, 3], semantic uint8 [H, W] or instance int32 [H, W].

        Raises:
            IndexError: for an index outside the store.
            FaultError: when the sample is missing or damaged (checked by crc32c, and by size before decoding).
        """
        if not 0 <= index < self.layout.n:
            raise IndexError(f"index {index} is outside 0..{self.layout.n - 1}")
        spec = next(spec for spec in ARRAYS if spec.name == name)
        shard, position = divmod(index, self.layout.shard)
        relative = shard_path(spec.name, shard, spec.channels)
        path = self.root / relative
        if (link := link_on(self.root, relative)) is not None:
            raise FaultError(f"{link}: expected a folder or file of a store, got a link. Links are not followed.")
        chunk = self._chunk(spec, shard, position, path)
        sample = np.empty(self.layout.sample_shape(spec), spec.dtype)
        where = f"{path}: sample {index}"
        if len(chunk) < 4 or _crc32c(chunk[:-4]) != chunk[-4:]:
            raise FaultError(
                f"{where}: expected a chunk that matches its crc32c, got a damaged one. Run factory verify."
            )
        size = _zstd_content_size(chunk)
        if size != sample.nbytes:
            raise FaultError(f"{where}: expected {sample.nbytes} bytes when decoded, got a frame that declares {size}.")
        if _zstd_frame_end(chunk) != len(chunk) - 4:
            raise FaultError(f"{where}: expected one zstd frame, got more bytes after it. Run factory verify.")
        try:
            Zstd().decode(chunk[:-4], out=sample.reshape(-1).view(np.uint8))
        except RuntimeError as error:
            raise FaultError(f"{where}: expected a zstd frame, got: {error}.") from error
        if spec.name != "instance":
            return sample
        if sample.size and int(sample.max()) > 2**31 - 1:
            raise FaultError(f"{where}: expected instance ids up to 2^31-1, got {int(sample.max())}.")
        return sample.view(np.int32)

    def _chunk(self, spec: ArraySpec, shard: int, position: int, path: Path) -> bytes:
        try:
            index, size = self._index(spec, shard, path)
            offset, length = (int(number) for number in index[position])
            if offset == _ABSENT:
                raise FaultError(f"{path}: expected sample {position} of the shard, got none. Run factory verify.")
            if offset + length > size:
                raise FaultError(
                    f"{path}: sample {position} of the shard: expected a place in the file, got {length} bytes from "
                    f"{offset}. Run factory verify."
                )
            return read_part(path, offset, length)
        except OSError as error:
            raise FaultError(f"{path}: expected a shard file, got {error.strerror}. Run factory verify.") from error

    def _index(self, spec: ArraySpec, shard: int, path: Path) -> tuple[npt.NDArray[np.uint64], int]:
        """Places of the samples in a shard file, and its size."""
        key = (spec.name, shard)
        index = self._indices.get(key)
        if index is None:
            length = self.layout.shard * 16
            footer, size = read_tail(path, length + 4)
            if len(footer) != length + 4 or _crc32c(footer[:-4]) != footer[-4:]:
                raise FaultError(f"{path}: expected a shard index that matches its crc32c. Run factory verify.")
            index = self._indices[key] = np.frombuffer(footer[:-4], "<u8").reshape(-1, 2), size
            while len(self._indices) > _CACHED_INDICES:
                self._indices.popitem(last=False)
        return index


def _encode(array: npt.NDArray[Any]) -> bytes:
    chunk: bytes = _ZSTD.compress(np.ascontiguousarray(array), asbytes=True)
    return chunk + _crc32c(chunk)


def _crc32c(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(4, "little")


def _zstd_content_size(frame: bytes) -> int | None:
    """Decoded size that a zstd frame declares (RFC 8878, section 3.1.1.1), None where it declares none."""
    if len(frame) < 18 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    position, width = _zstd_size_field(frame[4])
    if not width:
        return None
    size = int.from_bytes(frame[position : position + width], "little")
    return size + 256 if width == 2 else size


def _zstd_size_field(descriptor: int) -> tuple[int, int]:
    """Place and width of the decoded size in a zstd frame with that descriptor byte."""
    single_segment = descriptor >> 5 & 1
    return 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3], (single_segment, 2, 4, 8)[descriptor >> 6]


def _zstd_frame_end(frame: bytes) -> int:
    """Place after the last block, and the checksum if there is one, of a zstd frame (RFC 8878, section 3.1.1.2)."""
    position, is_last = sum(_zstd_size_field(frame[4])), False
    while not is_last and position + 3 <= len(frame):
        block = int.from_bytes(frame[position : position + 3], "little")
        is_last, is_repeated_byte = bool(block & 1), block >> 1 & 3 == 1
        position += 3 + (1 if is_repeated_byte else block >> 3)
    return position + 4 * (frame[4] >> 2 & 1)
