"""The 1,797 handwritten digits that come with scikit-learn: real, small and offline.

Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI. 8x8 pixels, 17 levels.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc.config import DataConfig
from aigc.data import Dataset, Split, resize
from aigc.data.survey import Survey

TEST = 360
"""Rows held out."""


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """A fixed stratified split: 1,437 to train, 360 to test."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    # Its file alone: importing scikit-learn takes a process longer than importing torch.
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    labels = table[:, -1].astype(np.int64)
    train, test = stratified(labels)
    rows = train if split == "train" else test
    return Dataset(
        name="digits",
        samples=resize(table[rows, :-1].reshape(-1, 8, 8), shape, high=16, name="digits"),
        labels=labels[rows],
        classes=tuple(map(str, range(10))),
        known=Survey(splits={"train": len(train), "test": len(test)}),
    )


def stratified(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and to test with, as `sklearn.model_selection.train_test_split` draws them.

    Its arguments are test_size=0.2, random_state=0 and stratify=labels.
    """
    random = np.random.RandomState(0)
    counts = np.bincount(labels)
    for_training = _shares(counts, len(labels) - TEST, random)
    for_testing = _shares(counts - for_training, TEST, random)
    train: list[int] = []
    test: list[int] = []
    for label, count in enumerate(counts):
        shuffled = np.flatnonzero(labels == label)[random.permutation(count)]
        first, last = for_training[label], for_training[label] + for_testing[label]
        train += shuffled[:first].tolist()
        test += shuffled[first:last].tolist()
    return random.permutation(train), random.permutation(test)


def _shares(counts: NDArray[np.int64], n: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Rows of each class among `n`: its share, rounded up where the largest fraction was cut."""
    exact = counts / counts.sum() * n
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    fractions = exact - shares
    for fraction in np.unique(fractions)[::-1]:
        (tied,) = np.where(fractions == fraction)
        missing = n - int(shares.sum())
        if missing == 0:
            break
        shares[random.choice(tied, min(len(tied), missing), replace=False)] += 1
    return shares
