"""Weights of synthetic tiles: the ratio of densities, the audit's agreement, and how often tiles are drawn."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import Dataset, get_scheme
from manifests.errors import UserError
from segment.data.augmentation import AugmentConfig
from segment.data.mixing import Shares
from segment.data.sampling import MixingSampler
from segment.data.sources import Source
from segment.data.tiles import Tiles
from segment.data.weighting import WeightConfig, check_weighting, fit_ratio, read_agreement, tile_weights

Make = Callable[..., Dataset]


def tiles_of(dataset: Dataset, folder: Path) -> Tiles:
    return Tiles(dataset, get_scheme("nuclei"), folder, 1 << 20)


def test_ratio_is_that_of_the_densities() -> None:
    rng = np.random.default_rng(0)
    real, unlike = rng.normal(0, 1, (300, 2)), rng.normal((5, 0), 1, (300, 2))
    synth = np.concatenate([rng.normal(0, 1, (300, 2)), unlike])
    ratio = fit_ratio(real, synth)
    assert ratio(rng.normal(0, 1, (200, 2))).mean() == pytest.approx(2, abs=0.4)  # all of one, half of the other
    assert ratio(rng.normal((5, 0), 1, (200, 2))).mean() < 0.2
    same = fit_ratio(real, rng.normal(0, 1, (300, 2)))(rng.normal(0, 1, (200, 2)))
    assert same.mean() == pytest.approx(1, abs=0.2)


def test_tiles_like_the_real_ones_weigh_more(
    dataset_factory: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synth = (tiles_of(dataset_factory(name, n=12, seed=seed), tmp_path) for seed, name in enumerate("rs"))
    plain = synth.read

    def dark_from_the_seventh_on(position: int) -> tuple[np.ndarray, np.ndarray]:
        image, labels = plain(position)
        return (image if position < 6 else image // 3), labels

    monkeypatch.setattr(synth, "read", dark_from_the_seventh_on)
    weights = tile_weights(WeightConfig(likeness=1.0), real, synth, None)
    assert weights.mean() == pytest.approx(1)
    assert weights[:6].min() > 2 * weights[6:].max()


def test_weights_follow_the_audit_and_the_best_share_is_kept(dataset_factory: Make, tmp_path: Path) -> None:
    synth = tiles_of(dataset_factory("synth", source="synthetic", n=5), tmp_path)
    agreement = dict(zip(synth.sample_ids, [0.8, 0.4, 0.6, 0.01, np.nan], strict=True))
    weights = tile_weights(WeightConfig(agreement=1.0), None, synth, agreement)
    assert weights[0] == pytest.approx(2 * weights[1])
    assert weights.mean() == pytest.approx(1)
    assert weights[3] == weights.min() == pytest.approx(weights[1] * (0.25 / (0.4 / np.nanmean([0.8, 0.4, 0.6, 0.01]))))
    kept = tile_weights(WeightConfig(agreement=2.0, kept=0.4), None, synth, agreement)
    assert np.flatnonzero(kept).tolist() == [0, 2]
    assert kept.sum() == pytest.approx(2)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 4), min_size=3, max_size=12).filter(lambda values: sum(values) > 1), st.integers(0, 99))
def test_a_tile_is_drawn_as_often_as_it_weighs_to_less_than_one_time(values: list[float], seed: int) -> None:
    class Weighted:
        weights = np.array(values) * len(values) / sum(values)

        def __len__(self) -> int:
            return len(values)

    sampler = MixingSampler((Weighted(),), Shares.constant(0.0), 1, seed, (32, 32), AugmentConfig.none())  # type: ignore[arg-type]
    for start in (0, len(values)):
        drawn = Counter(sampler.plan(step)[0].position for step in range(start, start + len(values)))
        assert all(abs(drawn[tile] - weight) < 1 + 1e-9 for tile, weight in enumerate(Weighted.weights))
        assert all(Weighted.weights[tile] > 0 for tile in drawn)


def test_agreement_is_read_from_the_audit_of_the_tiles(dataset_factory: Make, tmp_path: Path) -> None:
    dataset = dataset_factory("synth", source="synthetic", n=3)
    source = Source("synth", dataset, tmp_path / "accepted.parquet")
    with pytest.raises(UserError, match=r"audit\.parquet: expected the tiles of an audit"):
        read_agreement(source)
    table = pa.table({"sample_id": ["a", "b"], "aji": [np.nan, np.nan], "mean_iou": [0.5, 0.25]})
    pq.write_table(table, tmp_path / "audit.parquet")
    assert read_agreement(source) == {"a": 0.5, "b": 0.25}


def test_weights_that_would_do_nothing_are_refused(dataset_factory: Make) -> None:
    synth = Source("synth", dataset_factory("synth", source="synthetic", n=3))
    for config, roles, source, message in (
        (WeightConfig(likeness=1), ("real",), None, "expected a mix with synthetic tiles"),
        (WeightConfig(likeness=1), ("synth",), synth, "expected a mix with real tiles"),
        (WeightConfig(agreement=1), ("real", "synth"), synth, r"expected accepted.parquet of an audit"),
        (WeightConfig(kept=0.5), ("real", "synth"), synth, r"weighting.kept: expected with weighting.agreement"),
    ):
        with pytest.raises(UserError, match=message):
            check_weighting(config, roles, source)
    check_weighting(WeightConfig(), ("real",), None)
