"""Where the default constants of the renderer `stain` come from: measured on images that may be tuned on.

`SOURCES` names the images; give the folder that holds the source folders, laid out as in their own publications'
exports (images/ beside instances/ or cells/ and roi/). Test images are not among them: of MoNuSeg the twelve training
images that are not for validation, of the Ki-67 cases 01 to 22, of the PD-L1 cores 02 to 04, no image of LGG, and of
the slides only CMU-1-Small-Region. Resolutions that no file states are estimates (lymphocytes are 7 um wide).

    python -m bench.stain_constants FOLDER     constants of real images
    python -m bench.stain_constants            gains of the fit, on rendered tiles alone

A range is the 10th to 90th percentile of `stain_fit` over images, where every source weighs the same. `stain_fit`
turns its measures into parameters by gains; the second command prints by what a gain has to be multiplied so that
rendered tiles come back, in the median, with what they were rendered with.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from skimage.measure import regionprops_table

from factory.renderers.look import Look, Staining, draw_look
from factory.renderers.stain_config import Slide, StainConfig
from factory.renderers.stain_fit import fit_slides

Image = npt.NDArray[np.uint8]
_MONUSEG = "A7-A13E AR-A1AK AR-A1AS HE-7128 HE-7130 B0-5711 18-5592 49-4488 50-5931 G9-6336 G9-6356 G9-6363".split()
_KI67 = [f"case{case:02d}" for case in range(1, 23)]
_CORES = ["core02", "core03", "core04"]
_SCALARS = (
    "nucleus nucleus_spread tissue eosin_density haze dab_density blush chromatin texture retraction blur_um grain "
    "jpeg_quality"
).split()


@dataclass(frozen=True)
class Source:
    """Images of one origin: a glob below the folder, the words of which a name must hold one, stain and resolution."""

    pattern: str
    words: list[str]
    staining: Staining
    mpp: float


SOURCES = {
    "MoNuSeg": Source("nuclei_he_monuseg30/images/*.png", _MONUSEG, "he", 0.25),
    "HTT": Source("tiles_he_htt36/*.jpg", [""], "he", 0.5),
    "CMU-1": Source("wsi_he/CMU-1-Small-Region.svs", [""], "he", 0.499),
    "cores, H&E": Source("ihc_pdl1_tma/*_he.jpg", _CORES, "he", 0.5),
    "Ki-67": Source("ihc_ki67_breast29/images/*.jpg", _KI67, "nuclear_dab", 0.5),
    "DeepLIIF": Source("ihc_ki67_deepliif6/images/*", [""], "nuclear_dab", 0.25),
    "cores, SP142": Source("ihc_pdl1_tma/*_pdl1_sp142.jpg", _CORES, "membrane_dab", 0.5),
}


def main() -> None:
    """Print constants of a folder, or gains where none is named."""
    words = sys.argv[1:]
    if not words or not Path(words[0]).is_dir():
        print("no folder of real images named: gains of the fit, on rendered tiles\n")
        _print_gains()
        return
    folder = Path(words[0])
    for group in ("he", "ihc"):
        _print_group(folder, group)
    _print_shapes(folder)
    _print_densities(folder)


def _paths(folder: Path, source: Source) -> list[Path]:
    """The images of a source; the patterns keep test images out.

    Raises:
        SystemExit: when the folder holds none.
    """
    found = [p for p in sorted(folder.glob(source.pattern)) if any(word in p.name for word in source.words)]
    if not found:
        sys.exit(f"error: {folder}: expected {source.pattern}, got none. Name the folder that holds the sources.")
    return found


def _read(path: Path) -> list[Image]:
    """RGB images of a file; a slide as squares of 1000 px."""
    if path.suffix == ".svs":
        import openslide

        slide = openslide.OpenSlide(path)
        width, height = slide.dimensions
        corners = [(x, y) for y in range(0, height - 999, 1000) for x in range(0, width - 999, 1000)]
        return [np.asarray(slide.read_region(corner, 0, (1000, 1000)).convert("RGB")) for corner in corners]
    return [cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)]


def _quantiles(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """10th, 50th and 90th percentile of weighted values."""
    order = np.argsort(values)
    at = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return np.interp([0.1, 0.5, 0.9], at, values[order])


def _print_group(folder: Path, group: str) -> None:
    """Vectors, ranges and background of H&E or of immunostains."""
    slides: list[Slide] = []
    weights: list[float] = []
    mpps: list[float] = []
    for source in SOURCES.values():
        if (source.staining == "he") != (group == "he"):
            continue
        images = [image for path in _paths(folder, source) for image in _read(path)]
        found = fit_slides(images, source.staining, StainConfig(), told=True).slides
        slides += found
        weights += [1 / len(found)] * len(found)
        mpps += [source.mpp] * len(found)
    weight = np.array(weights)
    print(f"\n{group}: {len(slides)} images")
    for name in ("haematoxylin", "eosin" if group == "he" else "dab"):
        vectors = np.array([getattr(slide, name) for slide in slides])
        # an image that does not show a dye comes back with the vector that was configured
        shown = np.abs(vectors - getattr(StainConfig().ihc, name)).max(axis=1) > 1e-5
        mean = np.average(vectors[shown], axis=0, weights=weight[shown])
        spread = np.sqrt(np.average((vectors[shown] - mean) ** 2, axis=0, weights=weight[shown]))
        print(f"  {name:<15} {np.round(mean / np.linalg.norm(mean), 3)}  spread {np.round(spread, 3)}")
    for name in _SCALARS:
        values = np.array([_scalar(slide, name, mpp) for slide, mpp in zip(slides, mpps, strict=True)], float)
        print(f"  {name:<15} {np.round(_quantiles(values, weight), 3)}")
    for channel in range(3):
        levels = np.array([slide.background[channel] for slide in slides])
        print(f"  background {'RGB'[channel]}    {np.round(_quantiles(levels, weight), 1)}")


def _scalar(slide: Slide, name: str, mpp: float) -> float:
    return slide.blur_px * mpp if name == "blur_um" else float(getattr(slide, name))


def _print_gains() -> None:
    """Fitted / given of rendered tiles of three schemes: 10th, 50th, 90th percentile."""
    for scheme, staining in (("pdl1", "membrane_dab"), ("ihc", "nuclear_dab"), ("nuclei", "he")):
        pairs = _render(scheme, staining)
        print(f"{scheme}: {len(pairs)} tiles")
        for name in _SCALARS:
            given = {"eosin_density": "eosin", "dab_density": "dab", "blur_um": "blur_px"}.get(name, name)
            fitted = "blur_px" if name == "blur_um" else name
            asked = np.array([getattr(look, given) for look, _ in pairs])
            if asked.max() > 0:
                ratio = np.array([getattr(slide, fitted) for _, slide in pairs]) / np.maximum(asked, 1e-6)
                print(f"  {name:<15} {np.round(np.quantile(ratio, [0.1, 0.5, 0.9]), 2)}")


def _render(scheme_name: str, staining: Staining, n: int = 48) -> list[tuple[Look, Slide]]:
    """Tiles as `factory make` draws them, without faults: the look each was given, and the one fitted to it."""
    from factory.core.seeds import Stream, generator
    from factory.order import resolve_config
    from factory.pipeline import Realiser, prepare
    from manifests.errors import UserError

    flags = {"n": n, "scheme": scheme_name} | ({} if scheme_name == "nuclei" else {"tps": "0.05-0.5"})
    faultless = ["renderer.scanner.focus=0", "renderer.scanner.fold=0", "renderer.scanner.sharpen=[0,0]"]
    config, scheme = resolve_config(flags, {}, None, faultless)
    order = prepare(config, scheme, Path("unused"), manifest=None, like=None, device="cpu")
    pairs = []
    for row, (image, tile, _) in zip(order.rows_of(0), Realiser(order.recipe).realise(order.rows_of(0)), strict=True):
        render_config = order.recipe.render_config
        assert isinstance(render_config, StainConfig)
        look = draw_look(render_config, staining, tile.mpp, generator(row["seed"], Stream.RENDER))
        try:
            pairs.append((look, fit_slides([image], staining, render_config, told=True).slides[0]))
        except UserError:
            continue  # a tile with hardly any nucleus
    return pairs


def _print_shapes(folder: Path) -> None:
    """Outlines of annotated nuclei beside those of the mask generator `nuclei`."""
    names = [path.name for path in _paths(folder, SOURCES["MoNuSeg"])]
    real = [cv2.imread(str(folder / "nuclei_he_monuseg30/instances" / name), cv2.IMREAD_UNCHANGED) for name in names]
    from factory.order import resolve_config
    from factory.pipeline import Realiser, prepare

    config, scheme = resolve_config({"n": 48, "scheme": "nuclei"}, {}, None, [])
    order = prepare(config, scheme, Path("unused"), manifest=None, like=None, device="cpu")
    drawn = [tile.instance for _, tile, _ in Realiser(order.recipe).realise(order.rows_of(0))]
    print("\nshapes of nuclei: 5th, 25th, 50th, 75th, 95th percentile")
    for name, maps in (("MoNuSeg", real), ("drawn", drawn)):
        tables = [_shapes(instance.astype(np.int32)) for instance in maps if instance.any()]
        for column, measure in enumerate(("solidity", "length / width")):
            values = np.concatenate([table[:, column] for table in tables])
            print(f"  {name:<8} {measure:<15} {np.round(np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]), 3)}")


def _shapes(instance: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Solidity and length / width of nuclei of 60 px and more that the border does not cut: float64 [n, 2]."""
    properties = ("label", "area", "solidity", "axis_major_length", "axis_minor_length")
    table = regionprops_table(instance, properties=properties)
    cut = np.unique(np.concatenate([instance[0], instance[-1], instance[:, 0], instance[:, -1]]))
    whole = (table["area"] >= 60) & ~np.isin(table["label"], cut)
    ratio = table["axis_major_length"] / np.maximum(table["axis_minor_length"], 1)
    return np.stack([table["solidity"], ratio], axis=1)[whole]


