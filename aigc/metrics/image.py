"""Metrics of images: accuracy, Fréchet distance, recall and precision under a network.

The network is trained on real images, as a classifier of their labels or, without labels, of
rotations (metrics/rotation.py); the names of the metrics say which.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.artifact.image_files import grid, to_uint8
from aigc.data import Dataset, scaled
from aigc.metrics import (
    MIN_ACCURACY,
    Distance,
    Evaluation,
    first_samples,
    matching_rows,
    mean,
    reliability_note,
    rotation,
)
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.frechet import add_frechet, frechet
from aigc.metrics.neighbours import coverage
from aigc.metrics.rotation import Rotations

Features = NDArray[np.float32]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Network:
    """A network trained on real images."""

    name: str
    features: Callable[[Features], Features]
    """(N, C, H, W) float32 in [-1, 1] -> (N, D)."""
    correct: Callable[[Dataset], NDArray[np.bool_]]
    """Real images -> (N,), True where the prediction is right."""
    min_accuracy: float
    """Smallest share of held-out images that a reliable network classifies correctly."""
    classes: Callable[[Features], NDArray[np.int64]] | None = None
    """(N, C, H, W) -> (N,) class indices; None without labels."""


def _trained_on(train: Dataset) -> _Network:
    if not _labelled(train):
        rotations = Rotations.trained_on(train)
        return _Network(
            name=rotation.NAME,
            features=rotations.features,
            correct=lambda real: rotations.correct(scaled(real.samples)),
            min_accuracy=rotation.MIN_ACCURACY,
        )
    classifier = Classifier.trained_on(train)
    return _Network(
        name=NAME,
        features=lambda images: classifier.classify(images).features,
        correct=lambda real: classifier.classify(scaled(real.samples)).predicted == real.labels,
        min_accuracy=MIN_ACCURACY,
        classes=lambda images: classifier.classify(images).predicted,
    )


def evaluate(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> Evaluation:
    """Metrics of the first n samples of a seed; the network is trained on `train` alone."""
    network = _trained_on(train)
    images, labels = first_samples(artifact, n, seed)
    correct = network.correct(test)
    note = reliability_note(correct, network.min_accuracy)
    evaluation = Evaluation()
    evaluation.add(f"judge/{network.name}", lambda: mean(correct), None, "higher", note)
    if network.classes is not None and labels is not None:
        matches = network.classes(images) == labels
        evaluation.add(
            f"accuracy/{network.name}", lambda: mean(matches), lambda: mean(correct), "higher", note
        )
    real, generated, held_out = (
        network.features(rows) for rows in (scaled(train.samples), images, scaled(test.samples))
    )
    _add_distances(evaluation, network.name, real, generated, held_out, note)
    return evaluation


def _labelled(dataset: Dataset) -> bool:
    return judge_name(dataset.classes) == NAME


def judge_name(classes: Sequence[str]) -> str:
    """Name of the network for data of these classes: a classifier if there are at least two."""
    return NAME if len(classes) > 1 else rotation.NAME


def _add_distances(
    evaluation: Evaluation,
    name: str,
    real: Features,
    generated: Features,
    held_out: Features,
    note: str,
) -> None:
    add_frechet(evaluation, f"frechet/{name}", real, generated, held_out, note)
    for figure, points, manifold in (
        ("recall", held_out, generated),
        ("precision", generated, real),
    ):
        evaluation.add(
            f"{figure}/{name}",
            partial(coverage, points, manifold),
            lambda: coverage(held_out, real),
            "higher",
            note,
        )


def distance(real: Dataset) -> Distance | None:
    """Fréchet distance in features of a network trained on nine tenths of `real`, with a note if
    the rest finds it unreliable, which is logged, too. None for a single image."""
    if len(real) < 2:
        return None
    held_out = np.arange(len(real)) % 10 == 9
    network = _trained_on(_rows(real, ~held_out))
    note = reliability_note(network.correct(_rows(real, held_out)), network.min_accuracy)
    if note:
        log.warning("quality, frechet/%s: %s", network.name, note)
    known = network.features(scaled(real.samples))
    return Distance(lambda images: frechet(known, network.features(images)), note)


def _rows(dataset: Dataset, chosen: NDArray[np.bool_]) -> Dataset:
    samples, labels = dataset.samples[chosen], dataset.labels[chosen]
    return replace(dataset, samples=samples, labels=labels, origin=None)


def side_by_side(artifact: Artifact, test: Dataset, seed: int) -> NDArray[np.uint8]:
    """A row of test images above a row of the first samples of a seed."""
    real, generated = matching_rows(artifact, test, seed)
    return grid(to_uint8(np.concatenate([scaled(real), generated]), -1, 1), len(real))
