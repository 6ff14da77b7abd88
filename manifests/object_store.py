"""Data sets in an object store: paths that are read by requests, and refuse everything else by name.

An `ObjectPath` answers what readers ask of a path. All else that a `Path` can do ends in `__fspath__`, which refuses
it. It holds no connection, so that it can be pickled; obstore finds the credentials where it looks, in the environment
first, and they are neither kept nor printed here.
"""

from __future__ import annotations

import errno
import functools
import io
import mmap
import os
import re
import stat
import tempfile
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PosixPath
from typing import IO, Any

import pyarrow as pa

from manifests.errors import UserError

SCHEMES = ("s3", "gs", "az")
"""Schemes of URLs that are read: AWS and what speaks its protocol, Google Cloud, Azure."""

THREADS = 16
"""Threads that read at the same time: a request waits more than it computes."""

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>//?)(?P<place>.*)", re.DOTALL)
_CLIENT = {"connect_timeout": "5s", "read_timeout": "20s", "timeout": "1h", "allow_http": True}
"""Limits of a request; without encryption only where the endpoint is named as ``http://``."""

_RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|/latest/|metadata\.google|metadata/identity|MissingToken")
_CHUNK_BYTES = 1 << 20
_KEPT_COPIES = 8

_copies: OrderedDict[str, tuple[str, pa.Buffer]] = OrderedDict()


def located(root: str | Path) -> Path:
    """The path of a data set: a folder, or for a URL of `SCHEMES` a place in an object store.

    Raises:
        UserError: for a URL of another scheme, without a bucket, or with a password in it.
    """
    match = _URL.fullmatch(str(root))
    if isinstance(root, ObjectPath):
        return root
    if match is None:
        return Path(root)
    scheme, place = match["scheme"], match["place"]
    if scheme not in SCHEMES:
        if match["slashes"] == "/":
            return Path(root)  # a folder whose name ends with a colon
        raise UserError(f"{root}: expected a folder, or a URL s3://, gs:// or az://, got {scheme}://.")
    bucket = place.partition("/")[0]
    if "@" in bucket or "?" in place:  # not shown
        raise UserError(f"{scheme}://...: expected a bucket and a path, got '@' or '?'. Name no credentials.")
    if not bucket:
        raise UserError(f"{root}: expected {scheme}://bucket/path, got no bucket.")
    return ObjectPath(f"{scheme}:", place)


