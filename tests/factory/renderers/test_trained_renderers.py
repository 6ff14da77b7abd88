"""Images drawn with trained weights: the contract of a renderer, and weights and requests that do not fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from factory.core.checkpoints import BEST, LAST, read_checkpoint, write_weights
from factory.core.config import parse
from factory.core.registry import resolve
from factory.core.seeds import Stream, generator
from factory.core.starters import STARTER
from factory.core.weights import read_card
from factory.learn.weights import scheme_of
from factory.nets.stitching import to_pixels
from factory.plan.request import Request
from factory.renderers import RENDERERS, TRAINABLE
from factory.renderers.conditions import Condition, ConditionConfig, draw_condition
from factory.renderers.learned.renderer import WEIGHTS_KIND, TrainedRenderer, to_network
from factory.starter.pack import LARGEST_BYTES, pack
from manifests.errors import FaultError, UserError
from manifests.labels import IGNORE, LabelClass, LabelScheme, get_scheme
from manifests.tile import Tile
from tests.mask_training import NOISE, SIZE, blobs, trained_once, write_blobs

Weights = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")

KI67 = get_scheme("ki67")
LIKE_LIGHT = {
    "width": 4, "downs": 3, "blocks": 1, "kernel": 3, "upsampling": "resize", "norm": "batch", "modulated": True,
}  # fmt: skip
LONGER = {"steps": 40, "look_every": 40, "learning_rate": 5e-3}
"""Until a batch norm's running means, which are drawn with, are near those of the batches."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in TRAINABLE},
    "pix2pixhd like the light preset": ("pix2pixhd", {"network": LIKE_LIGHT, **LONGER}),
    "pix2pixhd like the paper's": ("pix2pixhd", {"network": {"width": 4, "downs": 3, "blocks": 2}, "look": False}),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """``weights("pix2pix")``: the run folder of a renderer that was trained on ki67 for a few steps, made once."""
    run = trained_once(tmp_path_factory.mktemp("weights"), "renderers")
    return lambda name, scheme="ki67", **changes: run(name, scheme, **changes)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, weights: Weights) -> Callable[..., Any]:
    """``variant(look=0)``: a renderer of each kind, with its weights."""
    name, changes = VARIANTS[request.param]
    return lambda **values: build(name, weights(name, **changes), **values)


def build(name: str, run: Path, **values: Any) -> Any:
    part = resolve(RENDERERS, name, "--renderer")
    config = parse(part.Config, {"weights": str(run), "precision": "fp32", **values}, "renderer")
    return part(part(config, "cpu").resolved_config())


def condition_for(renderer: Any, seed: int = 0, size: tuple[int, int] = SIZE) -> Condition:
    tile = Tile(blobs(seed, 4, size), np.zeros(size, np.int32), 0.5, KI67)
    return draw_condition(renderer.condition, tile, generator(seed, Stream.CONDITION))


