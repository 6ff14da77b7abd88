"""Distances between feature sets: by hand, against slow or foreign oracles, and the laws that they keep."""

import numpy as np
import pytest
from scipy import linalg

from factory.core.statistics import enough_groups
from factory.score.controls import control_row, random_draws, shuffle_patches, split_halves
from factory.score.distances import (
    bootstrap_interval,
    extrapolate,
    frechet_distance,
    kernel_distance,
    neighbourhood,
)
from factory.score.modes import find_modes, mode_space
from factory.score.projections import Projection, kl_divergence, ks_2d, local_distances, project_pca, project_tsne


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sqrtm_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The usual code: a root of the product of both covariances."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(first @ second)
    mean = a.mean(0) - b.mean(0)
    return float(mean @ mean + np.trace(first) + np.trace(second) - 2 * np.trace(np.real(root)))


def test_frechet_distance_of_shifted_and_stretched_points_by_hand() -> None:
    points = np.array([[-1.0, 0.0], [1.0, 0.0]])  # variance 2 along x, none along y
    assert frechet_distance(points, points + np.array([3.0, 4.0])) == pytest.approx(25)
    assert frechet_distance(points, 3 * points) == pytest.approx(2 + 18 - 2 * 6)


@pytest.mark.parametrize(("n", "m"), [(50, 60), (6, 60), (6, 5)], ids=["n > d", "n < d < m", "both below d"])
def test_frechet_distance_is_that_of_a_matrix_root(n: int, m: int) -> None:
    a, b = rng(1).normal(size=(n, 8)), rng(2).normal(size=(m, 8)) @ np.diag(np.linspace(0.5, 2, 8)) + 0.3
    # Covariances without full rank have no stable root: the oracle gets a little of every direction.
    expected = sqrtm_distance(a, b) if min(n, m) > 8 else _regularised(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5, abs=1e-3)


def _regularised(a: np.ndarray, b: np.ndarray) -> float:
    first, second = (np.cov(side, rowvar=False) + 1e-10 * np.eye(8) for side in (a, b))
    half = linalg.sqrtm(first).real
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ second @ half), 0))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * roots.sum())


def test_frechet_distance_keeps_its_laws() -> None:
    a, b = rng(1).normal(size=(30, 5)), rng(2).normal(size=(40, 5)) + 1
    turn = np.linalg.qr(rng(3).normal(size=(5, 5)))[0]
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(2 * a, 2 * b) == pytest.approx(4 * frechet_distance(a, b))


def test_extrapolation_comes_nearer_to_the_truth_than_any_sample() -> None:
    a, b = rng(1).normal(size=(400, 16)), rng(2).normal(size=(400, 16)) + 0.25
    truth = 16 * 0.25**2
    line = extrapolate(a, b, rng(3))
    assert line.sizes[0] == 400
    assert line.sizes[-1] == 100
    assert line.reliable
    assert abs(line.limit - truth) < abs(frechet_distance(a, b) - truth)
    assert line.distances[0] == pytest.approx(frechet_distance(a, b))
    assert line == extrapolate(a, b, rng(3))


def test_extrapolation_says_where_its_sizes_are_below_the_features() -> None:
    assert not extrapolate(rng(1).normal(size=(40, 30)), rng(2).normal(size=(40, 30)), rng()).reliable


@pytest.mark.parametrize("groups", [None, [f"p{i // 8}" for i in range(48)]], ids=["tiles", "groups"])
def test_bootstrap_interval_holds_the_estimate(groups: list[str] | None) -> None:
    a, b = rng(1).normal(size=(48, 6)), rng(2).normal(size=(48, 6)) + 1
    low, high = bootstrap_interval(a, b, rng(3), groups=groups, resamples=100)
    assert low < frechet_distance(a, b) < high
    assert enough_groups(groups) == (groups is not None)
    assert not enough_groups(["a"] * 24 + ["b"] * 24)


