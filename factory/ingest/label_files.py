"""Label files of other programs among the images: found by looking or as asked, then read and drawn."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core.images.files import RASTERS, UnreadableError, reading
from factory.core.images.slides import SlideHeader
from factory.core.label_files import FORMATS
from factory.core.label_files.base import FaultsError, Found, LabelFormat, Outlines, resolve_format
from factory.core.label_files.drawing import ClassTable, Drawn, class_problems, draw
from factory.core.label_files.shapes import moved
from factory.core.label_files.windows import Windows
from factory.ingest.config import IngestConfig
from factory.ingest.pairing import IMAGE, LABELS, MASKS, Source, find_files
from manifests.errors import UserError

_DEEPEST = 4
_LOCK = threading.Lock()


@dataclass(frozen=True)
class LabelFiles:
    """Label files of one format.

    Attributes:
        format: its name. pattern: as the user gave it, None where they were found by looking.
        files: paths of all that is read. stems: stem of an image -> its label file.
        images: stem -> uri of the images, where they are in stacks too; else empty. problems: a line each.
    """

    format: str
    pattern: str | None
    files: tuple[Path, ...]
    stems: Mapping[str, Path]
    images: Mapping[str, str]
    problems: tuple[str, ...] = ()

    def by_stem(self, root: Path) -> dict[str, Mapping[str, str]]:
        """Kind of file -> stem -> uri: of the label files, and of the images where these are stacks."""
        found: dict[str, Mapping[str, str]] = {
            LABELS: {stem: path.relative_to(root).as_posix() for stem, path in self.stems.items()}
        }
        return found | ({IMAGE: self.images} if self.images else {})


def find_label_files(
    root: Path, asked: str | None, patterns: Mapping[str, str], given: Mapping[str, str], only: str | None = None
) -> LabelFiles | None:
    """Label files below a folder; None where masks are given or found, or nothing is there.

    Args:
        root: the source folder. asked: FORMAT or FORMAT:PATTERN, None to look. patterns, given: kind -> pattern of all
            files, and of those that the user named. only: stem of the only image that is wanted.
    """
    name, _, pattern = (asked or "").partition(":")
    if any(kind in given for kind in MASKS):
        if asked is not None:
            raise UserError("--labels: expected no --instances, --semantic or --classes with it. Leave one out.")
        return None
    if asked is None:
        if any(_holds_masks(root, patterns[kind]) for kind in MASKS if kind in patterns):
            return None
        files_of = _look(root, only)
        if len(files_of) > 1:
            found = ", ".join(f"{name} ({len(files)}, e.g. {files[0].name})" for name, files in files_of.items())
            raise UserError(
                f"{root}: expected label files of one format, got {found}. "
                f"Say which, e.g. --labels {next(iter(files_of))}."
            )
        name, files = next(iter(files_of.items()), ("", []))
    else:
        kind = resolve_format(name)
        files = find_files(root, pattern) if pattern else [path for path in _walk(root) if _ends(path, kind)]
        if not files:
            ends = ", ".join(kind.suffixes)
            raise UserError(
                f"--labels: expected {name} files ({ends}) in {root}, got none. Say where: --labels {name}:PATTERN."
            )
    return _listed(root, name, pattern or None, files, only) if files else None


def _look(root: Path, only: str | None) -> dict[str, list[Path]]:
    """Files by the first format that recognises them; `only`: those of one image."""
    found: dict[str, list[Path]] = {}
    for path in _walk(root):
        name = _format_of(path)
        if name is not None and (only is None or only in resolve_format(name).stems(path)):
            found.setdefault(name, []).append(path)
    return found


def _format_of(path: Path) -> str | None:
    """The first format that recognises a file, None where none does."""
    for name in FORMATS:
        kind = resolve_format(name)
        if _ends(path, kind) and _recognised(path, kind):
            return name
    return None


def _holds_masks(root: Path, pattern: str) -> bool:
    """Whether a pattern finds a raster image that is of no format here."""
    return any(path.suffix.lower() in RASTERS and _format_of(path) is None for path in find_files(root, pattern))


def _walk(root: Path) -> list[Path]:
    """Files down to four levels below a folder, sorted; hidden ones and links are left out."""
    files = []
    for folder, names, entries in os.walk(root):
        here = len(Path(folder).relative_to(root).parts)
        names[:] = [name for name in names if not name.startswith(".") and here < _DEEPEST]
        files += [Path(folder) / name for name in entries if not name.startswith(".")]
    return sorted(path for path in files if path.is_file() and not path.is_symlink())


def _ends(path: Path, kind: type[LabelFormat]) -> bool:
    return path.name.lower().endswith(kind.suffixes)


def _recognised(path: Path, kind: type[LabelFormat]) -> bool:
    try:
        with reading("label file"):
            return kind.recognises(path)
    except UnreadableError:
        return False


def _listed(root: Path, name: str, pattern: str | None, files: Sequence[Path], only: str | None) -> LabelFiles:
    """The images that label files belong to, and faults."""
    kind = resolve_format(name)
    stems: dict[str, Path] = {}
    images: dict[str, str] = {}
    problems = []
    for path in files:
        uri = path.relative_to(root).as_posix()
        try:
            with reading("label file"):
                named, stack = kind.stems(path), kind.stack(path)
        except UnreadableError as error:
            problems.append(f"{uri}: {error}")
            continue
        for number, stem in enumerate(named):
            if only is not None and stem != only:
                continue
            if stem in stems:
                problems.append(
                    f"{uri}: expected one label file for {stem}, got {stems[stem].relative_to(root)} as well. "
                    f"Narrow it with --labels {name}:PATTERN"
                )
            stems[stem] = path
            if stack is not None:
                images[stem] = f"{os.path.relpath(stack, root).replace(os.sep, '/')}#{number}"
    read = [other for path in files for other in (path, *kind.beside(path))]
    return LabelFiles(name, pattern, tuple(read), stems, images, tuple(problems))


def draw_labels(source: Source, config: IngestConfig, size: tuple[int, int]) -> tuple[Drawn | None, list[str]]:
    """The labels of a flat image of `size`, or None and the faults, each with the file's name."""
    uri = source.uris[LABELS]
    try:
        found, table, fill = _read(source, config, size)
        drawn = draw(found, table, size, fill)
    except FaultsError as error:
        return None, [f"{uri}: {problem}" for problem in error.problems]
    except UnreadableError as error:
        return None, [f"{uri}: {error}"]
    return Drawn(drawn.semantic, drawn.instance, tuple(f"{uri}: {doubt}" for doubt in drawn.doubts)), []