def rendered(renderer: Any, seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    (image,) = renderer.render([condition_for(renderer, 0, size)], [generator(seed, Stream.RENDER)])
    return image  # type: ignore[no-any-return]


def request_for(height: int = SIZE[0], width: int = SIZE[1], **more: Any) -> Request:
    return Request(height, width, 0.5, KI67, **more)


# The contract of a renderer.


def test_the_renderers_that_learn_are_those_of_the_table() -> None:
    learn = [name for name in RENDERERS if issubclass(resolve(RENDERERS, name, "--renderer"), TrainedRenderer)]
    assert tuple(learn) == TRAINABLE
    for name in TRAINABLE:
        part = resolve(RENDERERS, name, "--renderer")
        assert (part.name, part.label_origin, part.part) == (name, "conditioned", "renderer")
        assert part.Trainer.kind == part.kind == WEIGHTS_KIND


def test_other_seeds_give_other_images_where_there_are_looks_or_noise(variant: Callable[..., Any]) -> None:
    renderer = variant()
    images = {rendered(renderer, seed).tobytes() for seed in range(8)}
    looks = len(renderer.card.fields["looks"])
    assert looks in (0, 3)  # slides of the training data
    assert len(images) == (8 if renderer.noise_channels else max(looks, 1))


def test_the_look_that_is_asked_for_is_drawn_whatever_the_seed(weights: Weights) -> None:
    run = weights("pix2pixhd")
    by_look = [{rendered(build("pix2pixhd", run, look=look), seed).tobytes() for seed in range(3)} for look in range(3)]
    assert [len(images) for images in by_look] == [1, 1, 1]
    assert len(set.union(*by_look)) == 3
    drawn = build("pix2pixhd", run)
    assert {rendered(drawn, seed).tobytes() for seed in range(12)} == set.union(*by_look)


def test_jitter_gives_more_looks_than_there_are_slides(weights: Weights) -> None:
    run = weights("pix2pixhd")
    images = {rendered(build("pix2pixhd", run, look_jitter=0.1), seed).tobytes() for seed in range(8)}
    assert len(images) == 8
    near, far = (
        np.mean([np.abs(rendered(build("pix2pixhd", run, look=0, look_jitter=j), seed).astype(int)
                        - rendered(build("pix2pixhd", run, look=0), seed)).mean() for seed in range(6)])
        for j in (0.02, 0.3)
    )  # fmt: skip
    assert 0 < near < far
    plain = build("pix2pixhd", weights("pix2pixhd", look=False), look_jitter=0.1)
    assert plain.refusal(request_for()) == "renderer.look_jitter: expected 0, as the weights know no look, got 0.1"


def test_what_is_drawn_is_what_the_network_says(variant: Callable[..., Any]) -> None:
    renderer = variant(**({"look": 1} if variant().card.fields["looks"] else {}))
    card = renderer.card.fields
    condition = condition_for(renderer)
    colours = torch.tensor([card["looks"][1]]) if card["looks"] else None
    seen = to_network(torch.from_numpy(condition.array)[None], 5, colours)
    noise = generator(7, Stream.RENDER).standard_normal((1, renderer.noise_channels, *SIZE), np.float32)
    network = renderer.build(card["network"])
    network.load_state_dict(read_checkpoint(renderer.path_of(renderer.config), WEIGHTS_KIND).tensors)
    with torch.inference_mode():
        said = to_pixels(network.eval()(torch.cat([seen, torch.from_numpy(noise)], 1)))[0]
    assert np.abs(rendered(renderer, 7).astype(int) - said).max() <= 1


def test_bfloat16_draws_nearly_the_same_image(variant: Callable[..., Any]) -> None:
    one, other = (rendered(variant(precision=precision), 3).astype(int) for precision in ("fp32", "bf16"))
    assert 0 < np.abs(one - other).mean() < 2


def test_the_image_follows_the_mask(weights: Weights) -> None:
    renderer = build("pix2pixhd", weights("pix2pixhd"), look=0)
    condition = condition_for(renderer)
    for value in (1, 2, 3, 4, IGNORE):
        labels = condition.array.copy()
        labels[8:24, 8:24] = value
        changed = dataclasses.replace(condition, array=labels)
        (image,) = renderer.render([changed], [generator(0, Stream.RENDER)])
        assert (image != rendered(renderer, 0)).any()


def test_a_tile_larger_than_a_window_is_stitched_from_windows(variant: Callable[..., Any]) -> None:
    size = (288, 320)
    whole, stitched = (rendered(variant(window_px=window), 0, size).astype(int) for window in (512, 256))
    assert stitched.shape == (*size, 3)
    np.testing.assert_array_equal(stitched, rendered(variant(window_px=256), 0, size))
    assert np.abs(whole - stitched).mean() < 6  # norms of samples of the tile, not of all of it


def test_to_network_is_one_hot_and_tells_the_colour_of_each_pixels_class() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (2, 6, 7)).astype(np.uint8)
    labels[0, 0, :3] = IGNORE
    colours = rng.normal(size=(2, 4, 3)).astype(np.float32)
    found = to_network(torch.from_numpy(labels), 5, torch.from_numpy(colours)).numpy()
    expected = np.zeros((2, 8, 6, 7), np.float32)
    for place, y, x in np.ndindex(labels.shape):
        label = labels[place, y, x]
        if label < 5:
            expected[place, label, y, x] = 1
        if label < 4:  # the noise label has no colour
            expected[place, 5:, y, x] = colours[place, label]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(to_network(torch.from_numpy(labels), 5, None).numpy(), expected[:, :5])


