"""The renderer `exemplar`: real tissue in drawn layouts, without training.

The ground is quilted from patches of real slides that fit the layout; real nuclei are set into the drawn outlines; a
marker can be painted on. Where a pixel shows a nucleus or air is exact by construction. Whether a region looks like its
class is as likely as the bank's labels are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.bank.bank import Bank, open_bank
from factory.bank.collect import collect_once
from factory.bank.dyes import Dyes, dyes_like, dyes_of_slide, show_in_dyes
from factory.bank.shipped import bank_path, starter_bank_name
from factory.bank.stain_separation import estimate_stains
from factory.core.config import Config
from factory.core.resolutions import LEARNT_MPP
from factory.core.wording import plural
from factory.geometry.nuclear_maps import renumbered
from factory.plan.request import Request
from factory.renderers.base import RealPixels, Renderer
from factory.renderers.conditions import Condition, ConditionConfig
from factory.renderers.exemplar.compose import Composed, Settings, compose
from factory.renderers.exemplar.layout import TUMOUR, Classes, match_classes
from factory.renderers.exemplar.marker import he_to_counterstain, paint_marker, remove_marker
from factory.renderers.exemplar.marker_removal import MarkerKind
from factory.renderers.exemplar.quilting import Grid
from manifests.labels import LabelScheme

_STRIDE = 32
_COLLECT = (
    "collect one that does: factory train exemplar --data DATA, then --set renderer.bank=runs/train/exemplar, or add "
    "--like DATA"
)


class ExemplarConfig(Config):
    """Which bank, and how tiles are composed from it.

    Attributes:
        bank: a file of `factory train exemplar`, the folder of its run, or "starter".
        bank_sha256: filled in when a data set is planned; another bank under that name is then refused.
        look: number of the slide that tiles are composed from, or ``random``, another for every tile.
        mix: share of tiles with nuclei of one slide on the ground of another, colours matched in optical density.
        dyes: real images in whose light, dyes and densities the tissue is shown, a slide for each tile at random: a
            data set, a folder or an image. Labels are not needed, and their colours alone are taken. None keeps those
            of the bank.
        dyes_shown: filled in with what is measured of them when a data set is planned.
        look_jitter: largest relative change of the optical density of each colour channel of a tile.
        patch_px: side of the patches of a ground whose nuclei stay, a multiple of 24. Larger ones keep more of the
            architecture of the tissue, smaller ones follow the regions of the layout more closely.
        marker: what shows positive tumour: ``real``, positive tissue of the bank; ``painted``, negative tissue with the
            marker painted on it (`marker`); ``both``, either for half of the tiles; ``auto``, real where the bank has
            positive tissue of the same kind (in nuclei or on membranes), else painted.
        decoys: nucleus-shaped pieces of ground for each nucleus, so that an edge is no sign of a nucleus.
        vary: standard deviation of the optical density of a nucleus around its own.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"bank"})
    bank: str = "starter"
    bank_sha256: str | None = None
    look: Literal["random"] | int = "random"
    mix: float = Field(default=0.3, ge=0, le=1)
    dyes: str | None = None
    dyes_shown: tuple[Dyes, ...] = ()
    look_jitter: float = Field(default=0.1, ge=0, le=0.5)
    patch_px: int = Field(default=120, ge=48, le=240, multiple_of=24)
    marker: Literal["auto", "real", "painted", "both"] = "auto"
    decoys: float = Field(default=0.1, ge=0, le=4)
    vary: float = Field(default=0.06, ge=0, le=0.5)

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the bank, as manifests name it; see `factory.learn.base.NamesFile`."""
        return self.bank_sha256


class Exemplar(Renderer):
    """Composes images of real tissue on condition maps with class and instance ids."""

    condition = ConditionConfig(kind="labels")
    Config = ExemplarConfig
    config: ExemplarConfig

    @property
    def label_origin(self) -> Literal["exact", "conditioned"]:  # type: ignore[override]
        """``exact`` where the classes are nuclei, cells and air alone; a region of tissue is ``conditioned``."""
        regions = [
            each for each in self.bank.scheme.classes if not {"air", "nucleus", "tumour_positive"} & set(each.roles)
        ]
        return "exact" if len(regions) <= 1 and self.bank.has_nuclei else "conditioned"

    @cached_property
    def bank(self) -> Bank:
        """The bank, mapped into memory.

        Raises:
            UserError: when it is missing, damaged, or not the one of the sha256.
        """
        path = bank_path(self.config.bank)
        bank = open_bank(path)
        bank.card.refuse_other(path, self.config.bank_sha256, "make the data set anew")
        return bank

    @classmethod
    def known_schemes(cls, values: Mapping[str, Any]) -> tuple[LabelScheme, ...]:
        """Return the scheme of the bank that typed values name, for requests without a scheme."""
        return (open_bank(bank_path(str(values.get("bank", "starter")))).scheme,)

    @staticmethod
    def takes(scheme: LabelScheme, own: LabelScheme) -> bool:
        """Return True: classes are matched by role, see `refusal` for those that a bank lacks."""
        del scheme, own
        return True

    def starter(self) -> str | None:
        """Return the name of the starter bank that tiles are composed from; None for other banks."""
        return starter_bank_name(self.config.bank)

    def resolved_config(self) -> ExemplarConfig:
        """Return the config with the sha256 of the bank, and with the dyes that are shown, filled in."""
        update: dict[str, Any] = {"bank_sha256": self.bank.card.sha256}
        if self.config.dyes is not None and not self.config.dyes_shown:
            update["dyes_shown"] = dyes_like(Path(self.config.dyes), self.bank.mpp)
        return self.config.model_copy(update=update)

    def training_sources(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return slides and licences of the real pixels, and of the images whose colours are shown."""
        shown = self.config.dyes_shown
        licences = {*self.bank.card.fields["licences"], *(dyes.licence for dyes in shown if dyes.licence)}
        colours = (*self.bank.card.fields.get("colours_of", ()), *(dyes.source for dyes in shown))
        return (*self.bank.slides, *colours), tuple(sorted(licences))

    def input_notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return a note that the tiles hold real pixels, and whose."""
        del size
        licences = ", ".join(self.bank.card.fields["licences"])
        notes = [
            f"tiles hold real pixels of {len(self.bank.slides)} slides under {licences}: what these allow is allowed "
            "for the tiles"
        ]
        if self.config.bank == "starter":
            notes.append("the bank that ships is a pale counterstain; for tissue of your own add --like DATA")
        if self.config.dyes_shown:
            notes.append(
                f"tissue is shown in the dyes of {plural(len(self.config.dyes_shown), 'slide')}: colours, no pixels"
            )
        return tuple(notes)

    def refusal(self, request: Request) -> str | None:
        """Return why the bank cannot render masks of a request, or None."""
        bank = self.bank
        if abs(request.mpp - bank.mpp) > LEARNT_MPP * bank.mpp:
            return (
                f"mpp: the bank is of {bank.mpp:g} um per pixel, got {request.mpp:g}; make masks at that resolution "
                f"(--mpp {bank.mpp:g})"
            )
        if request.height % _STRIDE or request.width % _STRIDE:
            return f"size: exemplar draws multiples of {_STRIDE}, got {request.height}x{request.width}"
        if int(bank.pages[:, 1:3].min()) < self._grid.patch:
            return (
                f"renderer.patch_px: expected at most {int(bank.pages[:, 1:3].min())}, the smallest image of the bank"
            )
        look = self.config.look
        if isinstance(look, int) and not 0 <= look < len(bank.slides):
            return f"renderer.look: expected 0 to {len(bank.slides) - 1}, or random, got {look}"
        if self.config.marker in ("painted", "both") and not request.scheme.ids("tumour_positive"):
            return f"renderer.marker: expected auto or real, as {request.scheme.name} has no positive tumour"
        painted = self._paints(request.scheme) is not False
        if refused := self._dyes_refusal(painted):
            return refused
        missing = self._classes(request.scheme, painted).missing
        for label in request.scheme.classes:
            asked = None if request.fractions is None else request.fractions[label.id]
            if label.name in missing and asked != 0:
                held = ", ".join(bank.card.fields["classes"])
                return f"masks: the bank holds no {label.name} ({held}); {_COLLECT}"
            if "nucleus" in label.roles and not len(self._nuclei_of(request.scheme, painted)[label.id]):
                return f"masks: the bank holds no nucleus of class {label.name}; {_COLLECT}"
        return None

    def _dyes_refusal(self, painted: bool) -> str | None:
        stains = {dyes.stain for dyes in self.config.dyes_shown}
        if "he" in stains and not self.bank.is_he:
            return "renderer.dyes: expected immunostains, as the bank holds these, got H&E"
        if "he" in stains and painted:
            return "renderer.dyes: expected immunostains, as a marker is painted, got H&E"
        if stains and dyes_of_slide(self.bank, None) is None:
            return (
                "renderer.dyes: expected a bank with blue nuclei, whose dyes can be measured, got too few; leave it out"
            )
        return None

    def render(
        self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]
    ) -> list[npt.NDArray[np.uint8]]:
        """Compose the image of each condition map with its own generator: uint8 [H, W, 3], RGB."""
        return [image for image, _ in self.render_with_sources(conditions, rngs)]

    def render_with_sources(
        self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]
    ) -> list[tuple[npt.NDArray[np.uint8], RealPixels]]:
        """Compose the image of each condition map, and say of each whose pixels it holds; see `CopiesPixels`."""
        composed = [self.compose(each, rng) for each, rng in zip(conditions, rngs, strict=True)]
        return [(each.image, self._sources(each)) for each in composed]

    def _sources(self, composed: Composed) -> RealPixels:
        slides = self.bank.slides_of(composed.origin)
        licence_of = self.bank.card.fields["licence_of_slide"]
        return RealPixels(slides, tuple(sorted({licence_of[slide] for slide in slides})))

    @classmethod
    def fit_dataset(cls, root: Path) -> dict[str, str]:
        """Collect the bank of a data set, and keep it under the digest of its manifest; see `FitsDataset`."""
        return {"bank": str(collect_once(root))}

    def compose(self, condition: Condition, rng: np.random.Generator) -> Composed:
        """Compose one tile, with the pixel of the bank that each of its pixels was taken from.

        Raises:
            ValueError: when a condition is not int32 [2, H, W].
        """
        array, scheme = condition.array, condition.scheme
        if array.ndim != 3 or array.shape[0] != 2 or array.dtype != np.int32:
            raise ValueError(f"condition: expected int32 [2, H, W], got {array.dtype} {array.shape}")
        painted = self._paints(scheme)
        painted = bool(rng.random() < 0.5) if painted is None else painted
        instances = bool((array[1] > 0).any()) or any("nucleus" in each.roles for each in scheme.classes)
        settings = Settings(
            slide=None if self.config.look == "random" else int(self.config.look),
            mix=self.config.mix,
            decoys=self.config.decoys,
            vary=self.config.vary,
            instances=instances,
            label_of=self._nuclei_of(scheme, painted),
            grid=self._grid,
            unmarked=painted and not self.bank.is_he,
        )
        semantic, instance = array[0].astype(np.uint8), np.ascontiguousarray(array[1])
        composed = compose(self.bank, semantic, instance, self._classes(scheme, painted), settings, condition.mpp, rng)
        wanted = self._draw_dyes(composed.slides[1], rng)
        if painted:
            positive = positive_region(semantic, scheme)
            nuclei = renumbered(instance) if instances and self.bank.has_nuclei else None
            image = paint_on_tissue(self.bank, composed.image, positive, nuclei, scheme, condition.mpp, rng, wanted)
            composed = replace(composed, image=image)
        elif wanted:
            composed = replace(composed, image=show_in_dyes(composed.image, *wanted))
        if self.config.look_jitter:
            _jitter(composed.image, self.config.look_jitter, rng)
        return composed

    def _draw_dyes(self, slide: int, rng: np.random.Generator) -> tuple[Dyes, Dyes] | None:
        """Dyes that the tissue of a tile has, and those that it is shown in; None where it keeps its own."""
        shown = self.config.dyes_shown
        own = dyes_of_slide(self.bank, slide) if shown else None
        return (own, shown[int(rng.integers(len(shown)))]) if own else None

    @property
    def _grid(self) -> Grid:
        return Grid(self.config.patch_px, self.config.patch_px // 3)

    def _paints(self, scheme: LabelScheme) -> bool | None:
        """Whether the marker is painted on tiles of a scheme; None where on half of them."""
        if not scheme.ids("tumour_positive") or self.config.marker == "real":
            return False
        if self.config.marker != "auto":
            return True if self.config.marker == "painted" else None
        held = set(self.bank.card.fields["classes"])
        real = [each for each in self.bank.scheme.classes if "tumour_positive" in each.roles and each.name in held]
        return not real or marker_kind(self.bank.scheme) != marker_kind(scheme)

    def _classes(self, scheme: LabelScheme, painted: bool) -> Classes:
        return match_classes(scheme, self.bank.scheme, frozenset(self.bank.card.fields["classes"]), painted=painted)

    def _nuclei_of(self, scheme: LabelScheme, painted: bool) -> tuple[tuple[int, ...], ...]:
        """Classes of the bank's nuclei that are drawn for instances of each class of a scheme."""
        own = self.bank.scheme
        held = sorted({int(label) for label in np.unique(self.bank.nuclei.label)})
        found = []
        for each in scheme.classes:
            named = tuple(label for label in held if own.classes[label].name == each.name)
            roles = {*each.roles} - {"nucleus", "nuclear_marker"}
            if painted and roles & TUMOUR:  # their own marker is taken away
                named, roles = (), TUMOUR
            alike = tuple(label for label in held if roles & set(own.classes[label].roles))
            anything = not roles or "nucleus" not in each.roles or painted
            found.append(named or alike or tuple(held if anything else ()))
        return tuple(found)


