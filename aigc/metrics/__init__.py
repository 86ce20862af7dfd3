"""Metrics of generated samples: functions of (real, generated, features) -> numbers.

A file named after a modality, with `judge(artifact, train, test, n, seed) -> list[Metric]`, is how
`aigc evaluate` judges samples of it: the folder is the registry. With
`side_by_side(artifact, test, seed) -> (H, W, C) uint8` it draws real ones above generated ones, and
`distance(real) -> Distance` is how quality is measured during training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.data import Dataset


@dataclass(frozen=True)
class Metric:
    """A figure with what real data scores beside it."""

    name: str
    value: float
    floor: float | None
    """The same metric of the real test split against the real training split."""
    better: str
    """`higher`, `lower`, or `real` for the nearer to what real data scores; empty where it is there
    to be compared with."""


Judge = Callable[[Artifact, Dataset, Dataset, int, int], list[Metric]]
Draw = Callable[[Artifact, Dataset, int], NDArray[np.uint8]]


def judge_of(modality: str) -> Judge | None:
    """What judges samples of a modality; None if there is no file for it."""
    return cast(Judge | None, _of(modality, "judge"))


def drawing_of(modality: str) -> Draw | None:
    """What draws real samples of a modality above generated ones; None if nothing does."""
    return cast(Draw | None, _of(modality, "side_by_side"))


def _of(modality: str, function: str) -> object | None:
    name = f"{__name__}.{modality}"
    return getattr(import_module(name), function, None) if find_spec(name) else None


def a_row_each(
    artifact: Artifact, test: Dataset, seed: int, columns: int = 10
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Held-out samples and the first ones of a seed, `columns` of both, of the same classes."""
    made, labels = first_samples(artifact, columns, seed)
    if labels is None:
        return test.samples[:columns], made
    rows = [np.flatnonzero(test.labels == label) for label in labels]
    # A class that comes again shows another sample; one without test samples shows none.
    turns = [int((labels[:i] == label).sum()) for i, label in enumerate(labels)]
    none = np.zeros_like(test.samples[0])
    real = [
        test.samples[own[turn % len(own)]] if len(own) else none
        for own, turn in zip(rows, turns, strict=True)
    ]
    return np.stack(real), made


Distance = Callable[[NDArray[Any]], float]
"""A Fréchet distance of samples, (N, *shape) or records as a data source has them, to real ones."""


def distance_to(modality: str) -> Callable[[Dataset], Distance | None] | None:
    """What makes a distance to real samples of a modality, None of data that allow none; None if
    there is nothing for it."""
    return cast("Callable[[Dataset], Distance | None] | None", _of(modality, "distance"))


def first_samples(
    artifact: Artifact, n: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """The first n samples of a seed, classes in turn, and their labels, None without classes."""
    signature = artifact.signature("sample")
    key = signature.outputs[0].name
    if signature.label is None:
        return artifact.sample(seed=seed, n=n)[key], None
    labels = np.arange(n) % len(signature.label.classes)
    return artifact.sample(seed=seed, n=n, label=labels.tolist())[key], labels
