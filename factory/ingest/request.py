"""Options of `factory ingest` -> the configuration that they make, and the files."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.config import digest, option_names, parse, parse_size, read_yaml
from factory.core.images.slides import content_files
from factory.core.label_files.base import resolve_format
from factory.ingest import grouping
from factory.ingest.config import AIR_THRESHOLDS, MAX_BACKGROUND, IngestConfig, without_cells
from factory.ingest.label_files import LabelFiles, find_label_files
from factory.ingest.options import Request as Request
from factory.ingest.pairing import LABELS, MASKS, Pairing, find_patterns, pair
from factory.ingest.region_labels import MAX_SMOOTH_UM, SMOOTH_UM
from factory.plan.rows import load_scheme
from manifests.errors import UserError, shown
from manifests.files import sha256_file
from manifests.labels import IGNORE, SCHEMES, LabelScheme
from manifests.limits import CONFIG_VALUES, parse_json
from manifests.store import MAX_TILE_PX

DEFAULT_SPLIT = "0.8,0.1,0.1"


@dataclass(frozen=True)
class Job:
    """A request, resolved.

    Attributes:
        config: all values that can change a byte. groups: uri -> group id.
        splits: group id -> split from a file; None where splits are to be drawn.
        problems: faults found so far, a line each.
    """

    config: IngestConfig
    pairing: Pairing
    groups: Mapping[str, str]
    splits: Mapping[str, str] | None
    problems: tuple[str, ...]


def resolve(request: Request) -> Job:
    """Check the options and find the files; faults of files are collected in `Job.problems`."""
    root, patterns = find_patterns(request.source, request.patterns)
    if request.split is not None and request.splits is not None:
        raise UserError("--split and --splits: expected one of them, got both. Leave one out.")
    if request.group_pattern is not None and request.groups is not None:
        raise UserError("--group-pattern and --groups: expected one of them, got both. Leave one out.")
    if request.group_pattern is not None:
        grouping.check_pattern(request.group_pattern)
    labels = _find_labels(request, root, patterns)
    if labels is not None:
        patterns = {kind: pattern for kind, pattern in patterns.items() if kind not in MASKS}
    config = _config(request, root.resolve().name, patterns, labels)
    group_table = grouping.read_table(request.groups, "--groups", ("name",), "group") if request.groups else None
    split_table = grouping.read_splits(request.splits) if request.splits else None
    read = () if labels is None else (*labels.files, *(root / uri.partition("#")[0] for uri in labels.images.values()))
    named = (Path(name) for name in (request.class_map, request.scheme) if name)
    given = (*read, request.groups, request.splits, *named)
    is_chosen = bool(request.patterns.keys() - {"images", "roi"}) or ":" in (request.labels or "")
    pairing = pair(
        root,
        patterns,
        ignore_unpaired=request.ignore_unpaired,
        ignore_unread=request.ignore_unread or is_chosen,
        is_folder=request.source is None or request.source.is_dir(),
        known=[path for path in given if path is not None],
        by_stem=labels.by_stem(root) if labels is not None else None,
    )
    groups, problems = grouping.assign_groups(pairing.sources, request.group_pattern, group_table)
    splits = None
    if split_table is not None:
        splits, found = grouping.splits_from_table(pairing.sources, groups, split_table)
        problems += found
    config = config.model_copy(update={"files_sha256": _files_digest(pairing)})
    problems += labels.problems if labels is not None else ()
    return Job(config, pairing, groups, splits, (*pairing.problems, *problems))


def _find_labels(request: Request, root: Path, patterns: Mapping[str, str]) -> LabelFiles | None:
    """Label files of another program: of a folder, beside one image, or by a pattern where no folder is named."""
    if request.source is None and ":" not in (request.labels or ""):
        return None
    only = request.source.stem if request.source is not None and request.source.is_file() else None
    return find_label_files(root, request.labels, patterns, request.patterns, only)


def _config(request: Request, name: str, patterns: Mapping[str, str], labels: LabelFiles | None) -> IngestConfig:
    """The configuration, as yet without the digest of the files."""
    kinds = frozenset(patterns) | ({LABELS} if labels is not None else set())
    smooth_um = _smooth_um(request, kinds)
    default = resolve_format(labels.format).scheme if request.scheme is None and labels is not None else request.scheme
    scheme = _loaded(default if smooth_um is None else request.scheme or "ki67", request, kinds)
    regions = scheme if request.cells_by_colour is None else without_cells(scheme)
    if smooth_um is None:
        _check_scheme(regions, kinds)
    else:
        _check_region_scheme(regions)
    is_weak = not kinds & {"semantic", "instances", LABELS}
    most = (MAX_BACKGROUND if is_weak else 1.0) if request.max_background is None else request.max_background
    is_weak |= request.cells_by_colour is not None
    if not 0 <= most <= 1:
        raise UserError(f"--max-background: expected a share from 0 to 1, got {most}.")
    values = {
        **_origin(request),
        "name": name,
        "patterns": patterns,
        "files_sha256": "",
        "scheme": scheme.to_dict(),
        "label_origin": "weak" if is_weak else "conditioned" if request.synthetic else "annotated",
        "labels": _label_settings(request, labels, scheme),
        "class_map": parse_class_map(request.class_map, scheme) if labels is None else None,
        "point_columns": _point_columns(request.point_columns),
        "point_classes": _pairs(request.point_classes, "--point-classes"),
        "drop_outside_points": request.drop_outside_points,
        **_geometry(request),
        "air": parse_stain(request.stain, request.air_threshold),
        "smooth_um": smooth_um,
        "cells_by_colour": request.cells_by_colour,
        "max_background": most,
        "group_pattern": request.group_pattern,
        "groups_sha256": sha256_file(request.groups) if request.groups and request.groups.is_file() else None,
        "split": grouping.parse_shares(request.split or DEFAULT_SPLIT) if request.splits is None else None,
        "splits_sha256": sha256_file(request.splits) if request.splits and request.splits.is_file() else None,
        "seed": request.seed,
        "ignore_unpaired": request.ignore_unpaired,
        "licence": request.licence,
    }
    return parse(IngestConfig, values, "ingest", option_names(values))


def _origin(request: Request) -> dict[str, Any]:
    """Generator of synthetic images, and what it learnt from; nothing for real images."""
    named = {"--generator": request.generator, "--trained-on": request.trained_on}
    for option, value in named.items():
        if value and not request.synthetic:
            raise UserError(f"{option}: expected --synthetic with it, got none. Add it, or leave {option} out.")
        if not value and request.synthetic:
            advice = "say unknown if nobody knows" if option == "--trained-on" else "name the program"
            raise UserError(f"--synthetic: expected {option} with it, got none: {advice}.")
    return {"generator": request.generator, "trained_on": request.trained_on or []}


def _loaded(name: str | None, request: Request, kinds: frozenset[str]) -> LabelScheme:
    """The requested scheme, or the one that the kinds of files imply; with cells by colour the one with that class."""
    if "classes" in kinds and "instances" not in kinds:
        raise UserError("--classes: expected --instances with it, got none. A class map alone is --semantic.")
    if {"classes", "semantic"} <= kinds:
        raise UserError("--classes and --semantic: expected one of them, got both. Leave one out.")
    if name is None:
        if "semantic" in kinds:
            raise UserError("--scheme: expected the scheme of the semantic masks, got none. Say e.g. --scheme pdl1.")
        name = "ihc" if "classes" in kinds else "nuclei" if "instances" in kinds else "tissue"
    if request.cells_by_colour is None:
        return load_scheme(name)
    if "instances" in kinds:
        raise UserError("--cells-by-colour: expected images without instances, which are the cells. Leave it out.")
    scheme = load_scheme(f"{name}_cells" if f"{name}_cells" in SCHEMES else name)
    if scheme.names[-1] != "cell" or len(scheme.ids("air")) != 1 or scheme.ids("nucleus"):
        raise UserError(
            "--cells-by-colour: expected a scheme of regions with one class of air, whose last class is cell, got "
            f"{scheme.name} ({', '.join(scheme.names)}). Use --scheme ki67, pdl1, or your own as "
            "configs/schemes/tissue_cells.yaml, which is for images without labels."
        )
    return scheme


def _check_scheme(scheme: LabelScheme, kinds: frozenset[str]) -> None:
    """Refuse a scheme that the kinds of files do not fit."""
    if not kinds & {"semantic", "classes", LABELS}:
        if "instances" in kinds and (len(scheme.ids("nucleus")) != 1 or scheme.ids("nucleus") == (0,)):
            raise UserError(
                f"--scheme: expected a scheme with one kind of nucleus for instances alone, got {scheme.name}. "
                "Use nuclei, or give the classes with --classes or --semantic."
            )
        if "instances" not in kinds and (len(scheme) != 2 or len(scheme.ids("air")) != 1):
            raise UserError(
                f"--scheme: expected tissue for images without labels, got {scheme.name}. "
                "Leave --scheme out, or give masks with --semantic or --instances."
            )


def _smooth_um(request: Request, kinds: frozenset[str]) -> float | None:
    """Width of region labels, None without --regions; checked against the kinds of files."""
    if not request.regions:
        if request.smooth_um is not None:
            raise UserError("--smooth-um: expected --regions with it, got none.")
        return None
    masks, missing = sorted(kinds & {*MASKS, LABELS}), sorted({"points", "roi"} - kinds)
    if masks or missing:
        got = f"{masks[0]}, which say more" if masks else f"no {missing[0]}"
        raise UserError(f"--regions: expected images with points and ROI alone, got {got}. Leave --regions out.")
    smooth_um = SMOOTH_UM if request.smooth_um is None else request.smooth_um
    if not 0 < smooth_um <= MAX_SMOOTH_UM:
        raise UserError(f"--smooth-um: expected micrometres above 0, up to {MAX_SMOOTH_UM:g}, got {smooth_um:g}.")
    return smooth_um


def _check_region_scheme(scheme: LabelScheme) -> None:
    """Refuse a scheme that has not one class each for air, positive and negative tumour, and the rest."""
    counts = [len(scheme.ids(role)) for role in ("air", "tumour_positive", "tumour_negative")]
    others = [label.name for label in scheme.classes if not label.roles]
    if counts != [1, 1, 1] or len(others) != 1 or scheme.ids("nucleus"):
        raise UserError(
            f"--scheme: expected one class each for air, positive and negative tumour and everything else with "
            f"--regions, got {scheme.name} ({', '.join(scheme.names)}). Use ki67 or pdl1."
        )


def _label_settings(request: Request, labels: LabelFiles | None, scheme: LabelScheme) -> dict[str, Any] | None:
    """Settings of label files; None without them."""
    if labels is None:
        if request.fill is not None:
            raise UserError("--fill: expected label files with it (see --labels), got none. Leave it out.")
        return None
    ids = {**{name: number for number, name in enumerate(scheme.names)}, "ignore": IGNORE}
    if request.fill is not None and request.fill not in ids:
        raise UserError(f"--fill: expected a class of {scheme.name} ({', '.join(ids)}), got {request.fill!r}.")
    fill = (0 if scheme.ids("nucleus") else IGNORE) if request.fill is None else ids[request.fill]
    classes = parse_class_names(request.class_map, scheme)
    return {"format": labels.format, "pattern": labels.pattern, "classes": classes, "fill": fill}


def parse_class_names(text: str | None, scheme: LabelScheme) -> dict[str, int]:
    """``Tumour=positive cell,*=other``, JSON, or a JSON or YAML file -> name in label files -> class id or 255."""
    document = {} if text is None else _class_document(text, "=" if "=" in text else ":")
    return {str(name): _class_id(name, entry, scheme) for name, entry in document.items()}


def parse_class_map(text: str | None, scheme: LabelScheme) -> dict[int, int] | None:
    """``0:0,1:2``, JSON, or a JSON or YAML file -> value in the file -> class id or 255; class names do as ids."""
    if text is None:
        return None
    mapped: dict[int, int] = {}
    for key, entry in _class_document(text, ":").items():
        target = _class_id(key, entry, scheme)
        try:
            mapped[int(key)] = target
        except (TypeError, ValueError) as error:
            raise UserError(f"--class-map: expected a number before the class, got {key!r}.") from error
    if not mapped:
        raise UserError("--class-map: expected at least one VALUE:CLASS, got none.")
    return mapped


def _class_document(text: str, between: str) -> Mapping[Any, Any]:
    """A class map as typed, as JSON, or from a file."""
    document: Any
    if Path(text).suffix.lower() in (".yaml", ".yml", ".json"):
        document = read_yaml(Path(text))
    elif text.lstrip().startswith("{"):
        try:
            document = parse_json(text.encode(errors="surrogateescape"), CONFIG_VALUES)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--class-map: expected JSON, got {shown(text)} ({error}).") from error
    else:
        document = _pairs(text, "--class-map", between)
    if not isinstance(document, Mapping):
        raise UserError(f"--class-map: expected VALUE{between}CLASS, got {str(document)[:60]}.")
    return document


def _class_id(key: Any, entry: Any, scheme: LabelScheme) -> int:
    """The id of a class that a class map names, or 255."""
    names = {**{name: number for number, name in enumerate(scheme.names)}, "ignore": IGNORE}
    try:
        target = names[entry] if entry in names else int(entry)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--class-map: expected VALUE:CLASS, got {key}:{entry}. Classes of {scheme.name}: "
            f"{', '.join(scheme.names)} or their ids, and ignore."
        ) from error
    if target != IGNORE and not 0 <= target < len(scheme):
        raise UserError(
            f"--class-map: expected a class 0-{len(scheme) - 1} of scheme {scheme.name} or {IGNORE}, got {target}."
        )
    return target


def _pairs(text: str | None, option: str, between: str = ":") -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in (text or "").split(",") if text else ():
        key, separator, value = word.rpartition(between) if between == "=" else word.partition(between)
        if not separator or not key.strip() or not value.strip():
            raise UserError(f"{option}: expected FROM{between}TO,FROM{between}TO, got {word!r} in it.")
        if key.strip() in pairs:
            raise UserError(f"{option}: expected {key.strip()} once, got it twice.")
        pairs[key.strip()] = value.strip()
    return pairs


def _point_columns(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if len(names) != 3 or not all(names):
        raise UserError(f"--point-columns: expected the names of x, y and class, got {text!r}. Write e.g. x,y,class.")
    return names


def parse_stain(text: str, threshold: int | None) -> list[tuple[str, int]]:
    """``he``, ``ihc`` or ``PATTERN=he,PATTERN=ihc`` -> (file name pattern, grey level) in order."""
    if threshold is not None:
        if not 0 <= threshold < 255:
            raise UserError(f"--air-threshold: expected a grey level 0-254, got {threshold}.")
        return [("*", threshold)]
    air = []
    for word in text.split(","):
        pattern, separator, stain = word.strip().rpartition("=")
        if stain not in AIR_THRESHOLDS or (separator and not pattern):
            raise UserError(f"--stain: expected he, ihc, or PATTERN=he,PATTERN=ihc, got {word!r}.")
        air.append((pattern or "*", AIR_THRESHOLDS[stain]))
    return air


def _geometry(request: Request) -> dict[str, Any]:
    size = parse_size(request.size) if request.size is not None else None
    if size is not None and size[0] * size[1] > MAX_TILE_PX:
        raise UserError(f"--size: expected at most {MAX_TILE_PX:,} pixels, got {size[0]}x{size[1]}.")
    if request.overlap and size is None:
        raise UserError("--overlap: expected --size HxW with it, got none.")
    if size is not None and not 0 <= request.overlap < min(size):
        raise UserError(f"--overlap: expected 0 to {min(size) - 1} pixels, got {request.overlap}.")
    for option, value in (("--mpp", request.mpp), ("--resample-mpp", request.resample_mpp)):
        if value is not None and not 0 < value < 1000:
            raise UserError(f"{option}: expected micrometres per pixel above 0, got {value}.")
    return {"size": size, "overlap_px": request.overlap, "mpp": request.mpp, "resample_mpp": request.resample_mpp}


def _files_digest(pairing: Pairing) -> str:
    """Digest over relative path and content of every file that is read."""
    sha256 = functools.cache(sha256_file)  # a file of many images is hashed once
    return digest(
        [
            [kind, source.uris[kind], [sha256(file) for file in content_files(path)]]
            for source in pairing.sources
            for kind, path in sorted(source.files.items())
        ]
    )
