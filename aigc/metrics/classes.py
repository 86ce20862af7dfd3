"""Metrics by class: share, recall, and what a classifier of generated samples is worth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc.data import Dataset
from aigc.metrics import TooFewRows
from aigc.metrics.classifier import Classifier
from aigc.metrics.estimate import Estimate, of_share
from aigc.metrics.neighbours import in_manifold


def worst_share(
    predicted: NDArray[np.int64], expected: NDArray[np.int64], classes: Sequence[str]
) -> Estimate:
    """Smallest share of a class in predictions (N,), over its share in the expected labels (M,).

    1 if every class is as frequent as expected, 0 if one is missing; the note names the worst.
    Raises TooFewRows if either is empty.
    """
    if not len(predicted) or not len(expected):
        raise TooFewRows(f"there are {len(predicted)} predictions and {len(expected)} labels")
    wanted = np.bincount(expected, minlength=len(classes)) / len(expected)
    found = np.bincount(predicted, minlength=len(classes)) / len(predicted)
    there = np.flatnonzero(wanted)
    worst = int(there[np.argmin(found[there] / wanted[there])])
    share = of_share(predicted == worst)
    assert share.interval is not None
    low, high = share.interval
    note = f"worst: {classes[worst]!r}, {found[worst]:.1%} of samples, {wanted[worst]:.1%} expected"
    return Estimate(
        float(found[worst] / wanted[worst]),
        (float(low / wanted[worst]), float(high / wanted[worst])),
        note,
    )


def worst_recall(
    points: NDArray[np.floating],
    labels: NDArray[np.int64],
    manifold: NDArray[np.floating],
    classes: Sequence[str],
) -> Estimate:
    """Smallest recall of a class: of the real features (N, D) with that label (N,), the share in
    the manifold of generated features (M, D). The note names the class. Raises TooFewRows."""
    inside = in_manifold(points, manifold)
    each = {int(label): of_share(inside[labels == label]) for label in np.unique(labels)}
    worst = min(each, key=lambda label: each[label].value)
    found = each[worst]
    note = f"worst: {classes[worst]!r}, {found.value:.1%} of its {(labels == worst).sum()} rows"
    return Estimate(found.value, found.interval, note)


def classification_accuracy(
    images: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str], test: Dataset
) -> Estimate:
    """Classification accuracy score (Ravuri & Vinyals 2019, arXiv:1905.10887): accuracy on held-out
    real pictures of a judge that was trained on generated ones (N, C, H, W) in [-1, 1] alone.

    Raises TooFewRows without held-out rows.
    """
    if not len(test):
        raise TooFewRows("there are no test rows")
    made = Dataset(name="generated", samples=images, labels=labels, classes=tuple(classes))
    judge = Classifier.fitted(made)
    return of_share(judge.correct(test))
