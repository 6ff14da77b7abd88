"""Losses of generators and discriminators, by hand, and CycleGAN's history buffer of generated masks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from factory.core.seeds import Stream, generator
from factory.nets.discriminators import mixed_with_history
from factory.nets.objectives import adversarial_loss, feature_matching


def test_discriminators_by_cross_entropy_by_hand() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0])
    real = np.mean([-math.log(1 / (1 + math.exp(-x))) for x in (0.0, 2.0, -1.0)])
    made = np.mean([-math.log(1 - 1 / (1 + math.exp(-x))) for x in (0.0, 2.0, -1.0)])
    assert float(adversarial_loss(logits, True, "bce")) == pytest.approx(real, rel=1e-6)
    assert float(adversarial_loss(logits, False, "bce")) == pytest.approx(made, rel=1e-6)
    assert (
        float(adversarial_loss(torch.tensor([-500.0]), True, "bce")) == 500.0
    )  # no overflow, and a slope to learn from


def test_discriminators_by_least_squares_by_hand() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0])
    assert float(adversarial_loss(logits, True, "lsgan")) == pytest.approx((1 + 1 + 4) / 3)
    assert float(adversarial_loss(logits, False, "lsgan")) == pytest.approx((0 + 4 + 1) / 3)
    assert adversarial_loss(logits.bfloat16(), True, "lsgan").dtype == torch.float32


def test_feature_matching_compares_hidden_layers_and_not_the_logits() -> None:
    fake = [torch.tensor([1.0, 2.0]), torch.tensor([0.0]), torch.tensor([7.0])]
    real = [torch.tensor([0.0, 4.0]), torch.tensor([3.0]), torch.tensor([-9.0])]
    assert float(feature_matching(fake, real)) == pytest.approx(((1 + 2) / 2 + 3) / 2)
    assert float(feature_matching(fake, [*real[:-1], torch.tensor([1e6])])) == float(feature_matching(fake, real))
    leaf = [part.clone().requires_grad_() for part in real]
    feature_matching([part.clone().requires_grad_() for part in fake], leaf).backward()
    assert all(part.grad is None for part in leaf)  # the real side is what is aimed at


def test_the_history_keeps_the_first_fifty_then_shows_half_of_them_again() -> None:
    pool: list[np.ndarray] = []
    masks = [np.full((1, 1, 1), float(n), np.float32) for n in range(1050)]
    first = mixed_with_history(pool, masks[:50], generator(0, Stream.TRAIN_NOISE), 50)
    assert [float(mask.item()) for mask in first] == list(range(50))
    rng, shown = generator(1, Stream.TRAIN_NOISE), []
    for mask in masks[50:]:
        shown += mixed_with_history(pool, [mask], rng, 50)
        assert len(pool) == 50
    old = [float(seen.item()) != float(mask.item()) for seen, mask in zip(shown, masks[50:], strict=True)]
    assert 0.45 < np.mean(old) < 0.55  # 5 standard deviations of 1000 throws are 0.08
    given_back = [float(seen.item()) for seen, was_old in zip(shown, old, strict=True) if was_old]
    assert len(set(given_back)) == len(given_back)  # what is shown again leaves the pool
    kept = {float(mask.item()) for mask in pool}
    assert kept.isdisjoint(given_back)
    assert kept | set(given_back) == set(range(50)) | {50.0 + n for n, was_old in enumerate(old) if was_old}


def test_the_history_is_a_function_of_its_generator() -> None:
    def run() -> list[float]:
        pool, shown = [], []
        for step, n in itertools.product(range(20), range(2)):
            mask = np.full((1, 1, 1), 2.0 * step + n, np.float32)
            shown += mixed_with_history(pool, [mask], generator(5, Stream.TRAIN_NOISE, step), 4)
        return [float(mask.item()) for mask in shown]

    assert run() == run()