def slide_labels(source: Source, config: IngestConfig, header: SlideHeader, scale: float) -> Windows:
    """The labels of a slide, for windows with `scale` pixels of level 0 per pixel.

    GeoJSON counts from the corner that QuPath has, `SlideHeader.origin`; other formats from that of the whole slide.

    Raises:
        UnreadableError: for faults of the file.
    """
    with _LOCK:  # the tasks of one slide share them
        return _slide_labels(source.files[LABELS], source.stem, config.model_dump_json(), header, scale)


@functools.lru_cache(maxsize=2)
def _slide_labels(path: Path, stem: str, config: str, header: SlideHeader, scale: float) -> Windows:
    settings = IngestConfig.model_validate_json(config)
    found, table, fill = _read(Source(stem, {LABELS: path}, {LABELS: path.name}), settings, header.sizes[0])
    if not isinstance(found, Outlines):
        raise UnreadableError("expected outlines for a slide, got a map of pixels. Cut the labelled regions out")
    labels = [table.find(shape.label) or 0 for shape in found.shapes]
    is_geojson = settings.labels is not None and settings.labels.format == "geojson"
    shapes = [moved(shape, header.origin) for shape in found.shapes] if is_geojson else found.shapes
    doubts = [f"{path.name}: {note}" for note in found.notes]
    return Windows(shapes, labels, table.scheme, fill, scale, doubts)


def _read(source: Source, config: IngestConfig, size: tuple[int, int]) -> tuple[Found, ClassTable, int]:
    settings = config.labels
    assert settings is not None  # a source has label files only with them
    scheme = config.label_scheme
    table = ClassTable(scheme, settings.classes)
    kind = resolve_format(settings.format)
    with reading("label file"):
        found = kind.read(source.files[LABELS], source.stem, size, nuclei=bool(scheme.ids("nucleus")))
    problems = class_problems(found, table)
    if problems:
        raise FaultsError(problems)
    return found, table, settings.fill
