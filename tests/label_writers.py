"""Writers of the label files that `factory.core.label_files` reads: what is read is known pixel by pixel."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from factory.core.label_files.stacks import CONIC, PANNUKE
from factory.core.outlines import polygons

SIZE = (24, 32)
NAMES = ("negative cell", "positive cell")


@dataclass(frozen=True)
class Objects:
    """Labels of an image: int32 [H, W] with ids 1..N without gaps, and the class of each."""

    instance: np.ndarray
    names: tuple[str, ...]

    def pieces(self, number: int) -> list[list[list[list[float]]]]:
        """The polygons of an object, each an outline and its holes, as lists of corners."""
        return [[ring.tolist() for ring in rings] for rings in polygons(self.instance == number)]

    @property
    def classes(self) -> dict[int, str]:
        return dict(enumerate(self.names, 1))


def random_objects(seed: int, *, size: tuple[int, int] = SIZE, one_piece: bool = False, holes: bool = True) -> Objects:
    """Touching objects with holes, some within others; `one_piece`: each is 4-connected."""
    rng = np.random.default_rng(seed)
    height, width = size
    instance = np.zeros(size, np.int32)
    for number in range(1, int(rng.integers(2, 9))):
        y, x = int(rng.integers(0, height - 3)), int(rng.integers(0, width - 3))
        part = instance[y : y + int(rng.integers(2, 14)), x : x + int(rng.integers(2, 14))]
        part[rng.random(part.shape) < 0.95] = number
        if holes and min(part.shape) > 4:
            part[2:-2, 2:-2] = 0
    if one_piece:
        for number in np.unique(instance[instance > 0]).tolist():
            count, parts = cv2.connectedComponents((instance == number).astype(np.uint8), connectivity=4)
            sizes = np.bincount(parts[parts > 0], minlength=count)
            instance[(parts > 0) & (parts != sizes.argmax())] = 0
            if not holes:
                filled = cv2.floodFill(np.pad((parts == sizes.argmax()).astype(np.uint8), 1), None, (0, 0), 2, flags=4)
                instance[(filled[1][1:-1, 1:-1] != 2)] = number
    present = np.unique(instance[instance > 0])
    instance = np.searchsorted(present, instance).astype(np.int32) + (instance > 0)
    return Objects(instance.astype(np.int32), tuple(NAMES[k] for k in rng.integers(0, 2, len(present))))


def write_geojson(path: Path, objects: Objects, *, cells: bool = False) -> Path:
    """QuPath: annotations, or (`cells`) cells whose nuclei are the objects, below an annotation without a class."""
    features: list[Any] = []
    for number, name in objects.classes.items():
        geometry = {"type": "MultiPolygon", "coordinates": [[[*r, r[0]] for r in p] for p in objects.pieces(number)]}
        properties: dict[str, Any] = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
        feature = {"type": "Feature", "id": str(number), "geometry": geometry, "properties": properties}
        if cells:
            properties["objectType"] = "cell"
            feature |= {"geometry": _box(0, 0, 32, 24), "nucleusGeometry": geometry}
        features.append(feature)
    if cells:
        parent = {"objectType": "annotation", "isLocked": True}
        features.insert(0, {"type": "Feature", "geometry": _box(0, 0, 32, 24), "properties": parent})
    content = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def _box(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]}


def write_labelme(path: Path, objects: Objects) -> Path:
    """labelme: an object without holes and of one piece is a polygon, any other a mask."""
    import base64
    import io

    from PIL import Image

    shapes = []
    for number, name in objects.classes.items():
        pieces = objects.pieces(number)
        shape: dict[str, Any] = {"label": name, "group_id": None, "flags": {}}
        if len(pieces) == 1 and len(pieces[0]) == 1:
            shape |= {"points": pieces[0][0], "shape_type": "polygon"}
        else:
            rows, columns = np.nonzero(objects.instance == number)
            y0, y1, x0, x1 = rows.min(), rows.max(), columns.min(), columns.max()
            stream = io.BytesIO()
            Image.fromarray(objects.instance[y0 : y1 + 1, x0 : x1 + 1] == number).save(stream, "PNG")
            mask = base64.b64encode(stream.getvalue()).decode()
            shape |= {"points": [[int(x0), int(y0)], [int(x1), int(y1)]], "shape_type": "mask", "mask": mask}
        shapes.append(shape)
    height, width = objects.instance.shape
    name = f"{path.stem}.png"
    document = {"version": "5.4", "shapes": shapes, "imagePath": name, "imageHeight": height, "imageWidth": width}
    path.write_text(json.dumps(document))
    return path


def write_coco(path: Path, objects: Objects, *, runs: str = "text") -> Path:
    """COCO; `runs`: objects as run lengths in "text" or "numbers", or as "polygons" of their parts."""
    from pycocotools import mask as coco

    annotations = []
    height, width = objects.instance.shape
    for number, name in objects.classes.items():
        inside = objects.instance == number
        segmentation: Any = [np.ravel(rings[0]).tolist() for rings in objects.pieces(number)]
        if runs == "text":
            segmentation = coco.encode(np.asfortranarray(inside.astype(np.uint8)))
            segmentation["counts"] = segmentation["counts"].decode()
        elif runs == "numbers":
            flat = np.concatenate([[False], inside.ravel(order="F"), [False]])
            ends = np.flatnonzero(flat[1:] != flat[:-1]).tolist()
            counts = np.diff([0, *ends, inside.size]).tolist()
            segmentation = {"size": [height, width], "counts": counts}
        category = 5 + NAMES.index(name)
        annotations.append({"id": number, "image_id": 7, "category_id": category, "segmentation": segmentation})
    categories = [{"id": 5 + number, "name": name} for number, name in enumerate(NAMES)]
    image = {"id": 7, "file_name": "he/a.png", "height": height, "width": width}
    path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": categories}))
    return path


def write_cvat(path: Path, objects: Objects) -> Path:
    """CVAT: masks, and polygons where an object is one without holes."""
    height, width = objects.instance.shape
    lines = []
    for number, name in objects.classes.items():
        pieces = objects.pieces(number)
        if len(pieces) == 1 and len(pieces[0]) == 1:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in pieces[0][0])
            lines.append(f'<polygon label="{name}" z_order="0" points="{points}"/>')
            continue
        rows, columns = np.nonzero(objects.instance == number)
        top, left = int(rows.min()), int(columns.min())
        part = objects.instance[top : int(rows.max()) + 1, left : int(columns.max()) + 1] == number
        flat = np.concatenate([[False], part.ravel()])
        runs = np.diff([0, *np.flatnonzero(flat[1:] != flat[:-1]).tolist(), part.size])
        box = f'left="{left}" top="{top}" width="{part.shape[1]}" height="{part.shape[0]}"'
        lines.append(f'<mask label="{name}" z_order="0" rle="{", ".join(map(str, runs))}" {box}/>')
    image = f'<image id="0" name="he/a.png" width="{width}" height="{height}">{"".join(lines)}</image>'
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{image}</annotations>')
    return path


def write_imagescope(path: Path, objects: Objects, *, monusac: bool = False) -> Path:
    """ImageScope: a layer of its own for each object, so that a hole belongs to it; `monusac`: names as attributes."""
    layers = []
    for number, name in objects.classes.items():
        regions = "".join(
            f'<Region Id="{k}" Type="0" NegativeROA="{int(k > 0)}"><Vertices>'
            + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
            + "</Vertices></Region>"
            for k, ring in enumerate(objects.pieces(number)[0])
        )
        named = f'<Annotation Id="{number}" Name="{"" if monusac else name}">'
        attribute = (
            f'<Attribute Name="{name}" Id="0" Value=""/>' if monusac else '<Attribute Name="Description" Value=""/>'
        )
        layers.append(f"{named}<Attributes>{attribute}</Attributes><Regions>{regions}</Regions></Annotation>")
    path.write_text(f'<Annotations MicronsPerPixel="0.252">{"".join(layers)}</Annotations>')
    return path


def write_hovernet(path: Path, objects: Objects, *, types: str = "") -> Path:
    """HoVer-Net: instances, with ``type_map`` or ``inst_type`` where `types` says so; types 1 and 2."""
    from scipy.io import savemat

    kinds = np.array([0, *(1 + NAMES.index(name) for name in objects.names)])
    content = {"inst_map": objects.instance.astype(np.float64)}
    if types == "type_map":
        content["type_map"] = kinds[objects.instance].astype(np.float64)
    elif types == "inst_type":
        content["inst_type"] = kinds[1:, None].astype(np.float64)
    savemat(path, content)
    return path


def write_cellpose(path: Path, objects: Objects) -> Path:
    """cellpose: the dictionary that its window saves, or its masks as an image."""
    from PIL import Image

    masks = objects.instance.astype(np.uint16)
    if path.suffix == ".png":
        Image.fromarray(masks).save(path)
        return path
    document = {"outlines": masks, "masks": masks, "chan_choose": [0, 0], "ismanual": np.zeros(3, bool),
                "filename": "a.png", "flows": [np.zeros((2, 2)), None], "diameter": np.float64(12.5)}  # fmt: skip
    np.save(path, document)  # type: ignore[arg-type]
    return path


def write_pannuke(path: Path, objects: Objects) -> Path:
    """PanNuke: the classes are its first two channels, ids start anew in each."""
    masks = np.zeros((2, *objects.instance.shape, 6))
    for number, name in objects.classes.items():
        masks[1, objects.instance == number, NAMES.index(name)] = number
    masks[..., 5] = ~masks.any(-1)
    np.save(path, masks)
    np.save(path.with_name("images.npy"), np.zeros((2, *objects.instance.shape, 3)))
    return path


def write_conic(path: Path, objects: Objects) -> Path:
    """CoNIC: the classes are its first two."""
    kinds = np.array([0, *(1 + NAMES.index(name) for name in objects.names)])
    np.save(path, np.stack([objects.instance, kinds[objects.instance]], -1)[None].astype(np.uint16))
    np.save(path.with_name("images.npy"), np.zeros((1, *objects.instance.shape, 3), np.uint8))
    path.with_name("patch_info.csv").write_text("patch_info\na\n")
    return path


def write_imagej(path: Path, objects: Objects) -> Path:
    """ImageJ: a composite region for each object, its group the class."""
    import zipfile

    from roifile import ROI_TYPE, ImagejRoi

    with zipfile.ZipFile(path, "w") as archive:
        for number, name in objects.classes.items():
            (ring,) = objects.pieces(number)[0]
            roi = ImagejRoi.frompoints(np.array(ring, np.float64))
            roi.roitype, roi.group = ROI_TYPE.POLYGON, 1 + NAMES.index(name)
            archive.writestr(f"{number:04d}.roi", roi.tobytes())
    return path


@dataclass(frozen=True)
class Writer:
    """How the tests write a format.

    Attributes:
        name: of the file for an image `stem`. write: writes it. one_piece, holes: what its objects can be.
        named: names of `NAMES` in it, empty where it holds no classes. same_ids: whether ids come back.
    """

    name: str
    write: Callable[[Path, Objects], Path]
    one_piece: bool = False
    holes: bool = True
    named: tuple[str, ...] = NAMES
    stem: str = "a"
    same_ids: bool = True


_NUMBERS = ("1", "2")
WRITERS: dict[str, list[Writer]] = {
    "geojson": [
        Writer("a.geojson", write_geojson),
        Writer("a.geojson.gz", partial(write_geojson, cells=True)),
    ],
    "labelme": [Writer("a.json", write_labelme)],
    "coco": [
        Writer("text.json", write_coco),
        Writer("numbers.json", partial(write_coco, runs="numbers")),
        Writer("polygons.json", partial(write_coco, runs="polygons"), holes=False, one_piece=True),
    ],
    "hovernet": [
        Writer("a.mat", write_hovernet, named=()),
        Writer("a.mat", partial(write_hovernet, types="type_map"), named=_NUMBERS),
        Writer("a.mat", partial(write_hovernet, types="inst_type"), named=_NUMBERS),
    ],
    "imagescope": [
        Writer("a.xml", write_imagescope, one_piece=True),
        Writer("a.xml", partial(write_imagescope, monusac=True), one_piece=True),
    ],
    "cvat": [Writer("cvat.xml", write_cvat)],
    "cellpose": [Writer("a_seg.npy", write_cellpose, named=()), Writer("a_cp_masks.png", write_cellpose, named=())],
    "pannuke": [Writer("masks.npy", write_pannuke, named=PANNUKE[:2], stem="a-00001", same_ids=False)],
    "conic": [Writer("labels.npy", write_conic, named=CONIC[:2])],
    "imagej": [Writer("a_rois.zip", write_imagej, one_piece=True, holes=False, named=_NUMBERS)],
}
"""Writers of every format in `factory.core.label_files.FORMATS`, but `colours`, which has no instances."""
