"""Collects a bank from the train split of data sets: `factory train exemplar`. No gradient, no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK, KIND, Nuclei, write_bank
from factory.bank.ground import describe_blocks, fill_nuclei, unlabelled_nuclei
from factory.bank.shapes import measure_shapes
from factory.bank.stain_separation import estimate_stains, separate, stain_of
from factory.bank.tissue_nuclei import find_tissue_nuclei
from factory.core.resolutions import SAME_MPP
from factory.core.seeds import Stream, generator
from factory.geometry.nuclear_maps import renumbered
from factory.renderers.stain.dyes import optical_density
from manifests.dataset import Dataset, Sample, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import IGNORE, LabelScheme, common_scheme
from manifests.schema import DISCLAIMER
from manifests.table import MANIFEST

DEFAULT_MB = 200.0
"""Size of a bank unless another is asked for."""
WHITE = np.full(3, 255.0)
"""Light that optical densities of a bank are measured against."""
SMALLEST_PX = 96
"""Smallest side of a page: a patch of the ground and room to move it."""
_MIN_AREA_UM2 = 8.0
_MIN_SOLIDITY = 0.85
_MARGIN_UM = 1.5
"""Distance of a nucleus from the border of its page, so that what surrounds it is known too."""
_BYTES_PER_PIXEL = 3 + 3 + 1 + 2

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """A tile that may become a page.

    Attributes:
        dataset: it belongs to. position: of its row there. slide: ``data set/group``. licence: of the image.
    """

    dataset: Dataset
    position: int
    slide: str
    licence: str | None


@dataclass(frozen=True)
class Collection:
    """What a bank will be made of, checked; nothing is written yet.

    Attributes:
        scheme, mpp: of the labels. chosen: pages, by slide. offered: tiles of the train split.
        size_bytes: about what the file will take.
    """

    scheme: LabelScheme
    mpp: float
    chosen: tuple[Source, ...]
    offered: int
    size_bytes: int

    @property
    def slides(self) -> tuple[str, ...]:
        """Names of the slides, in the order of the bank."""
        return tuple(dict.fromkeys(source.slide for source in self.chosen))


def choose_pages(paths: Sequence[Path], scheme: LabelScheme | None, max_mb: float, seed: int) -> Collection:
    """Choose the tiles of a bank from the train splits of data sets.

    Where all do not fit, every slide gives equally many, and of a slide those are taken that differ most in the shares
    of their classes and in the number of their cells (farthest-point sampling, Gonzalez 1985).

    Args:
        paths: data sets. scheme: to read labels as; None takes the richest common one. max_mb: size of the bank's file.
        seed: of the first choice in each slide.

    Raises:
        UserError: for no annotated tile in a train split, several resolutions, or images that are too small.
    """
    datasets = [open_dataset(path) for path in paths]
    scheme = scheme or common_scheme([each for dataset in datasets for each in dataset.schemes])
    offered = [source for dataset in datasets for source in _training_tiles(dataset)]
    if not offered:
        names = ", ".join(str(path) for path in paths)
        raise UserError(f"--data {names}: expected annotated tiles of split train, got none. Ingest some with --split.")
    rows = [source.dataset.row(source.position) for source in offered]
    mpp = float(rows[0]["mpp"])
    for source, row in zip(offered, rows, strict=True):
        if abs(row["mpp"] - mpp) > SAME_MPP * mpp:
            raise UserError(f"--data: expected one resolution, got {mpp:g} and {row['mpp']:g} um per pixel. Resample.")
        if min(row["height"], row["width"]) < SMALLEST_PX:
            raise UserError(
                f"{source.dataset.root}: {row['sample_id']}: expected tiles of at least {SMALLEST_PX}x{SMALLEST_PX}, "
                f"got {row['height']}x{row['width']}. Ingest larger ones."
            )
    for source in offered:
        if source.licence is None:
            raise UserError(
                f"{source.dataset.root}: expected a licence for every tile, got none for {source.slide}: real pixels "
                "go into a bank and into its tiles. Ingest with --licence, or --licence unknown."
            )
    size = sum(row["height"] * row["width"] for row in rows) / len(rows) * (_BYTES_PER_PIXEL + len(scheme) / BLOCK**2)
    most = int(max_mb * 1e6 / size)
    if most < 1:
        raise UserError(
            f"--max-mb: expected at least {size / 1e6:.2g}, the size of one tile, got {max_mb:g}. Raise it."
        )
    chosen = _most_varied(offered, rows, most, seed) if most < len(offered) else list(range(len(offered)))
    pages = tuple(sorted((offered[i] for i in chosen), key=lambda source: source.slide))
    return Collection(scheme, mpp, pages, len(offered), round(len(chosen) * size))


def _training_tiles(dataset: Dataset) -> list[Source]:
    """Tiles of the train split with labels; a data set without splits is for training as a whole."""
    name, info = dataset.root.resolve().name, dataset.info
    if info.is_synthetic:  # tiles of a bank too: each is of several slides, which would be lost
        raise UserError(
            f"--data {dataset.root}: expected real tiles, got synthetic ones. Name what `factory ingest` wrote."
        )
    found = []
    for position, row in enumerate(dataset.table.to_pylist()):
        if row["split"] in (None, "train"):
            licence = row["licence"] or (info.licences[0] if len(info.licences) == 1 else None)
            found.append(Source(dataset, position, f"{name}/{row['group_id'] or row['sample_id']}", licence))
    return found


def _most_varied(offered: Sequence[Source], rows: Sequence[dict[str, Any]], most: int, seed: int) -> list[int]:
    """Numbers of the tiles that differ most, in turn from every slide."""
    features = np.array(
        [[*(row["class_fractions"] or [0.0]), 0.01 * np.sqrt(row["cells"] or 0)] for row in rows], np.float64
    )
    rng = generator(seed, Stream.FIT)
    queues = []
    for slide in dict.fromkeys(source.slide for source in offered):
        numbers = np.array([i for i, source in enumerate(offered) if source.slide == slide])
        order = [int(rng.integers(len(numbers)))]
        nearest = np.full(len(numbers), np.inf)
        while len(order) < min(len(numbers), most):
            nearest = np.minimum(nearest, np.linalg.norm(features[numbers] - features[numbers[order[-1]]], axis=1))
            nearest[order] = -1
            order.append(int(nearest.argmax()))
        queues.append([int(numbers[i]) for i in order])
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return turns[:most]


def collect(collection: Collection, out: Path, *, on_page: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Write the bank of a collection; returns its card.

    Args:
        collection: as `choose_pages` returns it. out: the file. on_page: called with the number of finished pages.

    Raises:
        UserError: when no tile of a scheme with nuclei shows a whole one.
    """
    slides = collection.slides
    parts = []
    for done, source in enumerate(collection.chosen):
        sample = source.dataset[source.position]
        parts.append(_page(sample, collection.scheme, collection.mpp, generator(done, Stream.FIT, 1)))
        on_page(done + 1)
    places = [slides.index(source.slide) for source in collection.chosen]
    found = [page for page, part in enumerate(parts) if part.pop("found")]
    arrays = _joined(parts, places)
    if collection.scheme.ids("nucleus") and not len(arrays["nuclei.page"]):
        raise UserError("--data: expected whole nuclei in the train split, got none. Annotate some.")
    if not arrays["nucleus"].any():  # nothing was filled: the ground is the image
        arrays["ground"] = arrays["image"][:0]
    arrays["colour"] = _colours(arrays, places, len(slides))
    labels, counts = np.unique(arrays["nuclei.label"], return_counts=True)
    card = {
        "kind": KIND,
        "generator": "exemplar",
        "scheme": collection.scheme.to_dict(),
        "mpp": collection.mpp,
        "sources": list(slides),
        "licences": sorted({str(source.licence) for source in collection.chosen}),
        "licence_of_slide": {source.slide: source.licence for source in collection.chosen},
        "tiles": len(collection.chosen),
        "tiles_offered": collection.offered,
        "nuclei": {collection.scheme.names[label]: int(n) for label, n in zip(labels, counts, strict=True)},
        "classes": [
            name for name, share in zip(collection.scheme.names, arrays["shares"].max(0), strict=True) if share
        ],
        "nuclei_found": found,  # pages whose nuclei nobody labelled
        "real_pixels": True,
        "use": f"{DISCLAIMER}; holds pixels of real patients under the licences above",
    }
    sha256 = write_bank(out, arrays, card)
    return {**card, "sha256": sha256}


