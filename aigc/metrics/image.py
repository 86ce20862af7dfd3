"""Images judged by a classifier of real ones: accuracy, Fréchet distance, recall, precision."""

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.artifact.codecs import grid, to_uint8
from aigc.data import Dataset, scaled
from aigc.metrics import Distance, Metric, a_row_each, first_samples
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.frechet import frechet
from aigc.metrics.neighbours import covered


def judge(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> list[Metric]:
    """Metrics of the first n samples of a seed; the classifier is trained on `train` alone."""
    classifier = Classifier.trained_on(train)
    held_out = classifier.judge(scaled(test.samples))
    on_test = float((held_out.predicted == test.labels).mean())
    images, labels = first_samples(artifact, n, seed)
    made = classifier.judge(images)
    real = classifier.judge(scaled(train.samples))
    metrics = [Metric(f"judge/{NAME}", on_test, None, "higher")]
    if labels is not None:
        accuracy = float((made.predicted == labels).mean())
        metrics.append(Metric(f"accuracy/{NAME}", accuracy, on_test, "higher"))
    metrics += [
        Metric(
            f"frechet/{NAME}",
            frechet(real.features, made.features),
            frechet(real.features, held_out.features),
            "lower",
        ),
        Metric(
            f"recall/{NAME}",
            covered(held_out.features, made.features),
            covered(held_out.features, real.features),
            "higher",
        ),
        Metric(
            f"precision/{NAME}",
            covered(made.features, real.features),
            covered(held_out.features, real.features),
            "higher",
        ),
    ]
    return metrics


def distance(real: Dataset) -> Distance | None:
    """Fréchet, in features of a classifier that is trained on `real`; none without classes."""
    if not real.classes:
        return None
    classifier = Classifier.trained_on(real)
    features = classifier.judge(real.samples).features
    return lambda images: frechet(features, classifier.judge(images).features)


def side_by_side(artifact: Artifact, test: Dataset, seed: int) -> NDArray[np.uint8]:
    """A row of test images above a row of the first samples of a seed."""
    real, made = a_row_each(artifact, test, seed)
    return grid(to_uint8(np.concatenate([scaled(real), made]), -1, 1), len(real))