# Refused requests.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scheme": get_scheme("pdl1")}, "scheme: the weights of .* draw ki67, got pdl1"),
        ({"scheme": get_scheme("ki67_cells")}, "scheme: the weights of .* draw ki67, got ki67_cells"),
        ({"mpp": 0.25}, "mpp: the weights of .* were trained at 0.5 um per pixel, got 0.25"),
        ({"height": 40}, "size: .* draws multiples of 32, got 40x64"),
        ({"width": 500}, "size: .* draws multiples of 32, got 32x500"),
    ],
)
def test_a_request_that_the_weights_cannot_render_is_refused(
    changes: dict[str, Any], said: str, variant: Callable[..., Any]
) -> None:
    renderer = variant()
    assert renderer.refusal(request_for(tps=0.5)) is None
    refusal = renderer.refusal(dataclasses.replace(request_for(), **changes))
    assert refusal is not None
    assert re.search(said, refusal), refusal


def test_a_deep_unet_draws_multiples_of_its_own(weights: Weights, tmp_path: Path) -> None:
    whole = read_checkpoint(weights("pix2pix") / BEST, WEIGHTS_KIND)
    network = {**whole.card["network"], "depth": 6}
    write_weights(tmp_path / "w.safetensors", whole.tensors, {**whole.card, "network": network})
    renderer = build("pix2pix", tmp_path / "w.safetensors")
    assert renderer.refusal(request_for(64, 128)) is None
    assert renderer.refusal(request_for(64, 96)) == "size: pix2pix draws multiples of 64, got 64x96"


@pytest.mark.parametrize(
    ("look", "variant_changes", "said"),
    [
        (3, {}, "renderer.look: expected 0 to 2, or random, got 3"),
        (-1, {}, "renderer.look: expected 0 to 2, or random, got -1"),
        (0, {"look": False}, "renderer.look: expected random, as the weights know none, got 0"),
    ],
)
def test_a_look_that_the_weights_do_not_know_is_refused(
    look: int, variant_changes: dict[str, Any], said: str, weights: Weights
) -> None:
    assert build("pix2pixhd", weights("pix2pixhd", **variant_changes), look=look).refusal(request_for()) == said


def without_class(run: Path, name: str, path: Path) -> Path:
    """Weights that never saw a class, as their card says."""
    whole = read_checkpoint(run / BEST, WEIGHTS_KIND)
    classes = [label for label in whole.card["classes"] if label != name]
    write_weights(path, whole.tensors, {**whole.card, "classes": classes})
    return path


def test_a_class_that_the_weights_never_saw_is_refused_unless_the_request_leaves_it_out(
    weights: Weights, tmp_path: Path
) -> None:
    path = without_class(weights("pix2pix", "pdl1"), "inflammation", tmp_path / "w.safetensors")
    renderer, scheme = build("pix2pix", path), get_scheme("pdl1")
    asked = Request(*SIZE, 0.5, scheme)
    said = "masks: the weights of pix2pix never saw inflammation, and the masks hold it; ask for --inflammation 0"
    assert renderer.refusal(asked) == said
    assert renderer.refusal(dataclasses.replace(asked, fractions=(0.2, 0.1, 0.3, 0.3, 0.1))) == said
    assert renderer.refusal(dataclasses.replace(asked, fractions=(0.3, 0.0, 0.3, 0.3, 0.1))) is None
    path = without_class(weights("pix2pix"), "air", tmp_path / "v.safetensors")
    assert "never saw air, and the masks hold it; use other weights" in str(
        build("pix2pix", path).refusal(request_for())
    )


def test_a_mask_that_holds_a_class_that_the_weights_never_saw_is_not_drawn(weights: Weights, tmp_path: Path) -> None:
    path = without_class(weights("pix2pixhd"), "air", tmp_path / "w.safetensors")
    renderer = build("pix2pixhd", path)
    condition = condition_for(renderer)
    with pytest.raises(FaultError, match=r"--renderer pix2pixhd: expected masks of .*got class 3, which the weights"):
        renderer.render([condition], [generator(0, Stream.RENDER)])
    labels = np.where(condition.array == 3, np.uint8(IGNORE), condition.array)
    renderer.render([dataclasses.replace(condition, array=labels)], [generator(0, Stream.RENDER)])


