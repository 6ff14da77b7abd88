"""The contract of a trainer, over the table of all that learn: losses, gradients, samples, cards, names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from factory import joint, masks, renderers
from factory.core.registry import resolve
from factory.learn.crops import Tiles, open_tiles
from factory.learn.trainer import TrainerConfig
from factory.nets.stylegan2_losses import LazyAdam
from factory.train.generator import trainer_class, trainers
from manifests.errors import UserError
from manifests.labels import get_scheme
from tests.mask_training import SIZE, trainer_config, write_blobs

pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")

SCHEMES = ("tissue", "pdl1_cells")
DRAWS_NOISE = {"depas", "dcgan", "priorpath", "pix2pix", "sharpgan", "stylegan2"}
"""Trainers whose steps draw random numbers of their own, besides those of what they see."""

FOLLOWS = {"average"}
"""Networks that follow another and have no gradient of their own."""

TilesOf = Callable[[str], Tiles]


@pytest.fixture(scope="module")
def tiles_of(tmp_path_factory: pytest.TempPathFactory) -> TilesOf:
    """``tiles_of("tissue")``: six small masks of a scheme with their images."""
    folder, done = tmp_path_factory.mktemp("tiles"), dict[str, Tiles]()

    def opened(scheme: str) -> Tiles:
        if scheme not in done:
            write_blobs(folder / scheme, n=6, scheme=scheme)
            done[scheme] = open_tiles([folder / scheme], None, SIZE, 1)
        return done[scheme]

    return opened


def trainer_of(name: str, scheme: str = "tissue", **changes: Any) -> tuple[Any, TrainerConfig]:
    torch.manual_seed(0)
    config = trainer_config(name, **changes)
    trainer = trainer_class(name)(config, get_scheme(scheme), "cpu")
    for network in trainer.networks.values():
        network.train()
    return trainer, config


def crops_of(trainer: Any, tiles: Tiles, step: int = 0) -> list[np.ndarray]:
    drawn: list[np.ndarray] = trainer.draw_from(tiles)(step)
    return drawn


def without_gradient_by_design(network: torch.nn.Module) -> set[str]:
    """Biases of convolutions before an instance norm without affine, which takes every constant away again."""
    found = set()
    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Sequential):
            for position, (one, other) in enumerate(zip(list(module)[:-1], list(module)[1:], strict=True)):
                if isinstance(other, torch.nn.InstanceNorm2d) and getattr(one, "bias", None) is not None:
                    found.add(f"{path}.{position}.bias".lstrip("."))
    return found


def test_trainers_are_named_as_in_their_tables_and_by_table_where_both_have_the_name() -> None:
    assert set(trainers()) == {
        "depas", "dcgan", "priorpath", "masks/cyclegan", "pix2pixhd", "sharpgan", "pix2pix",
        "renderers/cyclegan", "stylegan2",
    }  # fmt: skip
    for part, table in (("masks", masks), ("renderers", renderers)):
        for name in table.TRAINABLE:
            names = table.MASKS if part == "masks" else table.RENDERERS
            assert (trainers().get(name) or trainers()[f"{part}/{name}"]) == names[name]
    assert trainer_class("masks/cyclegan") is not trainer_class("renderers/cyclegan")
    with pytest.raises(UserError, match="NAME: expected masks/cyclegan or renderers/cyclegan, got cyclegan"):
        trainer_class("cyclegan")
    assert trainers()["stylegan2"] == joint.JOINT["stylegan2"]
    with pytest.raises(UserError, match="got stain, which needs no training"):
        trainer_class("stain")
    with pytest.raises(UserError, match="got hdgan, which learns from annotated images"):
        trainer_class("hdgan")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", trainers())
def test_a_step_gives_finite_losses_and_moves_every_parameter_of_every_network(
    name: str, scheme: str, tiles_of: TilesOf
) -> None:
    trainer, _ = trainer_of(name, scheme)
    before = {n: {k: p.detach().clone() for k, p in net.named_parameters()} for n, net in trainer.networks.items()}
    losses = trainer.step(crops_of(trainer, tiles_of(scheme)), 0, 0)
    assert losses
    for loss, value in losses.items():
        assert loss.isidentifier()
        assert value.shape == ()
        assert not value.requires_grad
        assert torch.isfinite(value)
    for network_name, network in trainer.networks.items():
        still = {k for k, p in network.named_parameters() if torch.equal(p, before[network_name][k])}
        assert still <= without_gradient_by_design(network), network_name
        assert all(parameter.requires_grad != (network_name in FOLLOWS) for parameter in network.parameters())


@pytest.mark.parametrize("name", trainers())
def test_a_trainer_names_what_it_trains(name: str) -> None:
    trainer, config = trainer_of(name)
    assert trainer.kept in trainer.networks
    assert trainer.kind == resolve(trainers(), name, "NAME").kind
    names = [*trainer.networks, *trainer.optimisers]
    assert len(set(names)) == len(names)  # all of them are parts of one checkpoint
    assert not {"mean", "extra", "rng"} & set(names)
    assert not any("." in part for part in names)
    owned = [id(p) for o in trainer.optimisers.values() for group in o.param_groups for p in group["params"]]
    trainable = [id(p) for n, network in trainer.networks.items() if n not in FOLLOWS for p in network.parameters()]
    assert sorted(owned) == sorted(trainable)  # every parameter in one optimiser
    for optimiser in trainer.optimisers.values():
        betas = (config.beta1, config.beta2)
        # A lazy regulariser moves them nearer to 1 by a rule of its own, see tests/factory/nets/test_stylegan2.py.
        assert optimiser.defaults["betas"] == betas or (
            isinstance(optimiser, LazyAdam)
            and all(b <= own < 1 for b, own in zip(betas, optimiser.defaults["betas"], strict=True))
        )


@pytest.mark.parametrize("name", trainers())
def test_what_a_step_sees_is_a_function_of_the_step_alone(name: str, tiles_of: TilesOf) -> None:
    tiles = tiles_of("pdl1_cells")
    draw, again = (trainer_of(name, "pdl1_cells")[0].draw_from(tiles) for _ in range(2))
    once = [draw(step) for step in range(5)]
    for step in (3, 0, 4):
        assert len(again(step)) == len(once[step])
        for one, same in zip(once[step], again(step), strict=True):
            assert len(one) == 2  # the batch, whatever the kind of array
            np.testing.assert_array_equal(one, same)
    assert not np.array_equal(once[0][0], once[1][0])
    other = trainer_of(name, "pdl1_cells", seed=1)[0].draw_from(tiles)
    assert not np.array_equal(other(0)[0], once[0][0])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", trainers())
def test_a_trainer_shows_the_same_samples_beside_the_real_ones(name: str, scheme: str, tiles_of: TilesOf) -> None:
    trainer, _ = trainer_of(name, scheme, batch=3)
    crops = crops_of(trainer, tiles_of(scheme))
    network = trainer.networks[trainer.kept]
    columns, again = trainer.sample(network, crops), trainer.sample(network, crops)
    assert len(columns) >= 2
    for column, same in zip(columns, again, strict=True):
        assert column.dtype == np.uint8
        assert column.shape in ((3, *SIZE), (3, *SIZE, 3))
        assert column.ndim == 4 or column.max() < len(get_scheme(scheme))
        np.testing.assert_array_equal(column, same)
    real = [crop for crop in crops if crop.dtype == np.uint8]
    assert any(np.array_equal(column, crop) for column in columns for crop in real)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", trainers())
def test_the_card_builds_a_network_that_takes_the_weights(name: str, scheme: str, tiles_of: TilesOf) -> None:
    trainer, _ = trainer_of(name, scheme)
    trainer.step(crops_of(trainer, tiles_of(scheme)), 0, 0)
    card = json.loads(json.dumps(trainer.card()))
    network = resolve(trainers(), name, "NAME").build(card["network"])
    network.load_state_dict(trainer.networks[trainer.kept].state_dict())


@pytest.mark.parametrize("name", trainers())
def test_a_step_is_a_function_of_its_number_and_of_what_it_sees(name: str, tiles_of: TilesOf) -> None:
    outcomes = []
    for number in (0, 0, 7):
        trainer, _ = trainer_of(name)
        trainer.step(crops_of(trainer, tiles_of("tissue")), number, 0)
        outcomes.append(torch.cat([p.detach().flatten() for p in trainer.networks[trainer.kept].parameters()]))
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2]) == (name not in DRAWS_NOISE)


def test_priorpath_learns_two_views_by_heart(tiles_of: TilesOf) -> None:
    changes = {"network": {"width": 8, "depth": 4, "norm": "batch", "dropout": 0.0}, "learning_rate": 5e-3}
    trainer, _ = trainer_of("priorpath", loss={"adversarial": 0, "l1": 10}, **changes)
    crops = crops_of(trainer, tiles_of("tissue"))
    losses = [float(trainer.step(crops, step, 0)["l1"]) for step in range(60)]
    assert losses[-1] < 0.3 * losses[0]


def test_the_scale_of_depas_noise_starts_at_zero_and_moves(tiles_of: TilesOf) -> None:
    trainer, _ = trainer_of("depas")
    scale = trainer.networks["generator"].noise_scale
    assert not scale.any()
    trainer.step(crops_of(trainer, tiles_of("tissue")), 0, 0)
    assert (scale != 0).all()


def test_losses_of_no_weight_are_not_computed_and_every_term_of_the_presets_is(tiles_of: TilesOf) -> None:
    paper = {
        "loss": {"adversarial": 1, "l1": 0, "feature": 1, "mean_prediction": 1},
        "discriminators": 2,
        "discriminator_depth": 1,
    }
    trainer, _ = trainer_of("priorpath", **paper)
    assert set(trainer.step(crops_of(trainer, tiles_of("tissue")), 0, 0)) == {
        "adversarial",
        "feature",
        "mean_prediction",
        "discriminators",
    }
    trainer, _ = trainer_of("priorpath")
    assert set(trainer.step(crops_of(trainer, tiles_of("tissue")), 0, 0)) == {"adversarial", "l1", "discriminators"}


@pytest.mark.parametrize("name", ["priorpath", "pix2pixhd"])
def test_adversarial_losses_are_a_mean_or_a_sum_over_the_discriminators(name: str, tiles_of: TilesOf) -> None:
    losses = []
    for summed in (False, True):
        trainer, _ = trainer_of(name, discriminators=2, discriminator_depth=1, sum_discriminators=summed)
        step = trainer.step(crops_of(trainer, tiles_of("tissue")), 0, 0)
        losses.append({term: float(step[term]) for term in ("discriminators", "adversarial")})
    assert losses[1]["discriminators"] == pytest.approx(2 * losses[0]["discriminators"])
    assert losses[1]["adversarial"] == pytest.approx(2 * losses[0]["adversarial"], rel=0.01)  # Adam has an epsilon


def test_priorpaths_discriminators_have_a_loss_of_their_own(tiles_of: TilesOf) -> None:
    for kind, expected in (("lsgan", 0.5), (None, 2 * math.log(2) / 2)):
        trainer, _ = trainer_of("priorpath", discriminator_depth=1, discriminator_loss=kind)
        torch.nn.init.zeros_(trainer.networks["discriminators"].discriminators[0].stages[-1][0].weight)  # logits of 0
        loss = trainer.step(crops_of(trainer, tiles_of("tissue")), 0, 0)["discriminators"]
        assert float(loss) == pytest.approx(expected)


def test_cyclegan_learns_the_identity_only_where_it_counts(tiles_of: TilesOf) -> None:
    outcomes = []
    for weight in (0.0, 5.0):
        trainer, _ = trainer_of("masks/cyclegan", identity=weight)
        trainer.step(crops_of(trainer, tiles_of("tissue")), 0, 0)
        outcomes.append(next(trainer.networks["to_fine"].parameters()).detach().clone())
    assert not torch.equal(*outcomes)
