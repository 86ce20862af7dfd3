"""Nearest neighbours: precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), and copies
of training samples."""

import numpy as np
from numpy.typing import NDArray


def covered(points: NDArray[np.floating], manifold: NDArray[np.floating], k: int = 3) -> float:
    """Share of `points` (N, D) that lie within reach of some row of `manifold` (M, D).

    The reach of a row is the distance to its k-th nearest other row. Recall is
    covered(real, generated), precision is covered(generated, real); both in [0, 1].
    """
    if len(manifold) <= k:
        raise ValueError(f"the manifold needs more than k = {k} rows, got {len(manifold)}")
    within = _distances(manifold, manifold)
    np.fill_diagonal(within, np.inf)
    radius = np.partition(within, k - 1, axis=1)[:, k - 1]
    return float((_distances(points, manifold) <= radius).any(1).mean())


def nearest(points: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) distance of each of `points` (N, D) to the nearest of `others` (M, D)."""
    return np.asarray(np.sqrt(_distances(points, others).min(1)))


def copied(
    made: NDArray[np.floating],
    train: NDArray[np.floating],
    held_out: NDArray[np.floating],
    quantile: float = 0.01,
) -> float:
    """Share of `made` nearer to a training sample than all but `quantile` of `held_out` are.

    All are (., D). What was never seen scores `quantile`; what repeats its training data, 1.
    """
    reach = np.quantile(nearest(held_out, train), quantile)
    return float((nearest(made, train) < reach).mean())


def _distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Squared Euclidean distances: (len(a), len(b))."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None]
    return np.asarray((squares - 2 * a @ b.T).clip(0))
