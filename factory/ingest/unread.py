"""Files that no rule reads: labels are named, because a data set without them would be a weak one without a word."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.core.images.files import RASTERS
from factory.core.images.slides import SLIDES
from factory.core.wording import plural

_ANNOTATIONS = (".xml", ".geojson", ".json", ".mat", ".npz", ".roi", ".zip", ".gz", ".ndpa", ".qpdata")
"""Formats that hold annotations where they lie among images."""

_TABLES = (".csv", ".tsv", ".txt")
_PICTURES = (*RASTERS, *SLIDES, ".gif", ".webp", ".heic", ".dcm", ".czi", ".lif", ".nd2", ".vsi", ".j2k", ".jxl")
_LABEL_ENDING = re.compile(
    r"(.+?)[ ._-]+(anno|annotations?|masks?|cp_masks|labels?|segmentation|seg|gt|inst|instances?|class|classes)",
    re.IGNORECASE,
)
_DEEPEST = 3
_SHOWN = 3


@dataclass(frozen=True)
class Unread:
    """Files below a source folder that no pattern claims, as paths relative to it.

    Attributes:
        annotations: in formats of annotation tools. partners: pictures and tables named after an image.
        pictures: all other pictures.
    """

    annotations: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


def find_unread(root: Path, claimed: Collection[str], stems: Collection[str], *, is_folder: bool) -> Unread:
    """Look through a folder and those in it, three levels deep; hidden files and links are passed over.

    Args:
        root: the source folder. claimed: files that are read, relative to it. stems: those of the images.
        is_folder: whether all of it is meant; else only files in it that are named after the image.
    """
    annotations, partners, pictures = [], [], []
    companions = {name[: -len(".mrxs")] for name in claimed if name.lower().endswith(".mrxs")}
    for uri in _files(root, companions, _DEEPEST if is_folder else 0):
        suffix = Path(uri).suffix.lower()
        if uri in claimed or not (is_folder or _belongs(uri, stems)):
            continue
        if suffix in _ANNOTATIONS:
            annotations.append(uri)
        elif suffix in (*RASTERS, *_TABLES) and _belongs(uri, stems):
            partners.append(uri)
        elif suffix in _PICTURES:
            pictures.append(uri)
    return Unread(tuple(annotations), tuple(partners), tuple(pictures))


def labels_among(images: Mapping[str, str]) -> dict[str, str]:
    """Images that are named as labels of another one, ``x_mask`` beside ``x``: stem -> the other's path."""
    found = {}
    for stem in images:
        ending = _LABEL_ENDING.fullmatch(stem)
        if ending is not None and ending[1] in images:
            found[stem] = images[ending[1]]
    return found


def listed(uris: Collection[str]) -> str:
    """Names for a message: ``a.xml, b.xml, c.xml and 4 more``."""
    shown = sorted(uris)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(uris) - _SHOWN} more" if len(uris) > _SHOWN else "")


def what_lies_there(root: Path) -> str:
    """Content of a folder in which no image was found, and advice, for a message."""
    files = list(_files(root, (), _DEEPEST))
    if not files:
        return "an empty folder. Check the path"
    deeper = [uri for uri in files if "/" in uri and Path(uri).suffix.lower() in (*RASTERS, *SLIDES)]
    if deeper:
        folders = sorted({uri.rpartition("/")[0] for uri in deeper})
        return (
            f"{plural(len(deeper), 'image')} in sub-folders ({listed(folders)}). "
            f"Name one, or give --images '{folders[0] if len(folders) == 1 else '**'}/*'"
        )
    kinds = Counter(Path(uri).suffix.lower() or "no suffix" for uri in files)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
    return f"{found} ({listed(files)}). Read are {', '.join((*RASTERS, *SLIDES))}: export them as one of these"


def _belongs(uri: str, stems: Collection[str]) -> bool:
    """Whether a file is named after an image: by its stem, or that with an ending."""
    stem = Path(uri).stem
    return stem in stems or any(stem[: match.start()] in stems for match in re.finditer(r"[ ._-]", stem))


def _files(root: Path, companions: Collection[str], deepest: int) -> Iterator[str]:
    """Files below a folder, relative to it, sorted by folder."""
    for folder, names, entries in os.walk(root):
        here = Path(folder).relative_to(root)
        names[:] = sorted(
            name for name in names if not name.startswith(".") and (here / name).as_posix() not in companions
        )
        if len(here.parts) >= deepest:
            names.clear()
        for name in sorted(entries):
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield (here / name).as_posix()
