"""Kernel distance of features: KID (Bińkowski et al. 2018, arXiv:1801.01401)."""

import math

import numpy as np
from numpy.typing import NDArray

from aigc.metrics import TooFewRows
from aigc.metrics.estimate import Estimate, within

SUBSETS, SUBSET = 100, 1000
"""Number and size of the subsets, as in the paper and in torch-fidelity."""


def kernel_distance(
    real: NDArray[np.floating],
    generated: NDArray[np.floating],
    *,
    subsets: int = SUBSETS,
    subset: int = SUBSET,
    seed: int = 0,
) -> Estimate:
    """Mean over random subsets of the unbiased squared MMD of features (N, D) and (M, D), with the
    kernel (xᵀy / D + 1)³; about 0 for equal distributions, however few rows there are.

    The interval comes from the spread over subsets, whose size is at most half of the rows of the
    smaller side: of m rows of n, the error of all is √(m / n) as large. Raises TooFewRows for less
    than four rows on a side.
    """
    least = min(len(real), len(generated))
    if least < 4:
        raise TooFewRows(
            f"a kernel distance needs four rows on each side, got {len(real)} and {len(generated)}"
        )
    size = min(subset, least // 2)
    random = np.random.default_rng(seed)
    values = np.array(
        [
            squared_mmd(
                real[random.choice(len(real), size, replace=False)],
                generated[random.choice(len(generated), size, replace=False)],
            )
            for _ in range(subsets)
        ]
    )
    return within(float(values.mean()), float(values.std(ddof=1)) * math.sqrt(size / least))


def squared_mmd(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Unbiased squared maximum mean discrepancy of (N, D) and (M, D) (Gretton et al. 2012, JMLR 13,
    eq. 3), kernel (xᵀy / D + 1)³."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m, width = len(x), len(y), x.shape[1]
    within_x, within_y, across = ((a @ b.T / width + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    same = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    same += (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(same - 2 * across.mean())
