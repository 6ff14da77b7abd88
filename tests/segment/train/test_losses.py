"""Losses: values by hand, pixels that do not count, gradients that point the right way."""

import math

import pytest
import torch

from segment.data.targets import DISTANCE_SCALE, DISTANCE_UNKNOWN
from segment.train.losses import LossConfig, cross_entropy_sum, distance_loss, segmentation_loss


def logits_for(labels: torch.Tensor, classes: int, confidence: float = 20.0) -> torch.Tensor:
    return confidence * torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2).float()


def test_losses_of_even_odds_are_known() -> None:
    labels = torch.tensor([[[0, 0, 0, 1]]])
    losses = segmentation_loss(torch.zeros(1, 2, 1, 4), labels, LossConfig())
    dice_0, dice_1 = 2 * 1.5 / (2 + 3), 2 * 0.5 / (2 + 1)
    assert losses.dice.item() == pytest.approx(1 - (dice_0 + dice_1) / 2)
    assert losses.cross_entropy.item() == pytest.approx(math.log(2))
    assert losses.total.item() == pytest.approx(losses.dice.item() + math.log(2) / 4)


def test_losses_of_a_sure_and_right_prediction_vanish() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    assert segmentation_loss(logits_for(labels, 3), labels, LossConfig()).total.item() == pytest.approx(0, abs=1e-5)


def test_ignored_pixels_change_nothing_and_get_no_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 3, 4, 8, generator=generator)
    labels = torch.randint(0, 3, (1, 4, 8), generator=generator)
    masked = torch.cat([labels, torch.full((1, 4, 8), 255)], dim=2)
    wide = torch.cat([logits, torch.randn(1, 3, 4, 8, generator=generator)], dim=3).requires_grad_()
    expected = segmentation_loss(logits, labels, LossConfig())
    found = segmentation_loss(wide, masked, LossConfig())
    assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    found.total.backward()
    assert wide.grad is not None
    assert wide.grad[..., 8:].abs().max() == 0
    assert wide.grad[..., :8].abs().max() > 0


def test_a_batch_without_labels_costs_nothing_and_keeps_gradients_finite() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    losses = segmentation_loss(logits, torch.full((2, 4, 4), 255), LossConfig())
    losses.total.backward()
    assert losses.total.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_dice_leaves_out_classes_that_the_batch_does_not_show() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert segmentation_loss(logits_for(labels, 5), labels, LossConfig()).dice.item() == pytest.approx(0, abs=1e-5)


def test_a_step_along_the_gradient_lowers_the_loss() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    labels = torch.tensor([0, 1]).repeat(8).reshape(1, 4, 4)
    before = segmentation_loss(logits, labels, LossConfig()).total
    before.backward()
    assert logits.grad is not None
    assert segmentation_loss(logits.detach() - logits.grad, labels, LossConfig()).total < before


def test_losses_accept_bfloat16_logits() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert (
        segmentation_loss(torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16), labels, LossConfig()).total.dtype
        == torch.float32
    )


def test_cross_entropy_sum_counts_labelled_pixels_only() -> None:
    truth = torch.tensor([[0, 1, 255]], dtype=torch.uint8).numpy()
    assert cross_entropy_sum(torch.zeros(2, 1, 3), truth) == pytest.approx(2 * math.log(2))


def test_distance_loss_is_the_divergence_from_the_label_and_vanishes_where_it_is_met() -> None:
    known = torch.ones(1, 1, 2, dtype=torch.bool)
    distances = torch.tensor([[[127, 254]]], dtype=torch.uint8)  # d = 0.5 and 1
    met = torch.tensor([[[0.0, 30.0]]])
    assert distance_loss(met, distances, known).item() == pytest.approx(0, abs=1e-6)
    off = torch.logit(torch.tensor([[[0.25, 0.5]]]))
    kl_of_half = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert distance_loss(off, distances, known).item() == pytest.approx((kl_of_half + math.log(2)) / 2, rel=1e-5)


def test_distance_loss_leaves_out_unknown_and_unlabelled_pixels() -> None:
    logits = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distances = torch.full((1, 2, 3), DISTANCE_SCALE, dtype=torch.uint8)
    distances[0, 0] = DISTANCE_UNKNOWN
    labels = torch.ones(1, 2, 3, dtype=torch.long)
    labels[0, 1, 0] = 255
    losses = segmentation_loss(
        torch.zeros(1, 2, 2, 3), labels, LossConfig(), distance_logits=logits, distances=distances
    )
    losses.distance.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[[False, False, False], [False, True, True]]]


def test_distance_counts_in_the_total_by_its_weight_and_needs_its_target() -> None:
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    maps = {"distance_logits": torch.ones(1, 4, 4), "distances": torch.zeros(1, 4, 4, dtype=torch.uint8)}
    with_it, without = (segmentation_loss(logits, labels, LossConfig(distance=w), **maps) for w in (2.0, 0.0))
    assert with_it.total.item() - without.total.item() == pytest.approx(2 * with_it.distance.item())
    with pytest.raises(ValueError, match="expected distances"):
        segmentation_loss(logits, labels, LossConfig(), distance_logits=maps["distance_logits"])
