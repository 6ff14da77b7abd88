"""Files that belong together, found by folder name or explicit pattern, never by sorted order."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from factory.core.images.files import RASTERS
from factory.core.images.listing import listed, what_lies_there
from factory.core.images.picture import is_utf8
from factory.core.images.slides import SLIDES
from factory.ingest.unread import find_unread, labels_among
from manifests.errors import UserError

IMAGE, LABELS = "images", "labels"
MASKS = ("instances", "semantic", "classes")
"""Kinds of files that are label maps."""

_FOLDERS: dict[str, tuple[str, ...]] = {
    IMAGE: ("images", "image", "imgs"),
    "instances": ("instances", "instance", "inst"),
    "semantic": ("masks", "semantic", "labels"),
    "classes": ("classes", "class_maps"),
    "roi": ("roi", "rois"),
    "points": ("cells", "points"),
}
"""Kinds of files, and the folder names that are recognised without an option."""

_STEM = "{stem}"
_SUFFIXES: dict[str, tuple[str, ...]] = {IMAGE: (*RASTERS, *SLIDES), "points": (".csv", ".tsv", ".txt")}


class SourceError(Exception):
    """All faults of one image and its partners; each line names its file."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Source:
    """One image and the files that belong to it.

    Attributes:
        stem: the part of the name that they share. files: kind ("images", "instances", ...) -> path.
        uris: the same as POSIX paths relative to the source folder; an image of a stack has ``#`` and its number.
        part: number of the image where its file is a stack.
    """

    stem: str
    files: Mapping[str, Path]
    uris: Mapping[str, str]
    part: int | None = None

    @property
    def image(self) -> Path:
        """The image file."""
        return self.files[IMAGE]

    @property
    def uri(self) -> str:
        """The image's path relative to the source folder, as in the row's `source_uri`."""
        return self.uris[IMAGE]


@dataclass(frozen=True)
class Pairing:
    """Images with their partners.

    Attributes:
        root: the source folder. patterns: kind -> pattern relative to `root`.
        sources: complete ones, sorted by uri. problems: faults, a line each.
        unpaired: files left out because partners are missing, with --ignore-unpaired.
        unread: files that no pattern claims, a line for each kind.
    """

    root: Path
    patterns: Mapping[str, str]
    sources: tuple[Source, ...]
    problems: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = field(default=())
    unread: tuple[str, ...] = ()


