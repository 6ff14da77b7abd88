"""Measures the default constants of the renderer `stain`, on images of training splits.

`SOURCES` names the images; give the folder that holds the source folders, laid out as in their own publications'
exports (images/ beside instances/ or cells/ and roi/). Test images are not among them: of MoNuSeg the twelve training
images that are not for validation, of the Ki-67 cases 01 to 22, of the PD-L1 cores 02 to 04, no image of LGG, and of
the slides only CMU-1-Small-Region. Resolutions that no file states are estimates (lymphocytes are 7 um wide).

    python -m experiments.stain_constants FOLDER     constants of real images
    python -m experiments.stain_constants            gains of the fit, on rendered tiles alone

A range is the 20th to 80th percentile of `stain_fit` over images: tiles draw every quantity by itself while in images
they go together, so that tails must not be combined. Vectors are means. A source weighs the root of its slides, so
that neither a lone slide nor a large set decides. `stain_fit` turns its measures into parameters by gains; the second
command prints the factor of each gain with which the fit of rendered tiles returns, in the median, their parameters.
"""

import csv
import sys
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from skimage.measure import regionprops_table

from factory.renderers.stain.appearance import PIXEL_BLUR_PX, StainAppearance, Staining, draw_appearance
from factory.renderers.stain.config import Slide, StainConfig
from factory.renderers.stain.fit import fit_slides

Image = npt.NDArray[np.uint8]
# the training images of Kumar et al. 2017, less their validation images
_MONUSEG = ["A7-A13E", "AR-A1AK", "AR-A1AS", "HE-7128", "HE-7130", "B0-5711", "18-5592", "49-4488", "50-5931"]
_MONUSEG += ["G9-6336", "G9-6356", "G9-6363"]
_KI67 = [f"case{case:02d}" for case in range(1, 23)]
_RENDERED: tuple[tuple[str, Staining], ...] = (("pdl1", "membrane_dab"), ("ihc", "nuclear_dab"), ("nuclei", "he"))
_CORES = ["core02", "core03", "core04"]
PREPARATION: tuple[str, ...] = ("nucleus", "nucleus_spread", "tissue", "eosin_density", "haze", "dab_density", "blush")
PREPARATION += ("chromatin", "texture", "retraction")


@dataclass(frozen=True)
class Source:
    """Images of one origin: a glob, the words of which a name must hold one, stain, resolution, number of slides."""

    pattern: str
    words: list[str]
    staining: Staining
    mpp: float
    slides: int


SOURCES = {
    "MoNuSeg": Source("nuclei_he_monuseg30/images/*.png", _MONUSEG, "he", 0.25, 12),
    "HTT": Source("tiles_he_htt36/*.jpg", [""], "he", 0.5, 36),
    "CMU-1": Source("wsi_he/CMU-1-Small-Region.svs", [""], "he", 0.499, 1),
    "cores, H&E": Source("ihc_pdl1_tma/*_he.jpg", _CORES, "he", 0.5, 3),
    "Ki-67": Source("ihc_ki67_breast29/images/*.jpg", _KI67, "nuclear_dab", 0.5, 22),
    "DeepLIIF": Source("ihc_ki67_deepliif6/images/*", [""], "nuclear_dab", 0.25, 6),
    "cores, SP142": Source("ihc_pdl1_tma/*_pdl1_sp142.jpg", _CORES, "membrane_dab", 0.5, 3),
}


def main() -> None:
    """Print constants of a folder, or gains where none is named."""
    words = sys.argv[1:]
    if not words or not Path(words[0]).is_dir():
        print("no folder of real images named: gains of the fit, on rendered tiles\n")
        _print_gains()
        return
    folder = Path(words[0])
    he, ihc = (
        reduce(add, [_fitted(folder, s) for s in SOURCES.values() if (s.staining == "he") == pink])
        for pink in (True, False)
    )
    _print_group("he", he)
    _print_group("ihc", ihc)
    _print_scanner(he + ihc)
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


