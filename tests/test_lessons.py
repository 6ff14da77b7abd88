"""The contract of a lesson, over the table of generators that learn: losses, gradients, samples, cards, names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from factory.core.registry import resolve
from factory.masks import MASKS, TRAINABLE
from factory.training import LessonConfig
from factory.training_run import lesson_class
from manifests.labels import get_scheme
from tests.mask_training import SIZE, blobs, lesson_config

pytestmark = pytest.mark.usefixtures("one_thread")


def lesson_of(name: str, scheme: str = "tissue", **changes: Any) -> tuple[Any, LessonConfig]:
    torch.manual_seed(0)
    config = lesson_config(name, **changes)
    lesson = lesson_class(name)(config, get_scheme(scheme), "cpu")
    for network in lesson.networks.values():
        network.train()
    return lesson, config


def views_of(lesson: Any, scheme: str = "tissue", batch: int = 2, first: int = 0) -> list[np.ndarray]:
    classes = len(get_scheme(scheme))
    return [
        np.stack([blobs(first + 100 * stream + place, classes, SIZE) for place in range(batch)])
        for stream in range(lesson.streams)
    ]


def without_gradient_by_design(network: torch.nn.Module) -> set[str]:
    """Biases of convolutions before an instance norm without affine, which takes every constant away again."""
    found = set()
    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Sequential):
            for position, (one, other) in enumerate(zip(list(module)[:-1], list(module)[1:], strict=True)):
                if isinstance(other, torch.nn.InstanceNorm2d) and getattr(one, "bias", None) is not None:
                    found.add(f"{path}.{position}.bias".lstrip("."))
    return found


@pytest.mark.parametrize("scheme", ["tissue", "pdl1_cells"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_a_step_gives_finite_losses_and_moves_every_parameter_of_every_network(name: str, scheme: str) -> None:
    lesson, _ = lesson_of(name, scheme)
    before = {n: {k: p.detach().clone() for k, p in net.named_parameters()} for n, net in lesson.networks.items()}
    losses = lesson.step(views_of(lesson, scheme), 0, 0)
    assert losses
    for loss, value in losses.items():
        assert loss.isidentifier()
        assert value.shape == ()
        assert not value.requires_grad
        assert torch.isfinite(value)
    for network_name, network in lesson.networks.items():
        still = {k for k, p in network.named_parameters() if torch.equal(p, before[network_name][k])}
        assert still <= without_gradient_by_design(network), network_name
        assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_lesson_names_what_it_trains(name: str) -> None:
    lesson, config = lesson_of(name)
    assert lesson.kept in lesson.networks
    assert lesson.streams >= 1
    names = [*lesson.networks, *lesson.optimisers]
    assert len(set(names)) == len(names)  # all of them are parts of one checkpoint
    assert not {"mean", "extra", "rng"} & set(names)
    assert not any("." in part for part in names)
    owned = [id(p) for o in lesson.optimisers.values() for group in o.param_groups for p in group["params"]]
    trainable = [id(p) for network in lesson.networks.values() for p in network.parameters()]
    assert sorted(owned) == sorted(trainable)  # every parameter in one optimiser
    for optimiser in lesson.optimisers.values():
        assert optimiser.defaults["betas"] == (config.beta1, config.beta2)


@pytest.mark.parametrize("scheme", ["tissue", "pdl1_cells"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_a_lesson_shows_the_same_samples_of_the_classes_of_the_scheme(name: str, scheme: str) -> None:
    lesson, _ = lesson_of(name, scheme)
    views = views_of(lesson, scheme, batch=3)
    network = lesson.networks[lesson.kept]
    columns, again = lesson.sample(network, views), lesson.sample(network, views)
    assert len(columns) >= 2
    assert {column.shape for column in columns} == {(3, *SIZE)}
    for column, same in zip(columns, again, strict=True):
        assert column.dtype == np.uint8
        assert column.max() < len(get_scheme(scheme))
        np.testing.assert_array_equal(column, same)
    assert any(np.array_equal(column, views[0]) for column in columns)  # the real ones, beside


@pytest.mark.parametrize("scheme", ["tissue", "pdl1_cells"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_the_card_builds_a_network_that_takes_the_weights(name: str, scheme: str) -> None:
    lesson, _ = lesson_of(name, scheme)
    lesson.step(views_of(lesson, scheme), 0, 0)
    card = json.loads(json.dumps(lesson.card()))
    network = resolve(MASKS, name, "--masks").build(card["network"])
    network.load_state_dict(lesson.networks[lesson.kept].state_dict())


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_step_is_a_function_of_its_number_and_of_what_it_sees(name: str) -> None:
    outcomes = []
    for number in (0, 0, 7):
        lesson, _ = lesson_of(name)
        lesson.step(views_of(lesson), number, 0)
        outcomes.append(torch.cat([p.detach().flatten() for p in lesson.networks[lesson.kept].parameters()]))
    assert torch.equal(outcomes[0], outcomes[1])
    if name != "cyclegan":  # which draws no noise, and whose history is still empty
        assert not torch.equal(outcomes[0], outcomes[2])


def test_priorpath_learns_two_views_by_heart() -> None:
    changes = {"network": {"width": 8, "depth": 4, "norm": "batch", "dropout": 0.0}, "learning_rate": 5e-3}
    lesson, _ = lesson_of("priorpath", loss={"adversarial": 0, "l1": 10}, **changes)
    views = views_of(lesson)
    losses = [float(lesson.step(views, step, 0)["l1"]) for step in range(60)]
    assert losses[-1] < 0.3 * losses[0]


def test_the_scale_of_depas_noise_starts_at_zero_and_moves() -> None:
    lesson, _ = lesson_of("depas")
    scale = lesson.networks["generator"].noise_scale
    assert not scale.any()
    lesson.step(views_of(lesson), 0, 0)
    assert (scale != 0).all()


def test_losses_of_no_weight_are_not_computed_and_every_term_of_the_presets_is() -> None:
    paper = {"loss": {"adversarial": 1, "l1": 0, "feature": 1, "mean_prediction": 1}, "judges": 2, "judge_depth": 1}
    lesson, _ = lesson_of("priorpath", **paper)
    assert set(lesson.step(views_of(lesson), 0, 0)) == {"adversarial", "feature", "mean_prediction", "judges"}
    lesson, _ = lesson_of("priorpath")
    assert set(lesson.step(views_of(lesson), 0, 0)) == {"adversarial", "l1", "judges"}


def test_cyclegan_learns_the_identity_only_where_it_counts() -> None:
    outcomes = []
    for weight in (0.0, 5.0):
        lesson, _ = lesson_of("cyclegan", identity=weight)
        lesson.step(views_of(lesson), 0, 0)
        outcomes.append(next(lesson.networks["to_fine"].parameters()).detach().clone())
    assert not torch.equal(*outcomes)
