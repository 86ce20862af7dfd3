"""Metrics of generated samples: functions of (real, generated, features) -> numbers.

A file named after a modality, with `judge(artifact, train, test, n, seed) -> list[Metric]`, is how
`aigc evaluate` judges samples of it: the folder is the registry. Its `distance(real) -> Distance`,
where it has one, is how quality is measured during training.
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


def judge_of(modality: str) -> Judge | None:
    """What judges samples of a modality; None if there is no file for it."""
    name = f"{__name__}.{modality}"
    return cast(Judge, import_module(name).judge) if find_spec(name) else None


Distance = Callable[[NDArray[Any]], float]
"""A Fréchet distance of samples, (N, *shape) as a data source has them, to real ones."""


def distance_to(modality: str) -> Callable[[Dataset], Distance | None] | None:
    """What makes a distance to real samples of a modality, None of data that allow none; None if
    there is nothing for it."""
    name = f"{__name__}.{modality}"
    module = import_module(name) if find_spec(name) else None
    return cast("Callable[[Dataset], Distance | None] | None", getattr(module, "distance", None))


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
