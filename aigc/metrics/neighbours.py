"""Nearest neighbours: precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), and near
copies of training samples."""

import numpy as np
from numpy.typing import NDArray

from aigc.metrics import TooFewRows

PART = 2048


def coverage(points: NDArray[np.floating], manifold: NDArray[np.floating], k: int = 3) -> float:
    """Share in [0, 1] of `points` (N, D) that lie in the ball of some row of `manifold` (M, D).

    The radius of a row's ball is the distance to its k-th nearest other row. Recall is
    coverage(real, generated), precision is coverage(generated, real). Raises TooFewRows for a
    manifold of k rows or fewer, or no points.
    """
    if len(manifold) <= k or not len(points):
        raise TooFewRows(
            f"nearest neighbours need a row, and more than {k} to be near to; there are"
            f" {len(points)} and {len(manifold)}"
        )
    radius = np.concatenate([_squared_radius(manifold, rows, k) for rows in _parts(len(manifold))])
    near = [(_distances(points[rows], manifold) <= radius).any(1) for rows in _parts(len(points))]
    return float(np.concatenate(near).mean())


def _parts(size: int) -> list[slice]:
    """Slices of rows: the distances of all rows at once may not fit into memory."""
    return [slice(start, min(start + PART, size)) for start in range(0, size, PART)]


def _squared_radius(manifold: NDArray[np.floating], rows: slice, k: int) -> NDArray[np.float64]:
    """Squared distance of some rows to their k-th nearest other row."""
    within = _distances(manifold[rows], manifold)
    own = np.arange(len(within))
    within[own, own + rows.start] = np.inf
    return np.asarray(np.partition(within, k - 1, axis=1)[:, k - 1])


def nearest(points: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) distance of each of `points` (N, D) to the nearest of `others` (M, D).

    Raises TooFewRows if M is 0.
    """
    if not len(others):
        raise TooFewRows("there is no row to be near to")
    return np.asarray(np.sqrt(_distances(points, others).min(1)))


def copied(
    generated: NDArray[np.floating],
    train: NDArray[np.floating],
    held_out: NDArray[np.floating],
    quantile: float = 0.01,
) -> float:
    """Share of `generated` nearer to a training row than all but `quantile` of `held_out` are.

    All are (., D). A model that generalises scores `quantile`, one that repeats its training data
    1. Raises TooFewRows if any of the three is empty.
    """
    if not len(generated) or not len(held_out):
        raise TooFewRows(
            f"copies are told by {len(held_out)} held-out rows of {len(generated)} samples"
        )
    radius = np.quantile(nearest(held_out, train), quantile)
    return float((nearest(generated, train) < radius).mean())


def _distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Squared Euclidean distances: (len(a), len(b))."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None]
    return np.asarray((squares - 2 * a @ b.T).clip(0))
