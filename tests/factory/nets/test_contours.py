"""The terms of contours: against loops over pixels, by hand, and by their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from factory.nets.contours import contrast, grey_of, sharpness, smoothness

pytestmark = pytest.mark.usefixtures("one_thread")


def by_loops(kind: str, grey: torch.Tensor, contours: torch.Tensor, levels: float) -> float:
    """Eqs. 4 to 7 pixel by pixel."""
    total, count = 0.0, 0
    height, width = grey.shape[1:]
    for place, i, j in contours.nonzero().tolist():
        count += 1
        for p in range(max(i - 1, 0), min(i + 2, height)):
            for q in range(max(j - 1, 0), min(j + 2, width)):
                if (p, q) == (i, j):
                    continue
                d2 = float(grey[place, i, j] - grey[place, p, q]) ** 2
                like = math.exp(-d2 / (2 * levels**2)) / math.hypot(p - i, q - j)
                on = bool(contours[place, p, q])
                if kind == "smoothness":
                    total += 2 / (1 + math.exp(-d2)) - 1 if on else 0.0
                elif kind == "sharpness" or not on:
                    total += like
    return total / count


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("levels", [0.05, 0.1, 0.4])
def test_terms_are_those_of_loops_over_pixels(density: float, levels: float) -> None:
    draw = torch.Generator().manual_seed(3)
    grey = torch.rand((2, 7, 9), generator=draw, dtype=torch.float64)
    contours = torch.rand((2, 7, 9), generator=draw) <= density
    assert float(smoothness(grey, contours)) == pytest.approx(by_loops("smoothness", grey, contours, levels))
    assert float(contrast(grey, contours, levels)) == pytest.approx(by_loops("contrast", grey, contours, levels))
    assert float(sharpness(grey, contours, levels)) == pytest.approx(by_loops("sharpness", grey, contours, levels))


def test_a_ring_by_hand() -> None:
    """One contour pixel in flat grey has four neighbours at 1 and four at sqrt 2, none of which is contour."""
    grey, contours = torch.full((1, 5, 5), 0.5), torch.zeros((1, 5, 5), dtype=torch.bool)
    contours[0, 2, 2] = True
    assert float(contrast(grey, contours, 0.1)) == pytest.approx(4 + 4 / math.sqrt(2))
    assert float(smoothness(grey, contours)) == 0
    grey[0, 2, 2] = 1.5  # a whole grey range and more from all of them
    assert float(contrast(grey, contours, 0.1)) == pytest.approx(0, abs=1e-6)
    contours[0, 2, 3] = True
    assert float(smoothness(grey, contours)) == pytest.approx(math.tanh(0.5))  # the pair counts from both of its pixels


def test_gradients_are_those_of_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    grey = torch.rand((1, 6, 6), generator=draw, dtype=torch.float64, requires_grad=True)
    contours = torch.rand((1, 6, 6), generator=draw) > 0.5
    for term in (lambda g: smoothness(g, contours), lambda g: contrast(g, contours, 0.2)):
        assert torch.autograd.gradcheck(term, (grey,))
    assert torch.autograd.gradcheck(lambda g: sharpness(g, contours, 0.2), (grey,))


def test_divided_by_lambda_both_terms_have_gradients_of_one_size() -> None:
    draw = torch.Generator().manual_seed(2)
    grey = (0.5 + 0.05 * torch.randn((1, 64, 64), generator=draw)).requires_grad_()
    contours = torch.rand((1, 64, 64), generator=draw) > 0.7
    terms = (smoothness(grey, contours), smoothness(grey, contours, 0.1), contrast(grey, contours, 0.1))
    printed, divided, other = (torch.autograd.grad(term, grey)[0].square().mean().sqrt() for term in terms)
    assert float(other / printed) > 30
    assert 0.2 < float(other / divided) < 5


def test_descent_makes_a_faint_contour_a_clear_one() -> None:
    draw = torch.Generator().manual_seed(1)
    grey = 0.5 + 0.02 * torch.rand((1, 9, 9), generator=draw)
    contours = torch.zeros((1, 9, 9), dtype=torch.bool)
    contours[0, 4, 1:8] = True
    grey[contours] -= 0.05
    for _ in range(200):
        grey.requires_grad_()
        loss = smoothness(grey, contours) + contrast(grey, contours, 0.1)
        (slope,) = torch.autograd.grad(loss, grey)
        grey = (grey - 0.02 * slope).detach()
    beside = torch.zeros_like(contours)
    beside[0, 3:6, 1:8] = True
    step = grey[beside & ~contours].mean() - grey[contours].mean()
    assert float(step) > 0.2
    assert float(grey[contours].std()) < 0.5 * float(step)


def test_without_contours_nothing_is_asked() -> None:
    grey = torch.rand((2, 4, 4), requires_grad=True)
    nothing = torch.zeros((2, 4, 4), dtype=torch.bool)
    total = smoothness(grey, nothing) + contrast(grey, nothing, 0.1) + sharpness(grey, nothing, 0.1)
    total.backward()  # type: ignore[no-untyped-call]
    assert float(total.detach()) == 0
    assert grey.grad is not None
    assert float(grey.grad.abs().max()) == 0


def test_grey_levels_are_those_of_the_usual_weights() -> None:
    images = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1], [0, 0, 0]])[..., None, None]
    torch.testing.assert_close(grey_of(images)[:, 0, 0], torch.tensor([0.299, 0.587, 0.114, 1.0, 0.5]))