def paint_on_tissue(
    bank: Bank,
    image: npt.NDArray[np.uint8],
    positive: npt.NDArray[np.bool_],
    nuclei: npt.NDArray[np.int32] | None,
    scheme: LabelScheme,
    mpp: float,
    rng: np.random.Generator,
    dyes: tuple[Dyes, Dyes] | None = None,
) -> npt.NDArray[np.uint8]:
    """Take a bank's own marker out of its tissue, and paint that of a scheme where it is positive; see `paint_marker`.

    Of H&E tissue eosin is taken out too. `dyes` are those of the tissue, and those that tissue and marker are shown in.
    """
    stains = None
    if bank.is_he:
        plain = image if dyes else he_to_counterstain(image, rng)
    else:
        stains = estimate_stains([image])  # of the tissue as it is: without its marker DAB is not seen
        plain = remove_marker(image, np.ones_like(positive), mpp, kind=marker_kind(bank.scheme), stains=stains)
    if dyes:
        plain, stains = show_in_dyes(plain, *dyes), dyes[1].stains
    return paint_marker(plain, positive, marker_kind(scheme), mpp, rng, nuclei, stains=stains)


def positive_region(semantic: npt.NDArray[np.uint8], scheme: LabelScheme) -> npt.NDArray[np.bool_]:
    """Where a mask is positive tumour, bool [H, W]; a pixel of the class `cell` is where the nearest tissue is."""
    is_positive, is_cell = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
    is_positive[list(scheme.ids("tumour_positive"))] = True
    is_cell[[each.id for each in scheme.classes if each.name == "cell"]] = True
    cells = is_cell[semantic]
    without_region = (cells | np.isin(semantic, scheme.ids("air"))).astype(np.uint8)
    if not cells.any() or without_region.all():
        return is_positive[semantic]
    _, places = cv2.distanceTransformWithLabels(without_region, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    region = np.zeros(int(places.max()) + 1, np.uint8)
    region[places[without_region == 0]] = semantic[without_region == 0]
    return is_positive[np.where(cells, region[places], semantic)]


def marker_kind(scheme: LabelScheme) -> MarkerKind:
    """Where the marker of a scheme is: in nuclei (Ki-67, cells) or on membranes (PD-L1)."""
    positive = [each for each in scheme.classes if "tumour_positive" in each.roles]
    return "nucleus" if any({"nuclear_marker", "nucleus"} & set(each.roles) for each in positive) else "membrane"


def _jitter(image: npt.NDArray[np.uint8], most: float, rng: np.random.Generator) -> None:
    """Scale the optical density of each channel, in place: another strength and tint of the stain."""
    levels = (np.arange(256) + 1) / 256
    for channel, factor in enumerate(1 + rng.uniform(-most, most) + rng.uniform(-most / 3, most / 3, 3)):
        table = np.clip(np.rint(256 * levels**factor - 1), 0, 255).astype(np.uint8)
        image[..., channel] = table[image[..., channel]]
