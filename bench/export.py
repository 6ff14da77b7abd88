"""Export of a data set, against a plain loop over its tiles with the consumer's own encoder, in the same run.

The loop reads the tiles with the public reader (`manifests.open_dataset`) in one process, as its user would write it.
Ours has two processes, started anew for each format, and compares every tile with its checksums besides. Speeds are
tiles per second of wall time; the last column is the ratio of processor time per tile, ours in one process.
"""

import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask
from shapely.geometry import Polygon, mapping
from skimage import io as skimage_io

from bench.loading import made_dataset
from factory.core.malloc import keep_freed_memory
from factory.export import FORMATS, exporting
from manifests.dataset import Dataset, Sample, open_dataset

TILES, SIZE, PEER_TILES, ONE_PROCESS_TILES = 960, 256, 32, 128
WORKERS = 2

Encode = Callable[[Iterable[Sample], Path], object]


def main() -> None:
    """Print a line for each format that has a peer."""
    keep_freed_memory()  # as the commands do
    cv2.setNumThreads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        data = made_dataset(folder, SIZE, TILES, (0.8, 0.1, 0.1))
        cells = np.mean(data.table["cells"].to_numpy())
        print(f"{len(data)} tiles of {SIZE}x{SIZE} with {cells:.0f} cells; the loops encode the first {PEER_TILES}")
        for format in FORMATS:
            if format in PEERS:
                _measure(data, format, folder)
    finally:
        shutil.rmtree(folder)


def _measure(data: Dataset, format: str, folder: Path) -> None:
    peer_wall, peer_cpu = _timed(lambda: _loop(data, format, folder), PEER_TILES)
    wall, _ = _timed(lambda: _ours(data.root, format, folder, TILES, WORKERS), TILES)
    _, cpu = _timed(lambda: _ours(data.root, format, folder, ONE_PROCESS_TILES, 1), ONE_PROCESS_TILES)
    print(
        f"{format:<12}loop {1 / peer_wall:7.1f} tiles/s   ours, {WORKERS} processes {1 / wall:7.1f} tiles/s   "
        f"{peer_wall / wall:5.1f} x   processor time {peer_cpu / cpu:5.1f} x",
        flush=True,
    )


