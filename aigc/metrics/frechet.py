"""Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, arXiv:1706.08500)."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aigc.metrics import Evaluation, TooFewRows
from aigc.metrics.estimate import GROUPS, Estimate, jackknife, within
from aigc.metrics.moments import GroupedMoments, Moments, symmetric_root

NEAR = 1.25
"""Multiple of the floor below which a distance does not distinguish samples from real rows."""


def frechet(real: NDArray[np.floating], generated: NDArray[np.floating]) -> float:
    """‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) of features (N, D) and (M, D); 0 for equal sets.

    Raises TooFewRows for fewer than two rows, ValueError for different widths.
    """
    a, b = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {a.shape}, {b.shape}")
    return moments_frechet(Moments.of(a), Moments.of(b))


def moments_frechet(real: Moments, generated: Moments) -> float:
    """The distance by moments of the features. Raises TooFewRows for fewer than two rows."""
    if min(real.count, generated.count) < 2:
        raise TooFewRows(
            f"a Fréchet distance needs two rows on each side, got {real.count} and"
            f" {generated.count}"
        )
    trace = float(np.trace(real.covariance))
    return _distance(real.mean, trace, real.root, generated.mean, generated.covariance)


def gaussian_frechet(
    mu1: NDArray[np.float64],
    sigma1: NDArray[np.float64],
    mu2: NDArray[np.float64],
    sigma2: NDArray[np.float64],
) -> float:
    """Closed form for N(mu1, sigma1) and N(mu2, sigma2); mu: (D,), sigma: (D, D)."""
    trace = float(np.trace(np.atleast_2d(sigma1)))
    return _distance(mu1, trace, symmetric_root(sigma1), mu2, np.atleast_2d(sigma2))


def _distance(
    mu1: NDArray[np.float64],
    trace1: float,
    root1: NDArray[np.float64],
    mu2: NDArray[np.float64],
    sigma2: NDArray[np.float64],
) -> float:
    """Closed form by the trace and the root of Σ₁.

    tr((Σ₁Σ₂)^½) is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric:
    no matrix root of a product that rounding made indefinite.
    """
    cross = np.linalg.eigvalsh(root1 @ sigma2 @ root1).clip(0)
    trace = trace1 + float(np.trace(sigma2))
    return float(max(0.0, np.square(mu1 - mu2).sum() + trace - 2 * np.sqrt(cross).sum()))


def frechet_estimate(real: Moments, generated: GroupedMoments) -> Estimate:
    """The distance, with the jackknife's interval over groups of the generated rows; none if there
    are fewer than 2 · GROUPS."""
    whole = generated.merged()
    value = moments_frechet(real, whole)
    if whole.count < 2 * GROUPS:
        return Estimate(value)
    rest = [[group for group in range(GROUPS) if group != one] for one in range(GROUPS)]
    return jackknife(value, [moments_frechet(real, generated.merged(part)) for part in rest])


def frechet_infinity(real: Moments, generated: GroupedMoments) -> Estimate:
    """The distance extrapolated to infinitely many generated rows (Chong & Forsyth 2020,
    arXiv:1911.07023): the intercept of a line through distances by 1 / N.

    N are all rows, their halves, quarters and eighths, with weights N; the interval is the fit's,
    approximate since the parts share rows. The bias of the real rows stays: take many. The line
    holds while there are more rows than features: raises TooFewRows for fewer than 16 rows a
    feature, or 128.
    """
    whole = generated.merged()
    if whole.count < (least := 2 * GROUPS * max(GROUPS, len(whole.mean))):
        raise TooFewRows(
            f"an extrapolation of {len(whole.mean)} features needs {least:,} rows, there"
            f" are {whole.count:,}"
        )
    points = []
    for size in (1, 2, 4, 8):
        for start in range(0, GROUPS, size):
            part = generated.merged(range(start, start + size))
            points.append((1 / part.count, moments_frechet(real, part)))
    x, y = np.array(points).T
    weight = 1 / x
    x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = (weight * np.square(x - x_mean)).sum()
    slope = (weight * (x - x_mean) * (y - y_mean)).sum() / spread
    rest = y - y_mean - slope * (x - x_mean)
    variance = (weight * np.square(rest)).sum() / (len(x) - 2)
    error = math.sqrt(variance * (1 / weight.sum() + x_mean**2 / spread))
    return within(float(y_mean - slope * x_mean), error)


def add_frechet(
    evaluation: Evaluation,
    name: str,
    real: NDArray[np.floating],
    generated: NDArray[np.floating],
    held_out: NDArray[np.floating],
    note: str = "",
) -> None:
    """Add frechet(real, generated) with the floor frechet(real, held_out).

    A note says so if the floor is not clearly below the value: the samples may be that good, the
    features that weak, or the held-out rows that few.
    """
    evaluation.add(
        name, lambda: frechet(real, generated), lambda: frechet(real, held_out), "lower", note
    )
    note_if_near(evaluation, name, len(held_out))


def note_if_near(evaluation: Evaluation, name: str, held_out: int) -> None:
    """Note beside the distance added last if its floor, of so many real rows, is about as high."""
    if not evaluation.metrics or evaluation.metrics[-1].name != name:
        return
    metric = evaluation.metrics[-1]
    if metric.floor is None:
        return
    low = metric.interval[0] if metric.interval else metric.value
    if metric.value < NEAR * metric.floor or low <= metric.floor:
        near = f"not told from real data: {held_out} real rows score about the same"
        evaluation.metrics[-1] = replace(metric, note="; ".join(filter(None, (metric.note, near))))