def find_patterns(source: Path | None, given: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """The source folder, and a pattern for every kind that was given or has a known folder.

    Args:
        source: a folder, one image or slide, or None when every pattern is given.
        given: kind -> pattern, relative to `source`, or to the working folder where there is none.
    """
    if source is None:
        if IMAGE not in given:
            raise UserError("ingest: expected a folder, an image or --images PATTERN, got none. Say what to read.")
        return _common_root(given)
    if source.is_file():
        if IMAGE in given:
            raise UserError(f"{source}: expected a folder beside --images, got a file. Leave one of them out.")
        return source.parent, {**given, IMAGE: re.sub(r"([*?\[])", r"[\1]", source.name)}
    if not source.is_dir():
        raise UserError(f"{source}: expected a folder of images, or one image or slide, got no such file.")
    patterns = dict(given)
    folders: dict[str, list[str]] = {}  # as they are written, by their names in small letters
    for path in sorted(source.iterdir()):
        if path.is_dir():
            folders.setdefault(path.name.lower(), []).append(path.name)
    for kind, names in _FOLDERS.items():
        present = [folder for name in names for folder in folders.get(name, ())]
        if kind not in patterns and present:
            patterns[kind] = f"{present[0]}/{_STEM}.*" if kind != IMAGE else f"{present[0]}/*"
    patterns.setdefault(IMAGE, "*")
    return source, patterns


def _common_root(given: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    absolute = {kind: os.path.normpath(Path.cwd() / pattern) for kind, pattern in given.items()}
    folders = [os.path.dirname(_literal_start(pattern)) for pattern in absolute.values()]  # noqa: PTH120
    root = Path(os.path.commonpath(folders))
    if not root.is_dir():
        raise UserError(f"--images: expected files below an existing folder, got {root}.")
    return root, {kind: Path(pattern).relative_to(root).as_posix() for kind, pattern in absolute.items()}


def _literal_start(pattern: str) -> str:
    return re.split(r"[*?\[{]", pattern, maxsplit=1)[0]


def pair(
    root: Path,
    patterns: Mapping[str, str],
    *,
    ignore_unpaired: bool = False,
    ignore_unread: bool = False,
    is_folder: bool = True,
    known: Collection[Path] = (),
    by_stem: Mapping[str, Mapping[str, str]] | None = None,
) -> Pairing:
    """Find the images and the partners of each.

    A pattern is a path relative to `root` with ``*``, ``?``, ``[...]``, ``**/`` and ``{stem}``, the part that an image
    and its partners share (in the image pattern it may be left out: then it is the file name without suffix). Files
    without a partner are a fault, or left out with `ignore_unpaired`; so are labels beside the images that no pattern
    claims, or left out with `ignore_unread`. `is_folder` tells whether a whole folder was named; `known` are files that
    other options name; `by_stem`: kind -> stem -> uri of files that were found otherwise, images of stacks among them.
    """
    problems: list[str] = []
    by_stem = by_stem or {}
    found = {kind: _find(root, kind, pattern, problems) for kind, pattern in patterns.items() if kind not in by_stem}
    found |= {kind: dict(uris) for kind, uris in by_stem.items()}
    images = found.pop(IMAGE)
    partners_uris = {uri for partners in found.values() for uri in partners.values()}
    images = {stem: uri for stem, uri in images.items() if uri not in partners_uris}
    unread, faults = _unread(root, images, found, known, is_folder=is_folder)
    problems += [] if ignore_unread else faults
    images = {stem: uri for stem, uri in images.items() if stem not in labels_among(images)}
    if not images and not problems:
        problems.append(f"{root}/{patterns[IMAGE]}: expected images, got {what_lies_there(root)}, or give --images")
    unpaired = [
        f"{path}: expected its {kind} file {patterns.get(kind, '').replace(_STEM, stem)}, got none"
        for stem, path in sorted(images.items())
        for kind in found
        if stem not in found[kind]
    ]
    for partners in found.values():
        unpaired += [
            f"{path}: expected the image it belongs to ({stem}), got none"
            for stem, path in sorted(partners.items())
            if stem not in images
        ]
    if not ignore_unpaired:
        problems += [f"{line}. Add it, or leave such files out with --ignore-unpaired" for line in unpaired]
    complete = [stem for stem in images if all(stem in partners for partners in found.values())]
    sources = []
    for stem in sorted(complete, key=lambda stem: images[stem]):
        uris = {IMAGE: images[stem], **{kind: partners[stem] for kind, partners in found.items()}}
        files, part = {kind: root / uri for kind, uri in uris.items()}, None
        if IMAGE in by_stem:
            path, _, number = images[stem].rpartition("#")
            files[IMAGE], part = root / path, int(number)
        sources.append(Source(stem, files, uris, part))
    if images and not complete and ignore_unpaired:
        problems.append(f"{root}: expected at least one image with all its partners, got none")
    left_out = tuple(unpaired) if ignore_unpaired else ()
    return Pairing(root, patterns, tuple(sources), tuple(problems), left_out, unread)


def _unread(
    root: Path,
    images: Mapping[str, str],
    found: Mapping[str, Mapping[str, str]],
    known: Collection[Path],
    *,
    is_folder: bool,
) -> tuple[tuple[str, ...], list[str]]:
    """Lines on files that no pattern claims, and faults: labels among them that change what the data set says."""
    if not images:
        return (), []
    claimed = {*images.values(), *(uri for partners in found.values() for uri in partners.values())}
    claimed |= {os.path.relpath(path, root).replace(os.sep, "/") for path in known}
    unread = find_unread(root, claimed, images, is_folder=is_folder)
    advice = (
        "Say what they are (--labels, --semantic, --instances, --classes, --points), "
        "or leave them out with --ignore-unread"
    )
    faults = [
        f"{images[stem]}: expected an image, got what is named as the labels of {other}. {advice}"
        for stem, other in sorted(labels_among(images).items())
    ]
    # Pictures named after an image may be anything (overlays, other stains) where labels are read already.
    labels = unread.annotations + (() if found.keys() - {"roi"} else unread.partners)
    if labels:
        faults.append(f"{root}: expected a rule for every label file, got none for {listed(labels)}. {advice}")
    rest = sorted({*unread.annotations, *unread.partners, *unread.pictures})
    return ((f"{len(rest)} files beside the images: {listed(rest)}",) if rest else ()), faults


def _find(root: Path, kind: str, pattern: str, problems: list[str]) -> dict[str, str]:
    """Stem -> path relative to `root` of the files of one kind."""
    if kind != IMAGE and _STEM not in pattern:
        raise UserError(f"--{kind}: expected a pattern with {_STEM}, got {pattern!r}. Write e.g. {kind}/{_STEM}.png.")
    suffixes = _SUFFIXES.get(kind, tuple(RASTERS))
    expression = _expression(pattern)
    found: dict[str, str] = {}
    for path in _walk_literal(root, pattern):
        uri = path.relative_to(root).as_posix()
        if not is_utf8(path):
            problems.append(f"{uri!a}: expected a name in UTF-8, got another encoding. Rename the file")
            continue
        match = expression.fullmatch(uri)
        if match is None or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if path.suffix.lower() not in suffixes:
            if not pattern.endswith("*"):
                problems.append(f"{uri}: expected a file of {', '.join(suffixes)}, got {path.suffix or 'no suffix'}")
            continue
        if path.is_symlink() or any(parent.is_symlink() for parent in path.parents if root in parent.parents):
            problems.append(f"{uri}: expected a file, got a link. Links are not followed: copy the file")
            continue
        stem = match["stem"] if _STEM in pattern else path.stem
        if stem in found:
            problems.append(f"{uri}: expected one {kind} file for {stem}, got {found[stem]} as well. Narrow --{kind}")
            continue
        found[stem] = uri
    return found


def find_files(root: Path, pattern: str) -> list[Path]:
    """Files whose path relative to `root` fits a pattern, sorted."""
    expression = _expression(pattern)
    found = _walk_literal(root, pattern)
    return [path for path in found if path.is_file() and expression.fullmatch(path.relative_to(root).as_posix())]


def _walk_literal(root: Path, pattern: str) -> list[Path]:
    """Files and links below the part of a pattern that is literal, sorted; links to folders are not entered."""
    start = root / os.path.dirname(_literal_start(pattern))  # noqa: PTH120
    files = []
    for folder, names, entries in os.walk(start):
        linked = [name for name in names if (Path(folder) / name).is_symlink()]
        if "**" not in pattern and len(Path(folder).relative_to(root).parts) >= len(Path(pattern).parts) - 1:
            names.clear()  # deeper folders cannot match
        files += [Path(folder) / name for name in (*entries, *linked)]
    return sorted(files)


def _expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression; ``{stem}`` does not cross folders, and is the longest that fits."""
    pieces = re.split(r"(\{stem\}|\*\*/|\*|\?|\[[^\]]+\])", pattern)
    text = ""
    for piece in pieces:
        if piece == _STEM:
            text += "(?P=stem)" if "(?P<stem>" in text else "(?P<stem>[^/]+)"
        elif piece == "**/":
            text += "(?:[^/]+/)*"
        elif piece in ("*", "?"):
            text += "[^/]*" if piece == "*" else "[^/]"
        elif piece.startswith("[") and piece.endswith("]"):
            inner = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
            text += "[" + ("^" + inner[1:] if inner.startswith("!") else inner) + "]"
        else:
            text += re.escape(piece)
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"pattern {pattern!r}: expected a file pattern, got one that is broken ({error}).") from error