def collect_once(root: Path, max_mb: float = DEFAULT_MB) -> Path:
    """Collect the bank of a data set, or find the one that was collected from the same manifest.

    Returns:
        Its file, ``runs/banks/DIGEST.safetensors``.
    """
    digest = sha256_file(root / MANIFEST)[:16]
    path = Path("runs/banks") / f"{root.resolve().name}-{digest}.safetensors"
    if not path.exists():
        collection = choose_pages([root], None, max_mb, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        collect(collection, path)
    return path


def _page(sample: Sample, scheme: LabelScheme, mpp: float, rng: np.random.Generator) -> Arrays:
    """The arrays of one page, cut to whole blocks."""
    height, width = (side // BLOCK * BLOCK for side in sample.image.shape[:2])
    image = np.ascontiguousarray(sample.image[:height, :width])
    tile = sample.tile
    semantic = tile.scheme.projection(scheme)[tile.semantic[:height, :width]]
    ids = renumbered(tile.instance[:height, :width])
    found = not ids.any()
    if found:
        ids = nuclei_by_stain(image, mpp)
    ignored = semantic == IGNORE
    others = unlabelled_nuclei(image, ids > 0, mpp) & ~ignored
    ground, filled = fill_nuclei(image, ids, others, mpp, rng)
    blocks = describe_blocks(ground, (ids > 0) | others, filled | ignored, mpp)
    shares = np.stack(
        [
            cv2.resize(
                (semantic == label).astype(np.uint8) * np.uint8(255),
                (width // BLOCK, height // BLOCK),
                interpolation=cv2.INTER_AREA,
            )
            for label in range(len(scheme))
        ],
        axis=-1,
    )
    return {
        "size": np.array([height, width], np.int64),
        "found": np.array(found and bool(ids.any())),
        "image": image.reshape(-1, 3),
        "ground": ground.reshape(-1, 3),
        "semantic": semantic.ravel(),
        "nucleus": np.minimum(ids, np.iinfo(np.uint16).max).astype(np.uint16).ravel(),
        "blocks": blocks.reshape(-1, blocks.shape[-1]),
        "shares": shares.reshape(-1, len(scheme)),
        **{f"nuclei.{name}": values for name, values in _nuclei(image, ids, semantic, mpp).items()},
    }


def nuclei_by_stain(image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.int32]:
    """Find the nuclei of an immunostain without instances: int32 [H, W], 1..N; none in H&E.

    Nuclei of H&E are better found by `segment predict --weights starter`.
    """
    if not (optical_density(image, WHITE).sum(2) > 0.3).any() or stain_of([image]) == "he":
        return np.zeros(image.shape[:2], np.int32)
    separated = separate(image, estimate_stains([image]))
    return find_tissue_nuclei(np.maximum(separated[0], 0) + np.maximum(separated[1], 0), mpp)


def _nuclei(image: npt.NDArray[np.uint8], ids: npt.NDArray[np.int32], semantic: Any, mpp: float) -> Arrays:
    """The rows of `Nuclei` on a page: whole ones in one piece, convex enough to be set into another outline."""
    shapes = measure_shapes(ids)
    margin = _MARGIN_UM / mpp
    height, width = ids.shape
    box = shapes.box
    inner = (box[:, 0] >= margin) & (box[:, 1] >= margin) & (box[:, 2] <= height - margin)
    inner &= (box[:, 3] <= width - margin) & (shapes.area * mpp * mpp >= _MIN_AREA_UM2)
    density = optical_density(image, WHITE)
    label, mean = np.zeros(len(box), np.uint8), np.zeros((len(box), 3), np.float32)
    kept = []
    for k in np.flatnonzero(inner):
        y0, x0, y1, x1 = box[k]
        mask = ids[y0:y1, x0:x1] == k + 1
        points = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        hull = cv2.convexHull(np.concatenate(points))
        convex = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1  # of pixels, not of their centres
        label[k] = np.bincount(semantic[y0:y1, x0:x1][mask]).argmax()
        mean[k] = density[y0:y1, x0:x1][mask].mean(0)
        if len(points) == 1 and shapes.area[k] >= _MIN_SOLIDITY * convex and label[k] != IGNORE:
            kept.append(k)
    chosen = np.array(kept, np.intp)
    return {
        "number": (chosen + 1).astype(np.uint16),
        "label": label[chosen],
        "centre": shapes.centre[chosen],
        "area": shapes.area[chosen],
        "axes": shapes.axes[chosen],
        "angle": shapes.angle[chosen],
        "radii": shapes.radii[chosen],
        "density": mean[chosen],
    }


def _joined(parts: Sequence[Arrays], places: Sequence[int]) -> Arrays:
    """Pages end to end, with the table of where each begins."""
    sizes = np.stack([part["size"] for part in parts])
    pixels, blocks = sizes.prod(1), (sizes // BLOCK).prod(1)
    starts = np.concatenate([[0], np.cumsum(pixels)[:-1]]), np.concatenate([[0], np.cumsum(blocks)[:-1]])
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "size"}
    joined["pages"] = np.stack([starts[0], sizes[:, 0], sizes[:, 1], places, starts[1]], axis=1).astype(np.int64)
    joined["nuclei.page"] = np.repeat(np.arange(len(parts)), [len(part["nuclei.label"]) for part in parts]).astype(
        np.int32
    )
    assert {name.removeprefix("nuclei.") for name in joined if "." in name} == set(Nuclei.__dataclass_fields__)
    return joined


def _colours(arrays: Arrays, places: Sequence[int], slides: int) -> npt.NDArray[np.float32]:
    """Mean and standard deviation of the optical density of ground and nuclei of each slide."""
    colour = np.zeros((slides, 2, 2, 3), np.float32)
    for slide in range(slides):
        own = [arrays["pages"][page] for page, place in enumerate(places) if place == slide]
        ground = np.concatenate(
            [
                (arrays["ground"] if len(arrays["ground"]) else arrays["image"])[p[0] : p[0] + p[1] * p[2]][
                    :: 1 + len(own)
                ]
                for p in own
            ]
        )
        density = optical_density(ground, WHITE)
        tissue = density.sum(1) > 0.15
        colour[slide, 0] = density[tissue].mean(0), density[tissue].std(0)
        chosen = np.isin(arrays["nuclei.page"], [page for page, place in enumerate(places) if place == slide])
        if chosen.any():
            nuclei = arrays["nuclei.density"][chosen]
            colour[slide, 1] = nuclei.mean(0), nuclei.std(0)
    return colour