@dataclass(frozen=True)
class Fitted:
    """Appearances of images; the weight and the resolution of each, and whether membranes are stained."""

    slides: list[Slide]
    weight: npt.NDArray[np.float64]
    mpp: npt.NDArray[np.float64]
    membranes: npt.NDArray[np.bool_]

    def __add__(self, other: "Fitted") -> "Fitted":
        pairs = (self.weight, other.weight), (self.mpp, other.mpp), (self.membranes, other.membranes)
        return Fitted(self.slides + other.slides, *(np.concatenate(pair) for pair in pairs))

    def quantiles(self, values: npt.NDArray[np.float64], among: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """20th, 50th and 80th percentile of the values of the images `among` them, weighted."""
        values, weight = values[among], self.weight[among]
        order = np.argsort(values)
        at = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
        return np.interp([0.2, 0.5, 0.8], at, values[order])


def _fitted(folder: Path, source: Source) -> Fitted:
    images = [image for path in _paths(folder, source) for image in _read(path)]
    slides = list(fit_slides(images, source.staining, StainConfig(), positive_labelled=True).slides)
    n, membranes = len(slides), source.staining == "membrane_dab"
    return Fitted(
        slides, np.full(n, source.slides**0.5 / n), np.full(n, source.mpp, np.float64), np.full(n, membranes, np.bool_)
    )


def _print_group(group: str, fitted: Fitted) -> None:
    """Vectors and ranges of H&E or of immunostains."""
    print(f"\n{group}: {len(fitted.slides)} images; 20th, 50th, 80th percentile")
    everywhere = np.ones(len(fitted.slides), bool)
    # an image that does not show DAB comes back with the vector that was configured
    brown = np.array([slide.dab != StainConfig().ihc.dab for slide in fitted.slides])
    for name in ("haematoxylin", "eosin" if group == "he" else "dab"):
        vectors = np.array([getattr(slide, name) for slide in fitted.slides])
        among = brown if name == "dab" else everywhere
        mean = np.average(vectors[among], axis=0, weights=fitted.weight[among])
        low, _, high = np.stack([fitted.quantiles(vectors[:, c], among) for c in range(3)], axis=1)
        # 20th and 80th percentile of a normal distribution are 1.683 standard deviations apart
        print(f"  {name:<15} {np.round(mean / np.linalg.norm(mean), 3)}  spread {np.round((high - low) / 1.683, 3)}")
    for name in PREPARATION:
        values = np.array([getattr(slide, name) for slide in fitted.slides], float)
        among = brown if name == "dab_density" else brown & fitted.membranes if name == "blush" else everywhere
        if group == "he" and name in ("chromatin", "texture"):
            among = fitted.mpp < 0.3  # contrast of fine detail: the gain holds for the resolution it was measured at
        if among.any():
            print(f"  {name:<15} {np.round(fitted.quantiles(values, among), 3)}")
    ratio = np.array([slide.tissue / max(slide.nucleus, 1e-6) for slide in fitted.slides])
    print(f"  {'tissue / nucleus':<15} {np.round(fitted.quantiles(ratio, everywhere), 3)}")


def _print_scanner(fitted: Fitted) -> None:
    """Print the constants of the scanner."""
    print(f"\nscanner: {len(fitted.slides)} images; 20th, 50th, 80th percentile")
    everywhere = np.ones(len(fitted.slides), bool)
    blur_px = np.array([slide.blur_px for slide in fitted.slides])
    optics_um = np.sqrt(np.maximum(blur_px**2 - PIXEL_BLUR_PX**2, 0)) * fitted.mpp
    print(f"  {'blur_um':<15} {np.round(fitted.quantiles(optics_um, everywhere), 3)}")
    for name in ("grain", "jpeg_quality"):
        values = np.array([getattr(slide, name) for slide in fitted.slides])
        print(f"  {name:<15} {np.round(fitted.quantiles(values, everywhere), 2)}")
    levels = np.array([slide.background for slide in fitted.slides])
    print(f"  {'background':<15} {np.round(fitted.quantiles(levels.mean(axis=1), everywhere), 1)}")
    warmth = fitted.quantiles((levels[:, 0] - levels[:, 2]) / 2, everywhere)
    print(f"  {'tint':<15} {np.round((warmth[2] - warmth[0]) / 1.683, 2)}")


def _print_gains() -> None:
    """Fitted / given of rendered tiles of three schemes: 10th, 50th, 90th percentile."""
    for scheme, staining in _RENDERED:
        pairs = _render(scheme, staining)
        print(f"{scheme}: {len(pairs)} tiles")
        for name in (*PREPARATION, "blur_px", "grain", "jpeg_quality"):
            given = {"eosin_density": "eosin", "dab_density": "dab"}.get(name, name)
            asked = np.array([getattr(appearance, given) for appearance, _ in pairs])
            if asked.max() > 0:
                ratio = np.array([getattr(slide, name) for _, slide in pairs]) / np.maximum(asked, 1e-6)
                print(f"  {name:<15} {np.round(np.quantile(ratio, [0.1, 0.5, 0.9]), 2)}")


def _render(scheme_name: str, staining: Staining, n: int = 48) -> list[tuple[StainAppearance, Slide]]:
    """Tiles as `factory make` draws them, without faults: the appearance of each, and the one fitted to it."""
    from factory.core.seeds import Stream, generator
    from factory.make.recipes.base import maker_of
    from factory.make.recipes.masks_and_renderer import prepare
    from factory.make.resolve import resolve_make
    from manifests.errors import UserError

    flags = {"n": n, "scheme": scheme_name} | ({} if scheme_name == "nuclei" else {"tps": "0.05-0.5"})
    faultless = ["renderer.scanner.focus=0", "renderer.scanner.fold=0", "renderer.scanner.sharpen=[0,0]"]
    config, scheme = resolve_make(flags, {}, None, faultless)
    prepared = prepare(config, scheme, Path("unused"), manifest=None, like=None, device="cpu")
    pairs = []
    for row, (image, tile, _) in zip(
        prepared.rows_of(0), maker_of(prepared.recipe).make(prepared.rows_of(0)), strict=True
    ):
        render_config = prepared.recipe.renderer.config
        assert isinstance(render_config, StainConfig)
        appearance = draw_appearance(render_config, staining, tile.mpp, generator(row["seed"], Stream.RENDER))
        try:
            pairs.append((appearance, fit_slides([image], staining, render_config, positive_labelled=True).slides[0]))
        except UserError:
            continue  # a tile with hardly any nucleus
    return pairs


def _print_shapes(folder: Path) -> None:
    """Outlines of annotated nuclei beside those of the mask generator `nuclei`."""
    names = [path.name for path in _paths(folder, SOURCES["MoNuSeg"])]
    real = [cv2.imread(str(folder / "nuclei_he_monuseg30/instances" / name), cv2.IMREAD_UNCHANGED) for name in names]
    from factory.make.recipes.base import maker_of
    from factory.make.recipes.masks_and_renderer import prepare
    from factory.make.resolve import resolve_make

    config, scheme = resolve_make({"n": 48, "scheme": "nuclei"}, {}, None, [])
    prepared = prepare(config, scheme, Path("unused"), manifest=None, like=None, device="cpu")
    drawn = [tile.instance for _, tile, _ in maker_of(prepared.recipe).make(prepared.rows_of(0))]
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
    from factory.renderers.stain.dyes import optical_density

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