class ObjectPath(PosixPath):
    """A place in an object store, ``s3://bucket/path``, for reading."""

    def __str__(self) -> str:
        first, *rest = self.parts or ("",)
        return f"{first}//{'/'.join(rest)}" if first.removesuffix(":") in SCHEMES else super().__str__()

    def __fspath__(self) -> str:
        raise UserError(
            f"{self}: expected a path on this machine, got one in an object store, which is only read. "
            "Copy the data set here with the store's own tool."
        )

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and date of an object, or the mode of a folder. Raises a FileNotFoundError where there is neither."""
        try:
            if not self._key:
                raise FileNotFoundError
            with self._asked() as (obstore, store):
                found = obstore.head(store, self._key)
        except FileNotFoundError:
            if self.is_dir():
                return os.stat_result((stat.S_IFDIR | 0o555, *(0,) * 9))
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None
        time = int(found["last_modified"].timestamp())
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, found["size"], time, time, time))

    def lstat(self) -> os.stat_result:
        """As `stat`: there are no links."""
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object, or a folder with any."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object."""
        try:
            return stat.S_ISREG(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether any object lies below."""
        return next(self._listing(), None) is not None

    def is_symlink(self) -> bool:
        """False: there are no links."""
        return False

    def resolve(self, strict: bool = False) -> ObjectPath:
        """The path itself: it is absolute."""
        return self

    def absolute(self) -> ObjectPath:
        """The path itself."""
        return self

    def files_below(self) -> Iterator[ObjectPath]:
        """Every object below, sorted by path."""
        keys = (found["path"].removeprefix(f"{self._key}/") for found in self._listing())
        yield from (self / key for key in sorted(keys, key=lambda key: key.split("/")))

    def iterdir(self, *_: Any, **__: Any) -> Generator[Any, None, None]:
        """Refused as all else; Python 3.13 would look on this machine, here and in the next two."""
        os.fspath(self)
        yield

    rglob = walk = iterdir

    def glob(self, pattern: str, **_: Any) -> Iterator[ObjectPath]:  # type: ignore[override]
        """Objects of this folder whose names match."""
        return (path for path in self.files_below() if path.parent == self and path.match(pattern))

    def open(self, mode: str = "r", *_: Any, **__: Any) -> IO[Any]:  # type: ignore[override]
        """The content as a stream that is read once, by one request."""
        if mode != "rb":
            os.fspath(self)
        with self._asked() as (obstore, store):
            return io.BufferedReader(_Body(self, obstore.get(store, self._key)), _CHUNK_BYTES)

    def tail(self, length: int) -> tuple[bytes, int]:
        """The last bytes, at most `length`, and the size of the object: one request, on Azure two."""
        with self._asked() as (obstore, store):
            try:
                found = obstore.get(store, self._key, options={"range": {"suffix": length}})
            except obstore.exceptions.NotSupportedError:
                size = obstore.head(store, self._key)["size"]
                found = obstore.get(store, self._key, options={"range": (max(size - length, 0), size)})
            return bytes(found.bytes()), int(found.meta["size"])

    def part(self, offset: int, length: int) -> bytes:
        """A range of bytes, shorter where the object ends before: one request."""
        with self._asked() as (obstore, store):
            return bytes(obstore.get_range(store, self._key, start=offset, length=length))

    def copied(self) -> pa.Buffer:
        """The content on the disk of this machine, without a name, fetched again where it has changed."""
        tag, known = _copies.get(str(self), (None, None))
        with self._asked() as (obstore, store):
            try:
                found = obstore.get(store, self._key, options={"if_none_match": tag} if tag else {})
            except obstore.exceptions.NotModifiedError:
                return known
            with tempfile.TemporaryFile() as file:
                for chunk in found.stream(_CHUNK_BYTES):
                    file.write(chunk)
                file.flush()
                size = file.tell()
                content = pa.py_buffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
            if found.meta["e_tag"]:
                _copies[str(self)] = (found.meta["e_tag"], content)
            while len(_copies) > _KEPT_COPIES:
                _copies.popitem(last=False)
            return content

    @property
    def _key(self) -> str:
        return "/".join(self.parts[2:])

    def _listing(self) -> Iterator[dict[str, Any]]:
        with self._asked() as (obstore, store):
            for page in obstore.list(store, f"{self._key}/" if self._key else None):
                yield from page

    @contextmanager
    def _asked(self) -> Iterator[tuple[Any, Any]]:
        """The library and the bucket; its errors become one line that names the path."""
        library, store = _opened("//".join(self.parts[:2]))
        try:
            yield library, store
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None
        except library.exceptions.BaseError as error:
            raise UserError(f"{self}: expected an object store that answers, got {_reason(error)}.") from None


class _Body(io.RawIOBase):
    """The body of an answer as a stream."""

    def __init__(self, path: ObjectPath, found: Any) -> None:
        self._path, self._chunks, self._left = path, iter(found.stream(_CHUNK_BYTES)), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._path._asked():
            while not self._left:
                if (chunk := next(self._chunks, None)) is None:
                    return 0
                self._left = memoryview(bytes(chunk))
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def _opened(bucket: str) -> tuple[Any, Any]:
    """The library and the store of ``s3://bucket``, opened once in a process."""
    library, store, process = _connected(bucket)
    if process != os.getpid():
        raise UserError(
            f"{bucket}: expected workers that are spawned, got a forked one, in which connections hang. "
            "Pass multiprocessing_context='spawn' to the loader."
        )
    return library, store


@functools.cache
def _connected(bucket: str) -> tuple[Any, Any, int]:
    try:
        import obstore
        from obstore.store import from_url
    except ImportError as error:
        raise UserError(
            f"{bucket}: expected the library obstore, which reads object stores, got none. "
            "Install it: pip install 'pathology-tile-factory[cloud]'"
        ) from error
    try:
        return obstore, from_url(bucket, client_options=_CLIENT, retry_config=_RETRIES), os.getpid()
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise UserError(f"{bucket}: expected a bucket that can be opened, got {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """An error of the library in a few words, without the queries of URLs and the headers of requests."""
    text = str(error).partition("\n\nDebug source")[0]
    if code := re.search(r"<Code>(\w+)</Code>", text):
        return code[1]
    if _NO_CREDENTIALS.search(text):
        return "no credentials. Set those of the store in the environment, as AWS_ACCESS_KEY_ID"
    line = re.sub(r"\?\S*", "", text.strip().partition("\n")[0])
    return line[:200].rstrip(".: ") or type(error).__name__