def test_values_that_the_condition_map_does_not_have_are_not_drawn(weights: Weights) -> None:
    renderer = build("pix2pixhd", weights("pix2pixhd", condition={"kind": "polygons"}))
    condition = condition_for(renderer)
    condition.array[0, 0] = 4  # the noise label, which these weights have not
    with pytest.raises(FaultError, match="got class 4"):
        renderer.render([condition], [generator(0, Stream.RENDER)])


# Weights that are not what they should be.


def settle(name: str, path: Path, **values: Any) -> Any:
    part = resolve(RENDERERS, name, "--renderer")
    return part(parse(part.Config, {"weights": str(path), **values}, "renderer"), "cpu").resolved_config()


@pytest.mark.parametrize("name", TRAINABLE)
def test_weights_of_another_renderer_are_refused(name: str, weights: Weights) -> None:
    other = TRAINABLE[(TRAINABLE.index(name) + 1) % len(TRAINABLE)]
    with pytest.raises(UserError, match=f"expected weights of {name}, got those of {other}. Use --renderer {other}"):
        settle(name, weights(other))


def test_weights_of_masks_are_not_those_of_a_renderer_of_that_name(weights: Weights, tmp_path: Path) -> None:
    masks = trained_once(tmp_path)("cyclegan")
    with pytest.raises(UserError, match=r"expected a file of kind renderer-weights, got generator-weights"):
        settle("cyclegan", masks)
    with pytest.raises(UserError, match=r"expected a file of kind renderer-weights, got generator-state"):
        settle("cyclegan", weights("cyclegan") / LAST)


def test_damaged_weights_are_refused(weights: Weights, tmp_path: Path) -> None:
    path, whole = tmp_path / "w.safetensors", (weights("pix2pixhd") / BEST).read_bytes()
    for place in (-1, -5000, len(whole) // 2, 500):
        content = bytearray(whole)
        content[place] ^= 4
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(str(path))):
            settle("pix2pixhd", path)
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="damaged"):
        settle("pix2pixhd", path)


def test_weights_that_do_not_fit_their_card_are_refused(weights: Weights, tmp_path: Path) -> None:
    whole = read_checkpoint(weights("pix2pixhd") / BEST, WEIGHTS_KIND)
    shape = {**whole.card["network"], "blocks": 2}
    write_weights(tmp_path / "w.safetensors", whole.tensors, {**whole.card, "network": shape})
    with pytest.raises(UserError, match="weights that fit their card"):
        rendered(build("pix2pixhd", tmp_path / "w.safetensors"), 0)


def test_settling_spells_out_the_weights_and_the_precision(weights: Weights) -> None:
    run = weights("cyclegan")
    settled = settle("cyclegan", run)
    assert settled.weights_sha256 == read_card(run / BEST).sha256
    assert settled.precision in ("fp32", "bf16")
    assert settle("cyclegan", run, weights_sha256=settled.weights_sha256) == settled
    with pytest.raises(UserError, match="expected the weights 000000000000"):
        settle("cyclegan", run, weights_sha256="0" * 64)


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_a_renderer_without_starter_weights_says_what_to_name(name: str) -> None:
    with pytest.raises(UserError, match=rf"--renderer {name}: expected --set renderer\.weights=FILE"):
        settle(name, Path("starter"))


def test_a_window_smaller_than_networks_see_is_refused(weights: Weights) -> None:
    with pytest.raises(UserError, match=r"window_px: .*greater than or equal to 256"):
        settle("pix2pixhd", weights("pix2pixhd"), window_px=128)


def test_the_card_says_what_the_weights_are(weights: Weights) -> None:
    fields = read_card(weights("pix2pixhd") / BEST, WEIGHTS_KIND).fields
    assert fields["generator"] == "pix2pixhd"
    assert fields["scheme"] == KI67.to_dict()
    assert fields["classes"] == list(KI67.names)
    assert fields["condition"] == ConditionConfig.model_validate(NOISE).model_dump(mode="json")
    assert fields["sources"] == [f"ki67/slide-{n}" for n in range(3)]
    assert fields["licences"] == ["licence of ki67"]
    assert (fields["mpp"], fields["trained_size"], fields["tiles"]) == (0.5, list(SIZE), 4)
    assert "not for diagnosis" in fields["use"]