def naive_mmd(a: np.ndarray, b: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    own = np.mean([k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j])
    other = np.mean([k(b[i], b[j]) for i in range(len(b)) for j in range(len(b)) if i != j])
    return float(own + other - 2 * np.mean([k(x, y) for x in a for y in b]))


def test_kernel_distance_is_that_of_two_loops() -> None:
    a, b = rng(1).normal(size=(9, 4)), rng(2).normal(size=(7, 4)) + 0.5
    found = kernel_distance(a, b, rng())
    assert found.value == pytest.approx(naive_mmd(a, b))
    assert found.subset_size == 3


def test_kernel_distance_of_equal_distributions_is_about_zero_at_any_size() -> None:
    values = [
        kernel_distance(rng(i).normal(size=(20, 4)), rng(100 + i).normal(size=(20, 4)), rng()).value for i in range(40)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_torch_fidelity_agrees() -> None:
    torch = pytest.importorskip("torch")
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    a, b = rng(1).normal(size=(60, 8)), rng(2).normal(size=(60, 8)) + 0.5
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    # One subset with all tiles.
    theirs = kid.kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert kernel_distance(a, b, rng()).value == pytest.approx(theirs["kernel_inception_distance_mean"])
    statistics = [fid.fid_features_to_statistics(side) for side in tensors]
    their_distance = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(their_distance)
    shares = prc.prc_features_to_metric(*tensors, prc_neighborhood=3, verbose=False)
    ours = neighbourhood(a, b, 3)
    assert (ours.precision, ours.recall) == pytest.approx((shares["precision"], shares["recall"]))


def naive_neighbourhood(fakes: np.ndarray, reals: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def radius(points: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    real_radii = [radius(reals, i) for i in range(len(reals))]
    fake_radii = [radius(fakes, i) for i in range(len(fakes))]
    inside = [[np.linalg.norm(f - r) <= real_radii[i] for i, r in enumerate(reals)] for f in fakes]
    back = [[np.linalg.norm(f - r) <= fake_radii[j] for j, f in enumerate(fakes)] for r in reals]
    precision, recall = np.mean([any(row) for row in inside]), np.mean([any(row) for row in back])
    density = np.sum(inside) / (k * len(fakes))
    return float(precision), float(recall), float(density), float(np.mean(np.any(inside, axis=0)))


@pytest.mark.parametrize("k", [1, 3])
def test_neighbourhood_is_that_of_loops(k: int) -> None:
    fakes, reals = rng(1).normal(size=(11, 3)) + 0.7, rng(2).normal(size=(13, 3))
    found = neighbourhood(fakes, reals, k)
    expected = naive_neighbourhood(fakes, reals, k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_neighbourhood_of_equal_and_of_distant_sets() -> None:
    points = rng(1).normal(size=(20, 3))
    same, far = neighbourhood(points, points, 5), neighbourhood(points + 100, points, 5)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="more than 5"):
        neighbourhood(points[:5], points, 5)


def naive_ks_2d(first: np.ndarray, second: np.ndarray) -> float:
    best = []
    for origins in (first, second):
        differences = []
        for x, y in origins:
            for right in (True, False):
                for above in (True, False):
                    shares = [
                        np.mean([((p >= x) == right) and ((q >= y) == above) for p, q in side])
                        for side in (first, second)
                    ]
                    differences.append(abs(shares[0] - shares[1]))
        best.append(max(differences))
    return float(np.mean(best))


def test_ks_2d_is_that_of_loops_and_goes_from_0_to_about_1() -> None:
    first, second = rng(1).normal(size=(12, 2)), rng(2).normal(size=(9, 2)) + 0.5
    assert ks_2d(first, second) == pytest.approx(naive_ks_2d(first, second))
    assert ks_2d(first, first) == 0
    assert ks_2d(first, first + 100) > 0.9


def test_kl_divergence_is_zero_for_equal_sets_and_grows_with_distance() -> None:
    points = rng(1).normal(size=(800, 2))
    near, far = (kl_divergence(points, points + shift) for shift in (0.5, 2.0))
    assert kl_divergence(points, points) == pytest.approx(0, abs=1e-12)
    assert 0 < near < far
    # Two unit Gaussians one apart differ by 1/2 nat; kernels widen both, samples differ.
    assert kl_divergence(points, rng(2).normal(size=(800, 2)) + np.array([1, 0])) == pytest.approx(0.5, abs=0.15)
    line = np.stack([np.arange(20.0), np.arange(20.0)], 1)
    assert kl_divergence(line, line) == pytest.approx(0, abs=1e-12)


def test_pca_keeps_what_varies_and_tsne_keeps_to_its_seed() -> None:
    fakes, reals = rng(1).normal(size=(20, 6)) * [9, 4, 0.1, 0.1, 0.1, 0.1], rng(2).normal(size=(24, 6))
    plane = project_pca(fakes, reals)
    assert plane.fakes.shape == (20, 2)
    assert plane.reals.shape == (24, 2)
    assert plane.explained is not None
    assert plane.explained > 0.9
    assert abs(np.corrcoef(plane.fakes[:, 0], fakes[:, 0])[0, 1]) > 0.99
    first, again = (project_tsne(fakes, reals, 3) for _ in range(2))
    np.testing.assert_array_equal(first.fakes, again.fakes)
    flat = project_pca(np.arange(5.0)[:, None], np.arange(5.0)[:, None])
    assert flat.reals.shape == (5, 2)


def test_grid_counts_cells_and_measures_those_with_enough_by_hand() -> None:
    corners = np.array([[0.0, 0.0], [3.0, 3.0]])
    reals = np.concatenate([corners, np.full((4, 2), 1.5)])  # two corner cells, and four in the middle
    fakes = np.concatenate([np.full((3, 2), 1.4), [[2.9, 2.9], [9.0, 9.0]]])
    features = rng(1).normal(size=(6, 3)), rng(2).normal(size=(5, 3))
    grid = local_distances(Projection("pca", fakes, reals), features[1], features[0], cells=3, min_cell=3)
    counts = {(cell.row, cell.column): (cell.reals, cell.fakes) for cell in grid.cells}
    assert counts[0, 0] == (1, 0)
    assert counts[1, 1] == (4, 3)
    assert counts[2, 2] == (1, 1)
    assert (grid.with_reals, grid.covered, grid.outside) == (3, 2, 1)
    middle = next(cell for cell in grid.cells if (cell.row, cell.column) == (1, 1))
    assert middle.distance == pytest.approx(frechet_distance(features[1][:3], features[0][2:5]))
    assert grid.mean_distance == middle.distance


def test_halves_are_disjoint_equal_and_share_no_group() -> None:
    groups = [f"p{i % 6}" for i in range(42)]
    halves = split_halves(groups, 42, 100, 5, seed=0)
    assert halves.size == 21
    for a, b in (*halves.random, *halves.by_group):
        assert len(a) == len(b) == halves.size
        assert not set(a) & set(b)
    for a, b in halves.by_group:
        assert not {groups[i] for i in a} & {groups[i] for i in b}
    assert split_halves(groups, 42, 8, 5, seed=0).size == 8
    assert "share none of their 6 groups" in halves.note


@pytest.mark.parametrize(
    ("groups", "why"), [(None, "not known"), (["a"] * 30 + ["b"] * 2, "too unequal"), (["a"] * 32, "its 1 groups")]
)
def test_halves_by_group_are_given_up_with_a_word(groups: list[str] | None, why: str) -> None:
    halves = split_halves(groups, 32, 100, 4, seed=0)
    assert halves.size == 16
    assert halves.by_group == ()
    assert why in halves.note


def test_shuffled_patches_are_the_same_patches() -> None:
    pixels = rng(1).integers(0, 2, (5, 9, 17)).astype(np.uint8)  # one row and one column too many for 4 x 8
    mixed = shuffle_patches(pixels, (4, 8), rng(2))
    assert not np.array_equal(mixed, pixels)
    np.testing.assert_array_equal(mixed[:, 8:], pixels[:, 8:])
    np.testing.assert_array_equal(mixed[:, :, 16:], pixels[:, :, 16:])

    def patches(tiles: np.ndarray) -> list[bytes]:
        return sorted(t[y : y + 2, x : x + 2].tobytes() for t in tiles for y in range(0, 8, 2) for x in range(0, 16, 2))

    assert patches(mixed) == patches(pixels)


def test_control_row_of_halves_is_below_that_of_others() -> None:
    reals, others = rng(1).normal(size=(60, 4)), rng(2).normal(size=(60, 4)) + 2
    halves = split_halves(None, 60, 60, 4, seed=0)
    floor = control_row("floor", reals, reals, halves.random, 5, rng())
    row = control_row("others", others, reals, random_draws(60, 60, halves.size, 4, rng()), 5, rng())
    assert floor.distance < row.distance
    assert floor.coverage > row.coverage
    assert (floor.draws, row.draws) == (4, 4)


def test_modes_that_no_fake_reaches_are_named() -> None:
    centres = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    reals = np.concatenate([centres[i] + rng(i).normal(size=(n, 2)) for i, n in enumerate((30, 20, 10))])
    fakes = np.concatenate([rng(7).normal(size=(25, 2)), rng(8).normal(size=(5, 2)) + np.array([20, 9])])
    figures = find_modes(fakes, reals, tuple(f"r{i}" for i in range(60)), most=3, seed=0)
    assert [mode.real_share for mode in figures.modes] == pytest.approx([0.5, 1 / 3, 1 / 6])
    assert [mode.number for mode in figures.missing] == [2, 3]
    assert figures.missing[0].sample in {f"r{i}" for i in range(30, 50)}
    assert figures.modes[0].hits > 20
    assert figures.hit_share == pytest.approx(1 / 3)
    # 5 fakes are nearest to the second mode and too far from it.
    assert figures.outside >= 5 / 30
    assert figures.variation == pytest.approx((25 / 30 - 0.5) if figures.modes[1].fake_share else 0.5, abs=1e-9)


def test_mode_space_weighs_features_and_statistics_alike() -> None:
    fakes, reals = rng(1).normal(size=(20, 30)), rng(2).normal(size=(25, 30)) * 7
    statistics = rng(3).normal(size=(20, 4)), rng(4).normal(size=(25, 4))
    statistics[1][3, 2] = np.nan
    space = mode_space(fakes, reals, *statistics)
    assert space[0].shape[0] == 20
    assert np.isfinite(space[1]).all()
    assert space[1][:, :20].var(0).sum() == pytest.approx(1)
    assert space[1][:, 20:].var(0).sum() == pytest.approx(1)
