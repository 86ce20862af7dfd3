"""Vendi score: the effective number of different samples (Friedman & Dieng 2023,
arXiv:2210.02410)."""

import numpy as np
from numpy.typing import NDArray

from aigc.metrics import TooFewRows
from aigc.metrics.estimate import Estimate, jackknife_of


def vendi_score(features: NDArray[np.floating]) -> float:
    """exp(-Σ λ ln λ) with λ the eigenvalues of K / N, K the cosines of features (N, D).

    1 for equal rows, N for orthogonal ones. The eigenvalues other than 0 are those of the (D, D)
    matrix of products. Raises TooFewRows without rows.
    """
    if not len(features):
        raise TooFewRows("there are no rows")
    x = np.asarray(features, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    products = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = np.linalg.eigvalsh(products / len(x))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def vendi(features: NDArray[np.float32], classes: int = 1) -> Estimate:
    """vendi_score() of rows of classes in turn, with an interval by jackknife."""
    return jackknife_of(vendi_score, features, classes)
