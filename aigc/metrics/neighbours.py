"""Nearest neighbours: precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density
and coverage (Naeem et al. 2020, arXiv:2002.09797), and near copies of training samples."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from aigc.metrics import TooFewRows

PART = 2048


K = 3
"""Neighbours that precision and recall are of (Kynkäänniemi et al. 2019, section 2)."""
K_DENSITY = 5
"""Neighbours that density and coverage are of (Naeem et al. 2020, section 4)."""


def in_manifold(
    points: NDArray[np.floating], manifold: NDArray[np.floating], k: int = K
) -> NDArray[np.bool_]:
    """(N,) True of `points` (N, D) that lie in the ball of some row of `manifold` (M, D).

    The radius of a row's ball is the distance to its k-th nearest other row. Recall is the mean of
    in_manifold(real, generated), precision that of in_manifold(generated, real). Raises TooFewRows
    for a manifold of k rows or fewer, or no points.
    """
    radius = _radius(points, manifold, k)
    near = [(_distances(points[rows], manifold) <= radius).any(1) for rows in _parts(len(points))]
    return np.concatenate(near)


def density(
    points: NDArray[np.floating], manifold: NDArray[np.floating], k: int = K_DENSITY
) -> NDArray[np.float64]:
    """(N,) balls of `manifold` (M, D) that each of `points` (N, D) lies in, over k.

    Density is the mean over generated points with a manifold of real rows; about 1 for real ones,
    more where samples crowd around a few of them. Raises TooFewRows as in_manifold() does.
    """
    radius = _radius(points, manifold, k)
    balls = [(_distances(points[rows], manifold) < radius).sum(1) for rows in _parts(len(points))]
    return np.concatenate(balls) / k


def covered(
    manifold: NDArray[np.floating], points: NDArray[np.floating], k: int = K_DENSITY
) -> NDArray[np.bool_]:
    """(M,) True of rows of `manifold` (M, D) whose ball holds one of `points` (N, D).

    Coverage is the mean with a manifold of real rows and generated points. Raises TooFewRows as
    in_manifold() does.
    """
    radius = _radius(points, manifold, k)
    nearest_squared = np.concatenate(
        [_distances(manifold[rows], points).min(1) for rows in _parts(len(manifold))]
    )
    return np.asarray(nearest_squared < radius)


def _radius(
    points: NDArray[np.floating], manifold: NDArray[np.floating], k: int
) -> NDArray[np.float64]:
    """(M,) squared radius of the balls. Raises TooFewRows."""
    if len(manifold) <= k or not len(points):
        raise TooFewRows(
            f"nearest neighbours need a row, and more than {k} to be near to; there are"
            f" {len(points)} and {len(manifold)}"
        )
    return np.concatenate([_squared_radius(manifold, rows, k) for rows in _parts(len(manifold))])


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
    return nearest_rows(points, [others])[0]


def nearest_rows(
    points: NDArray[np.floating], blocks: Iterable[NDArray[np.floating]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(N,) distances of `points` (N, D) to the nearest row of all blocks (., D), and (N,) numbers
    of these rows. Raises TooFewRows if there is no row."""
    least = np.full(len(points), np.inf)
    number = np.zeros(len(points), np.int64)
    first = 0
    for block in blocks:
        for rows in _parts(len(points) if len(block) else 0):
            squared = _distances(points[rows], block)
            closest = squared.argmin(1)
            found = squared[np.arange(len(squared)), closest]
            nearer = found < least[rows]
            least[rows] = np.where(nearer, found, least[rows])
            number[rows] = np.where(nearer, closest + first, number[rows])
        first += len(block)
    if not first:
        raise TooFewRows("there is no row to be near to")
    return np.sqrt(least), number


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
    near = copies(nearest(generated, train), nearest(held_out, train), quantile)
    return float(near.mean())


def copies(
    generated: NDArray[np.float64], held_out: NDArray[np.float64], quantile: float = 0.01
) -> NDArray[np.bool_]:
    """copied() by the distances of generated (N,) and held-out rows (M,) to the nearest training
    row: (N,) True of copies. Raises TooFewRows if either is empty."""
    if not len(generated) or not len(held_out):
        raise TooFewRows(
            f"copies are told by {len(held_out)} held-out rows of {len(generated)} samples"
        )
    return np.asarray(generated < np.quantile(held_out, quantile))


def _distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Squared Euclidean distances: (len(a), len(b))."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None]
    return np.asarray((squares - 2 * a @ b.T).clip(0))
