"""One rule for every image that is read: its reader, its orientation, its resolution and its origin."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from factory.core.images.files import Header, UnreadableError, read_header, read_pixels, read_rgb_pixels
from factory.core.images.label_pixels import read_label_pixels
from factory.core.images.picture import read_picture_header
from factory.core.images.resolution import disagreement
from factory.core.images.slides import SlideHeader, SlideReader
from manifests.errors import UserError
from segment.predict.inputs import find_images
from tests.ingest_files import scn

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def two_levels(path: Path, pixels: np.ndarray, **settings: object) -> Path:
    """A tiled TIFF with a reduced copy, as converters write it."""
    with tifffile.TiffWriter(path) as file:
        for level, reduced in enumerate((pixels, pixels[::2, ::2].copy())):
            file.write(reduced, tile=(16, 16), metadata=None, subfiletype=level, **settings)
    return path


@pytest.mark.parametrize(
    ("pixels", "settings"),
    [
        (PIXELS.astype(np.uint16) * 16, {"photometric": "rgb"}),
        (PIXELS[..., 1].copy(), {"photometric": "minisblack"}),
        (PIXELS, {"photometric": "cielab"}),
        (np.dstack([PIXELS, PIXELS[..., 0]]), {"photometric": "separated"}),
    ],
    ids=["12 bits in 16", "grey", "L*a*b*", "CMYK"],
)
@pytest.mark.parametrize("tiled", [True, False])
def test_tiff_that_is_not_8_bit_rgb_is_refused_tiled_or_not(
    tmp_path: Path, pixels: np.ndarray, settings: dict[str, str], tiled: bool
) -> None:
    path = tmp_path / "a.tif"
    if tiled:
        two_levels(path, pixels, **settings)
    else:
        tifffile.imwrite(path, pixels, **settings)
    with pytest.raises(UnreadableError, match="expected an 8-bit RGB image"):
        read_picture_header(path)
    with pytest.raises(UserError, match="expected an 8-bit RGB image"):
        find_images([path], None)


@pytest.mark.parametrize("write", ["pages", "imagej"])
def test_one_page_a_channel_is_refused(tmp_path: Path, write: str) -> None:
    path, planes = tmp_path / "a.tif", np.moveaxis(PIXELS, -1, 0).copy()
    if write == "pages":
        tifffile.imwrite(path, planes, photometric="minisblack", tile=(16, 16))
    else:
        tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(UnreadableError, match="got 3 pages"):
        read_picture_header(path)


def test_tiled_tiff_is_a_slide_only_with_levels(tmp_path: Path) -> None:
    pyramid = read_picture_header(two_levels(tmp_path / "a.tif", PIXELS, photometric="rgb"))
    assert isinstance(pyramid, SlideHeader)
    assert pyramid.sizes == ((64, 48), (32, 24))
    tifffile.imwrite(tmp_path / "b.tif", PIXELS, photometric="rgb", tile=(16, 16))
    assert isinstance(read_picture_header(tmp_path / "b.tif"), Header)


def test_scanners_file_of_grey_pixels_is_refused(tmp_path: Path) -> None:
    described = "Aperio Image Library v12\n48x64 [0,0 48x64] (16x16) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    path = two_levels(tmp_path / "a.svs", PIXELS[..., 0].copy(), photometric="minisblack", description=described)
    with pytest.raises(UnreadableError, match=r"got 1 channels of 8 bits|OpenSlide"):
        read_picture_header(path)


def seen(orientation: int, stored: np.ndarray) -> np.ndarray:
    """What a viewer shows, by the definition of the tag: which side of the picture row 0 and column 0 are."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return stored[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_every_format_and_to_labels(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    extra = [(0x0112, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", extratags=extra)
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_rgb_pixels(tmp_path / name), seen(orientation, PIXELS))
    tifffile.imwrite(tmp_path / "ids.tif", PIXELS[..., 0], photometric="minisblack", extratags=extra)
    ids = read_label_pixels(tmp_path / "ids.tif")
    assert np.array_equal(ids, seen(orientation, PIXELS[..., 0]))
    header = read_header(tmp_path / "ids.tif")
    assert (header.height, header.width) == ids.shape