def _print_densities(folder: Path) -> None:
    """Nuclei per mm2: annotated ones in tumour, counted ones in windows of 100 um of the cores."""
    tumour = []
    for path in _paths(folder, SOURCES["Ki-67"]):
        base = path.parent.parent
        roi = cv2.imread(str(base / "roi" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE) > 0
        with (base / "cells" / f"{path.stem}.csv").open() as file:
            tumour.append(len(list(csv.DictReader(file))) / (roi.sum() * SOURCES["Ki-67"].mpp ** 2 * 1e-6))
    print("\nnuclei per mm2: 10th, 25th, 50th, 75th, 90th, 95th percentile")
    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
    print(f"  tumour, annotated   {np.round(np.quantile(tumour, quantiles), -1)}")
    for name in ("cores, SP142", "cores, H&E"):
        for path in _paths(folder, SOURCES[name]):
            windows = _windows(_read(path)[0], SOURCES[name].mpp)
            print(f"  {path.stem:<19} {np.round(np.quantile(windows, quantiles), -1)}")


def _windows(image: Image, mpp: float) -> npt.NDArray[np.float64]:
    """Nuclei per mm2 of tissue in windows of 100 um that are mostly tissue.

    Nuclei are peaks of the Laplacian of a Gaussian for a radius of 1.9 um, above 0.55 of Otsu's threshold; by eye on
    the cores one in ten is missed and one in ten too many.
    """
    from factory.renderers.dyes import optical_density

    od = optical_density(image, np.percentile(image.reshape(-1, 3), 99, axis=0))[..., 0]
    sigma = 1.9 / mpp / np.sqrt(2)
    response = -cv2.Laplacian(cv2.GaussianBlur(od, (0, 0), sigma), cv2.CV_32F) * sigma * sigma
    size = 2 * round(1.6 / mpp) + 1
    peak = response >= cv2.dilate(response, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    values = np.clip(response[peak & (response > 0.02)] * 255, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(values.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    peak &= response > max(0.55 * threshold / 255, 0.03)
    tissue = cv2.boxFilter((image.min(axis=2) < 235).astype(np.float32), -1, (25, 25)) > 0.2
    window = (round(100 / mpp), round(100 / mpp))
    share = cv2.boxFilter(tissue.astype(np.float32), -1, window)
    nuclei = cv2.boxFilter((peak & tissue).astype(np.float32), -1, window)
    density = nuclei / np.maximum(share, 1e-3) / (mpp * mpp * 1e-6)
    return density[share > 0.8][::97].astype(np.float64)


if __name__ == "__main__":
    main()
