"""Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, arXiv:1706.08500)."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aigc.metrics import Evaluation, TooFewRows

NEAR = 1.25
"""Multiple of the floor below which a distance does not distinguish samples from real rows."""


def frechet(real: NDArray[np.floating], generated: NDArray[np.floating]) -> float:
    """‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) of features (N, D) and (M, D); 0 for equal sets.

    Raises TooFewRows for fewer than two rows, ValueError for different widths.
    """
    a, b = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {a.shape}, {b.shape}")
    if min(len(a), len(b)) < 2:
        raise TooFewRows(
            f"a Fréchet distance needs two rows on each side, got {len(a)} and {len(b)}"
        )
    return gaussian_frechet(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))


def gaussian_frechet(
    mu1: NDArray[np.float64],
    sigma1: NDArray[np.float64],
    mu2: NDArray[np.float64],
    sigma2: NDArray[np.float64],
) -> float:
    """Closed form for N(mu1, sigma1) and N(mu2, sigma2); mu: (D,), sigma: (D, D).

    tr((Σ₁Σ₂)^½) is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric:
    no matrix root of a product that rounding made indefinite.
    """
    values, vectors = np.linalg.eigh(np.atleast_2d(sigma1))
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ np.atleast_2d(sigma2) @ root).clip(0)
    trace = np.trace(np.atleast_2d(sigma1)) + np.trace(np.atleast_2d(sigma2))
    return float(max(0.0, np.square(mu1 - mu2).sum() + trace - 2 * np.sqrt(cross).sum()))


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
    if not evaluation.metrics or evaluation.metrics[-1].name != name:
        return
    metric = evaluation.metrics[-1]
    if metric.floor is not None and metric.value < NEAR * metric.floor:
        near = f"not told from real data: {len(held_out)} real rows score about the same"
        evaluation.metrics[-1] = replace(metric, note="; ".join(filter(None, (metric.note, near))))