def _timed(work: Callable[[], object], tiles: int) -> tuple[float, float]:
    """Seconds of wall and of processor time per tile."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) / tiles, (time.process_time() - cpu) / tiles


def _loop(data: Dataset, format: str, folder: Path) -> None:
    out = folder / "loop"
    out.mkdir()
    dataset = open_dataset(data.root)
    PEERS[format]((dataset[place] for place in range(PEER_TILES)), out)
    shutil.rmtree(out)


def _ours(root: Path, format: str, folder: Path, tiles: int, workers: int) -> None:
    out = folder / "Dataset501_Bench"
    exporting.carry_out(exporting.prepare(root, format, out, n=tiles), workers=workers)
    shutil.rmtree(out)


def _save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _ids(sample: Sample) -> list[int]:
    return np.unique(sample.tile.instance)[1:].tolist()


def _png(samples: Iterable[Sample], out: Path) -> None:
    for sample in samples:
        name = f"{sample.row['sample_id']}.png"
        _save(sample.image, out / "images" / name)
        _save(sample.tile.semantic, out / "masks" / name)
        _save(sample.tile.instance.astype(np.uint16), out / "instances" / name)


def _coco(samples: Iterable[Sample], out: Path) -> None:
    images, annotations = [], []
    for number, sample in enumerate(samples, 1):
        name = f"{sample.row['sample_id']}.png"
        _save(sample.image, out / "images" / name)
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        for cell in _ids(sample):
            code = coco_mask.encode(np.asfortranarray(sample.tile.instance == cell, np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": int(coco_mask.area(code)),
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "segmentation": {**code, "counts": code["counts"].decode()},
                }
            )
    (out / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def _qupath(samples: Iterable[Sample], out: Path) -> None:
    for sample in samples:
        name = sample.row["sample_id"]
        tifffile.imwrite(out / f"{name}.ome.tif", sample.image, compression="zlib", metadata={"axes": "YXS"})
        features = []
        for cell in _ids(sample):
            found, _ = cv2.findContours(
                (sample.tile.instance == cell).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            outline = Polygon(found[0][:, 0]) if len(found[0]) > 3 else Polygon()
            features.append({"type": "Feature", "geometry": mapping(outline), "properties": {"area": outline.area}})
        (out / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _pannuke(samples: Iterable[Sample], out: Path) -> None:
    images, masks = [], []
    for sample in samples:
        mask = np.zeros((SIZE, SIZE, 2))
        for cell in _ids(sample):
            mask[..., 0][sample.tile.instance == cell] = cell
        mask[..., 1] = sample.tile.instance == 0
        images.append(sample.image)
        masks.append(mask)
    np.save(out / "images.npy", np.stack(images))
    np.save(out / "masks.npy", np.stack(masks))


def _nnunet(samples: Iterable[Sample], out: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (out / folder).mkdir()
    for sample in samples:  # as nnU-Net's NaturalImage2DIO
        name, semantic = sample.row["sample_id"], sample.tile.semantic
        skimage_io.imsave(out / f"imagesTr/{name}_0000.png", sample.image, check_contrast=False)
        skimage_io.imsave(out / f"labelsTr/{name}.png", semantic, check_contrast=False)


def _hf(samples: Iterable[Sample], out: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(mode="RGB"),
            "instances": datasets.Sequence(datasets.Image(mode="1")),
            "categories": datasets.Sequence(datasets.Value("int64")),
            "semantic": datasets.Image(mode="L"),
        }
    )

    def rows() -> Iterable[dict[str, object]]:
        for sample in samples:
            masks = [Image.fromarray(sample.tile.instance == cell) for cell in _ids(sample)]
            yield {
                "image": Image.fromarray(sample.image),
                "instances": masks,
                "categories": [0] * len(masks),
                "semantic": Image.fromarray(sample.tile.semantic),
            }

    datasets.Dataset.from_list(list(rows()), features=features).to_parquet(out / "train.parquet")


def _webdataset(samples: Iterable[Sample], out: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(out / "train.tar")) as tar:
        for sample in samples:
            stream = io.BytesIO()
            np.savez_compressed(stream, semantic=sample.tile.semantic, instance=sample.tile.instance)
            tar.write(
                {
                    "__key__": sample.row["sample_id"],
                    "png": sample.image,
                    "npz": stream.getvalue(),
                    "json": {"mpp": sample.row["mpp"]},
                }
            )


def _yolo(samples: Iterable[Sample], out: Path) -> None:
    for sample in samples:
        name = sample.row["sample_id"]
        _save(sample.image, out / f"images/{name}.png")
        lines = []
        for cell in _ids(sample):  # as Ultralytics' convert_segment_masks_to_yolo_seg
            found, _ = cv2.findContours(
                (sample.tile.instance == cell).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
            )
            points = [str(round(value / SIZE, 6)) for value in found[0].ravel().tolist()]
            lines.append(" ".join(["0", *points]))
        (out / f"{name}.txt").write_text("\n".join(lines))


def _ome_zarr(samples: Iterable[Sample], out: Path) -> None:
    import zarr
    from ome_zarr.writer import write_image, write_labels

    for sample in samples:
        group = zarr.open_group(out / sample.row["sample_id"], mode="w")
        write_image(np.moveaxis(sample.image, -1, 0), group, axes="cyx", scaler=None)
        write_labels(sample.tile.semantic, group, "semantic", axes="yx", scaler=None)
        write_labels(sample.tile.instance, group, "instances", axes="yx", scaler=None)


PEERS: dict[str, Encode] = {
    "png": _png,
    "coco": _coco,
    "qupath": _qupath,
    "pannuke": _pannuke,
    "nnunet": _nnunet,
    "hf": _hf,
    "webdataset": _webdataset,
    "yolo": _yolo,
    "ome-zarr": _ome_zarr,
}
"""A plain loop for each format: PIL, pycocotools, tifffile and shapely, numpy, scikit-image, datasets, ..."""