def test_opaque_rgba_is_read_and_transparent_refused(tmp_path: Path) -> None:
    rgba = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    for name, write in WRITERS.items():
        write(tmp_path / name, rgba)
        assert np.array_equal(read_rgb_pixels(tmp_path / name), PIXELS)
        write(tmp_path / name, np.dstack([PIXELS, np.full(PIXELS.shape[:2], 254, np.uint8)]))
        with pytest.raises(UserError, match="expected an opaque image, got RGBA with alpha 254"):
            find_images([tmp_path / name], None) if name != "a.npy" else read_user(tmp_path / name)


def read_user(path: Path) -> None:
    try:
        read_picture_header(path)
    except UnreadableError as error:
        raise UserError(str(error)) from error


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.png": lambda path, pixels: Image.fromarray(pixels).save(path),
    "a.tif": lambda path, pixels: tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"]),
    "a.npy": lambda path, pixels: np.save(path, pixels),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_labels_of_whole_floats_and_one_channel_are_read(tmp_path: Path, dtype: type) -> None:
    ids = np.arange(48 * 32).reshape(48, 32) % 300
    np.save(tmp_path / "a.npy", ids.astype(dtype)[..., None])
    tifffile.imwrite(tmp_path / "a.tif", ids.astype(np.float32), imagej=True)
    for name in ("a.npy", "a.tif"):
        read = read_label_pixels(tmp_path / name)
        assert read.dtype == np.int32
        assert np.array_equal(read, ids)


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "expected whole numbers.*got 0.5"), (np.nan, "got nan"), (2.0**24, "expected ids below 16,777,216")],
)
def test_float_labels_that_are_no_ids_are_refused(tmp_path: Path, value: float, message: str) -> None:
    np.save(tmp_path / "a.npy", np.full((4, 4), value, np.float32))
    with pytest.raises(UnreadableError, match=message):
        read_label_pixels(tmp_path / "a.npy")


def test_resolution_is_read_wherever_it_stands(tmp_path: Path) -> None:
    ome = {"axes": "YXS", "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 500.0}
    ome["PhysicalSizeYUnit"] = "nm"
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, photometric="rgb", metadata=ome)
    tifffile.imwrite(tmp_path / "b.tif", PIXELS, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    tifffile.imwrite(tmp_path / "c.tif", PIXELS, photometric="rgb", resolution=(20_000, 20_000), resolutionunit=3)
    Image.fromarray(PIXELS).save(tmp_path / "d.png", dpi=(50_800, 50_800))
    Image.fromarray(PIXELS).save(tmp_path / "e.png", dpi=(300, 300))
    found = {path.name: read_header(path).mpp for path in sorted(tmp_path.iterdir())}
    assert found == {
        "a.ome.tif": 0.5,
        "b.tif": 0.5,
        "c.tif": 0.5,
        "d.png": pytest.approx(0.5, rel=1e-3),
        "e.png": None,
    }


def test_disagreement_of_resolutions_is_told(tmp_path: Path) -> None:
    ome = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", PIXELS, photometric="rgb", metadata=ome, resolution=(4e4, 4e4), resolutionunit=3
    )
    (image,) = find_images([tmp_path / "a.ome.tif"], None)
    assert image.mpp == 0.5
    assert "disagree (OME-XML 0.5, the TIFF tag 0.25): 0.5 um per pixel is used" in image.doubts[0]
    (image,) = find_images([tmp_path / "a.ome.tif"], 0.3)
    assert "--mpp 0.3): 0.3 um per pixel is used" in image.doubts[0]
    assert disagreement((("OME-XML", 0.5),), 0.501, 0.5) is None


def test_origin_of_a_slide_with_bounds_is_their_corner(tmp_path: Path) -> None:
    path = scn(tmp_path / "a.scn", np.full((128, 128, 3), 90, np.uint8), 192, 64)
    header = read_picture_header(path)
    assert isinstance(header, SlideHeader)
    assert (header.origin, header.mpp) == ((192, 64), 0.25)
    (image,) = find_images([path], None)
    assert (image.origin, image.kind) == ((192, 64), "slide")
    with SlideReader(path) as reader:  # pixels count from the corner of the whole
        assert reader.read(0, 192, 64, 128, 128).max() < 100
        assert reader.read(0, 0, 0, 128, 64).min() > 200


def test_values_are_decoded_as_stored_where_nothing_is_turned(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", extratags=[(0x0112, "H", 1, 0, True)])
    assert np.array_equal(read_pixels(tmp_path / "a.tif"), PIXELS)
