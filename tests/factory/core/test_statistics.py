"""Bootstrap intervals: against a plain loop, by hand, and by how often they cover the truth."""

import numpy as np
import pytest

from factory.core.statistics import Interval, bootstrap_means, bootstrap_pooled


def mean(values: np.ndarray, **options: object) -> Interval:
    options.setdefault("rng", np.random.default_rng(0))
    return bootstrap_means(values[:, None], **options)[0]  # type: ignore[arg-type]


def test_interval_of_a_mean_is_that_of_a_loop_over_resampled_images() -> None:
    values = np.random.default_rng(5).beta(5, 2, 25)
    rng = np.random.default_rng(6)
    slow = [rng.choice(values, values.size).mean() for _ in range(20000)]
    found = mean(values, resamples=20000)
    assert [found.low, found.high] == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.004)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    values = np.random.default_rng(1).normal(0.6, 0.1, (30, 400))
    found = bootstrap_means(values, rng=np.random.default_rng(2), resamples=500, level=0.9)
    assert 0.85 < np.mean([part.low <= 0.6 <= part.high for part in found]) < 0.94


def test_interval_of_equal_scores_is_that_score() -> None:
    assert mean(np.full(7, 0.25)) == Interval(0.25, 0.25)


def test_interval_widens_when_images_of_one_patient_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(3).normal(size=8), 10)
    alone, together = mean(values), mean(values, groups=[f"patient{number // 10}" for number in range(80)])
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_groups_of_one_image_each_change_nothing() -> None:
    values = np.random.default_rng(4).normal(size=(12, 2))
    plain = bootstrap_means(values, rng=np.random.default_rng(0))
    assert bootstrap_means(values, rng=np.random.default_rng(0), groups=list("abcdefghijkl")) == plain


def test_interval_leaves_out_images_without_a_value() -> None:
    known = np.array([0.1, 0.9, 0.4, 0.6])
    found = mean(np.concatenate([known, [np.nan, np.nan]]), resamples=20000)
    assert 0.1 <= found.low < 0.5 < found.high <= 0.9
    assert (found.low + found.high) / 2 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("values", [[0.5], [np.nan, np.nan], [0.5, np.nan]])
def test_interval_is_undefined_for_fewer_than_two_scores(values: list[float]) -> None:
    found = mean(np.array(values))
    assert np.isnan([found.low, found.high]).all()


def test_interval_is_undefined_for_one_patient() -> None:
    assert np.isnan(mean(np.array([0.1, 0.9]), groups=["a", "a"]).low)


def test_interval_of_a_pooled_ratio_is_that_of_a_loop() -> None:
    parts = np.random.default_rng(7).integers(1, 100, (20, 2)).astype(float)
    rng = np.random.default_rng(8)
    drawn = (parts[rng.integers(0, 20, 20)].sum(axis=0) for _ in range(20000))
    slow = [a / (a + b) for a, b in drawn]
    (found,) = bootstrap_pooled(parts, lambda s: [s[0] / s.sum()], rng=np.random.default_rng(9), resamples=20000)
    assert [found.low, found.high] == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.006)


def one_or_nothing(sums: np.ndarray) -> list[float]:
    return [1.0 if sums[0] else np.nan]


def test_pooled_interval_passes_over_draws_without_anything_to_score() -> None:
    parts = np.array([[3.0], [2.0], [0.0], [0.0]])
    assert bootstrap_pooled(parts, one_or_nothing, rng=np.random.default_rng(0)) == (Interval(1.0, 1.0),)


@pytest.mark.parametrize("groups", [None, ["a", "a", "b"]])
def test_pooled_interval_is_undefined_where_one_group_has_all_there_is_to_score(groups: list[str] | None) -> None:
    parts = np.array([[3.0], [0.0 if groups is None else 2.0], [0.0]])
    (found,) = bootstrap_pooled(parts, one_or_nothing, rng=np.random.default_rng(0), groups=groups)
    assert np.isnan([found.low, found.high]).all()


def test_pooled_interval_of_one_figure_does_not_depend_on_whether_another_has_one() -> None:
    parts = np.array([[1.0, 4.0], [3.0, 0.0], [2.0, 0.0]])
    pool = lambda s: [s[0] / 10, s[0] / s[1] if s[1] else np.nan]  # noqa: E731
    first, second = bootstrap_pooled(parts, pool, rng=np.random.default_rng(0))
    assert first.low < 0.6 < first.high
    assert np.isnan(second.low)


def test_the_draws_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(30, 1))
    whole = bootstrap_means(values, rng=np.random.default_rng(0))
    monkeypatch.setattr("factory.core.statistics._BLOCK_CELLS", 70)
    (found,) = bootstrap_means(values, rng=np.random.default_rng(0))
    assert [found.low, found.high] == pytest.approx([whole[0].low, whole[0].high], abs=1e-12)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a group for each of 3"):
        bootstrap_pooled(np.ones((3, 1)), lambda s: s, rng=np.random.default_rng(0), groups=["a"])
