"""Split and merged nuclei, counted by hand; pieces of one convex nucleus are joined and two nuclei are not."""

import numpy as np
from skimage.draw import disk, ellipse

from segment import metrics
from segment.metrics.cuts import Cuts
from segment.network.convexity import join_convex


def test_split_and_merged_nuclei_are_counted_over_all_and_over_large_ones() -> None:
    truth, pred = np.zeros((40, 60), np.int32), np.zeros((40, 60), np.int32)
    truth[2:22, 2:22] = 1  # large, in two pieces and a crumb
    pred[2:12, 2:22], pred[12:22, 2:20], pred[12:13, 20:22] = 1, 2, 3
    truth[30:36, 2:8], truth[30:36, 8:14] = 2, 3  # run together
    pred[30:36, 2:14] = 4
    truth[30:36, 30:36] = 4  # found
    pred[30:36, 31:36] = 5
    truth[2:8, 40:46] = 5  # missed
    found = metrics.cuts(metrics.overlap(truth, pred))
    assert found == Cuts(nuclei=5, split=1, merged=2, large=1, large_split=1, large_merged=0)
    assert found.figures == {"split": 0.2, "merged": 0.4, "split_large": 1.0, "merged_large": 0.0}
    empty = metrics.cuts(metrics.overlap(np.zeros_like(truth), pred))
    assert empty == Cuts(0, 0, 0, 0, 0, 0)
    assert all(np.isnan(value) for value in empty.figures.values())


def test_pieces_of_an_ellipse_are_joined_and_two_touching_discs_are_not() -> None:
    instance, distance = np.zeros((64, 128), np.int32), np.zeros((64, 128), np.float32)
    rows, columns = ellipse(32, 24, 14, 20, shape=instance.shape)
    instance[rows, columns] = np.where(columns < 20, 1, np.where(columns < 30, 2, 3))  # three pieces
    distance[rows, columns] = 0.8
    for number, centre in ((4, 70), (5, 96)):
        rows, columns = disk((32, centre), 13.5, shape=instance.shape)
        instance[rows, columns], distance[rows, columns] = number, 0.8
    assert (instance[:, 82] == 4).any()
    assert (instance[:, 83] == 5).any()  # they touch
    joined = join_convex(instance, distance, 0.92)
    assert np.unique(joined).tolist() == [0, 1, 4, 5]
    assert np.array_equal(joined == 1, (instance > 0) & (instance < 4))
    apart = np.where(np.arange(128) == 20, 0, distance).astype(np.float32)  # a deep valley between pieces 1 and 2
    assert 1 in np.unique(join_convex(instance, np.where(instance == 2, 0.1, apart), 0.92))
    assert np.array_equal(join_convex(instance, distance, 1.0), instance)
    assert not join_convex(np.zeros_like(instance), distance, 0.9).any()
