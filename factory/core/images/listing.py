"""Files of a folder, for messages: what lies there where no image was found, and what is not read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from factory.core.images.files import RASTERS
from factory.core.images.slides import SLIDES
from factory.core.wording import plural

PICTURES = (*RASTERS, *SLIDES, ".gif", ".webp", ".heic", ".dcm", ".czi", ".lif", ".nd2", ".vsi", ".j2k", ".jxl")
"""Formats of pictures, those that are read and others that people have."""

DEEPEST = 3
"""Levels of sub-folders that are looked through."""

_SHOWN = 3


def listed(names: Collection[str]) -> str:
    """Names for a message: ``a.xml, b.xml, c.xml and 4 more``."""
    shown = sorted(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def what_lies_there(root: Path) -> str:
    """Content of a folder in which no image was found, and advice, for a message."""
    files = list(files_below(root, DEEPEST))
    if not files:
        return "an empty folder. Check the path"
    deeper = [uri for uri in files if "/" in uri and Path(uri).suffix.lower() in (*RASTERS, *SLIDES)]
    if deeper:
        folders = sorted({uri.rpartition("/")[0] for uri in deeper})
        return f"{plural(len(deeper), 'image')} in sub-folders ({listed(folders)}). Name the folder that holds them"
    kinds = Counter(Path(uri).suffix.lower() or "no suffix" for uri in files)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
    return f"{found} ({listed(files)}). Read are {', '.join((*RASTERS, *SLIDES))}: export them as one of these"


def files_below(root: Path, deepest: int, companions: Collection[str] = ()) -> Iterator[str]:
    """Files below a folder, sorted; without hidden ones, links and those in folders of `companions`."""
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