def test_a_scheme_of_that_name_with_other_classes_is_another(weights: Weights) -> None:
    own = LabelScheme("ki67", (*KI67.classes, LabelClass(4, "ink", (0, 0, 0))))
    refusal = build("pix2pix", weights("pix2pix")).refusal(dataclasses.replace(request_for(), scheme=own))
    assert refusal is not None
    assert "scheme" in refusal


# What comes with the package.


@pytest.mark.parametrize("name", TRAINABLE)
def test_packed_weights_are_half_as_large_and_draw_the_same_image(name: str, weights: Weights, tmp_path: Path) -> None:
    run = weights(name)
    path = pack(run, f"{name}-test", tmp_path)
    assert path.stat().st_size < 0.75 * (run / BEST).stat().st_size  # cards are as long as ever
    one, other = (rendered(build(name, weights_of), 0).astype(int) for weights_of in (run, path))
    assert np.abs(one - other).max() <= 2
    assert read_card(path, WEIGHTS_KIND).fields["stored_as"] == "float16"
    with pytest.raises(UserError, match=f"NAME: expected {name}-WHAT, got 'depas-test'"):
        pack(run, "depas-test", tmp_path)


def test_looks_can_be_left_off_a_packed_card(weights: Weights, tmp_path: Path) -> None:
    run = weights("pix2pixhd")
    looks = read_card(run / BEST, WEIGHTS_KIND).fields["looks"]
    path = pack(run, "pix2pixhd-test", tmp_path, without_looks=[1])
    assert read_card(path, WEIGHTS_KIND).fields["looks"] == [looks[0], looks[2]]
    with pytest.raises(UserError, match="--without-looks: expected numbers below 3, got 3"):
        pack(run, "pix2pixhd-other", tmp_path, without_looks=[0, 3])
    assert not (tmp_path / "pix2pixhd-other.safetensors").exists()


def test_looks_of_a_training_on_copied_tiles_are_those_of_the_slides(weights: Weights, tmp_path: Path) -> None:
    slides = weights("pix2pixhd")
    best = read_checkpoint(slides / BEST, WEIGHTS_KIND)
    copied = {"looks": best.card["looks"] * 9, "sources": [*best.card["sources"], "copies/t-1"]}
    write_weights(tmp_path / BEST, best.tensors, best.card | copied)
    path = pack(tmp_path, "pix2pixhd-test", tmp_path, looks_of=slides.parent / "ki67", without_looks=[0])
    card = read_card(path, WEIGHTS_KIND).fields
    assert (card["looks"], card["sources"]) == (best.card["looks"][1:], best.card["sources"])
    write_blobs(tmp_path / "other", n=1, scheme="ki67")
    with pytest.raises(UserError, match=r"--looks-of: expected slides that the run learnt from, got other/"):
        pack(tmp_path, "pix2pixhd-test", tmp_path, looks_of=tmp_path / "other")


STARTERS = [path for path in sorted(STARTER.glob("*.safetensors")) if read_card(path).kind == WEIGHTS_KIND]


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.stem)
def test_starter_weights_are_small_known_and_draw(path: Path) -> None:
    card = read_card(path, WEIGHTS_KIND)
    name, scheme = card.fields["generator"], scheme_of(card)
    assert path.stat().st_size <= LARGEST_BYTES
    assert path.stem.startswith(f"{name}-")
    assert card.fields["sources"]
    assert card.fields["licences"]
    assert "not for diagnosis" in card.fields["use"]
    renderer = build(name, path)
    request = Request(128, 128, card.fields["mpp"], scheme)
    assert renderer.refusal(request) is None
    labels = blobs(0, len(scheme), (128, 128))
    instance, _ = ndimage.label(labels == 1) if scheme.ids("nucleus") else (np.zeros_like(labels), 0)
    tile = Tile(labels, instance.astype(np.int32), request.mpp, scheme)
    condition = draw_condition(renderer.condition, tile, generator(0, Stream.CONDITION))
    (image,) = renderer.render([condition], [generator(0, Stream.RENDER)])
    colours = np.array([image[tile.semantic == label.id].mean(0) for label in scheme.classes])
    (empty,), (dark,) = (scheme.ids("air"), scheme.ids("tumour_positive")) if name != "sharpgan" else ((0,), (1,))
    assert colours[empty].mean() > colours[dark].mean() + 20  # air and background are light, and stain is not
