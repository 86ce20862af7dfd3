"""Several things that belong together: does one follow from another, and is it a sample?

Coherence is the share of what was made that classifiers trained on real data take for the class
that was given, or for one class in all modalities. A generator of class prototypes is coherent, so
the Fréchet distance and the spread within a class stand beside it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, TensorSpec
from aigc.artifact.codecs import grid, to_uint8
from aigc.artifact.vocabulary import Vocabulary
from aigc.data import Dataset
from aigc.data.paired import MASK
from aigc.metrics import Distance, Metric
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.frechet import frechet
from aigc.metrics.sound import diversity, log_mel, pooled
from aigc.metrics.text import pairs

NOTHING = -1
"""Class of what is no valid word."""
BATCH = 64


class Reader(Protocol):
    """Tells classes of one modality apart, and gives features."""

    @property
    def name(self) -> str:
        """Of the method: part of the metric's name."""

    def classes(self, made: NDArray[Any]) -> NDArray[np.int64]:
        """(N,) class indices, NOTHING for what is of no class."""

    def features(self, made: NDArray[Any]) -> NDArray[np.float32] | None:
        """(N, D); None where Fréchet distances mean nothing."""


@dataclass(frozen=True)
class _Real:
    """A modality of real data, and who tells its classes apart."""

    reader: Reader
    right: float
    """Share of test rows taken for their class."""
    train: NDArray[np.float32] | None
    """Features of the different ones in the training split, (N, D)."""
    test: NDArray[np.float32] | None
    """Of the different ones in the test split."""
    labels: NDArray[np.int64]
    """Classes of these."""


class _Words:
    """Looks texts up among the real ones."""

    name = "exact"

    def __init__(self, vocabulary: Sequence[str], real: NDArray[Any], labels: NDArray[Any]) -> None:
        self._vocabulary = Vocabulary(vocabulary)
        texts = self._vocabulary.texts(real)
        self._classes = dict(zip(texts, labels.tolist(), strict=True))

    def classes(self, made: NDArray[Any]) -> NDArray[np.int64]:
        texts = self._vocabulary.texts(made)
        return np.array([self._classes.get(text, NOTHING) for text in texts], np.int64)

    def features(self, made: NDArray[Any]) -> None:
        return None


@dataclass(frozen=True)
class _Pictures:
    """A CNN of real images."""

    network: Classifier
    name: str = NAME

    def classes(self, made: NDArray[Any]) -> NDArray[np.int64]:
        return self.network.judge(made).predicted

    def features(self, made: NDArray[Any]) -> NDArray[np.float32]:
        return self.network.judge(made).features


class _Sounds:
    """A CNN of pictures of real sounds; their features are pooled log-mel bands."""

    name = NAME

    def __init__(self, rate_hz: int, real: Dataset) -> None:
        self._rate_hz = rate_hz
        mel = log_mel(real.samples[:, 0], rate_hz)
        self._span = float(mel.min()), float(mel.max())
        self._network = Classifier.trained_on(replace(real, samples=self._picture(mel)))

    def classes(self, made: NDArray[Any]) -> NDArray[np.int64]:
        mel = log_mel(made[:, 0], self._rate_hz)
        return self._network.judge(self._picture(mel)).predicted

    def features(self, made: NDArray[Any]) -> NDArray[np.float32]:
        return pooled(log_mel(made[:, 0], self._rate_hz))

    def _picture(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = self._span
        return np.asarray((2 * (mel - low) / (high - low) - 1).clip(-1, 1)[:, None], np.float32)


def judge(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> list[Metric]:
    """Of signatures `sample` and `translate`, the latter given what the test rows hold.

    Of rows that lack nothing, as many as the test split has, n at most. `coherence/a+b>c` is the
    share of c made from a and b that is of their class, `coherence/joint` that of samples whose
    parts are all of one class; floors are what the classifiers make of real test data. Raises
    ValueError for data without classes, or without such rows.
    """
    train, test = _whole(train), _whole(test)
    real = {spec.name: _real(spec, train, test) for spec in artifact.signature("sample").outputs}
    n = min(n, len(test))
    metrics = _joint(artifact, real, len(train.classes), n, seed)
    for size in range(1, len(real)):
        for given in itertools.combinations(real, size):
            metrics += _from(artifact, given, real, test, n, seed)
    return metrics


def distance(real: Dataset) -> Distance | None:
    """Fréchet, in features of all parts of a row side by side, each part's of total variance 1.

    Its covariance tells which parts belong together: good ones that do not are far from real rows,
    too. None without classes, or without rows that lack nothing.
    """
    try:
        real = _whole(real)
    except ValueError:
        return None
    names = [name for name in real.samples.dtype.names or () if not name.startswith(MASK)]
    measures = {name: _measure(name, real) for name in names}

    def features(rows: NDArray[Any]) -> NDArray[np.float64]:
        return np.concatenate([measures[name](rows[name]) for name in names], 1)

    known = features(real.samples)
    return lambda rows: frechet(known, features(rows))


def _measure(name: str, real: Dataset) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Features of one part, so scaled: (N, *shape) -> (N, D)."""
    measures: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "text": pairs,
        "audio": lambda made: pooled(log_mel(made[:, 0], real.sample_rate_hz)),
    }
    of = measures.get(name) or _Pictures(Classifier.trained_on(_part(real, name))).features
    scale = np.sqrt(of(real.samples[name]).var(0).sum()) or 1.0
    return lambda made: of(made) / scale


def _whole(dataset: Dataset) -> Dataset:
    """The rows that have everything."""
    names = [name for name in dataset.samples.dtype.names or () if name.startswith(MASK)]
    rows = np.logical_and.reduce([dataset.samples[name] == 1 for name in names])
    if not dataset.classes or not rows.any():
        raise ValueError(
            f"data {dataset.name!r} has no classes, or no row with all of {', '.join(names)}:"
            " coherence is about classes of whole rows"
        )
    samples, labels = dataset.samples[rows], dataset.labels[rows]
    return replace(dataset, samples=samples, labels=labels, origin=None)


def _joint(
    artifact: Artifact, real: dict[str, _Real], num_classes: int, n: int, seed: int
) -> list[Metric]:
    """Of samples of all modalities."""
    made = artifact.sample(seed=seed, n=n)
    seen = {name: part.reader.classes(made[name]) for name, part in real.items()}
    first, *others = seen.values()
    agree = np.logical_and.reduce([first == other for other in others]) & (first != NOTHING)
    right = float(np.prod([part.right for part in real.values()]))
    num_found = float(len(set(first[agree].tolist())))
    metrics = [
        Metric("coherence/joint", float(agree.mean()), right, "higher"),
        Metric("classes/joint", num_found, float(num_classes), "higher"),
    ]
    for name, part in real.items():
        if part.test is None:
            valid = float((seen[name] != NOTHING).mean())
            metrics.append(Metric(f"valid/joint>{name}", valid, 1.0, "higher"))
        metrics += _spread(f"joint>{name}", part, made[name], seen[name])
    return metrics


def _from(
    artifact: Artifact,
    given: tuple[str, ...],
    real: dict[str, _Real],
    test: Dataset,
    n: int,
    seed: int,
) -> list[Metric]:
    """Of what a subset makes of all others."""
    # Rows go by class, so these are of each class.
    rows = np.linspace(0, len(test) - 1, n).astype(int)
    made = _translated(artifact, given, test, rows, seed)
    metrics = []
    labels = test.labels[rows]
    for name in (name for name in real if name not in given):
        part, whole = real[name], made[name]
        which = f"{'+'.join(given)}>{name}"
        value = float((part.reader.classes(whole) == labels).mean())
        metrics.append(Metric(f"coherence/{which}/{part.reader.name}", value, part.right, "higher"))
        metrics += _spread(which, part, whole, labels)
    return metrics


def _translated(
    artifact: Artifact,
    given: tuple[str, ...],
    test: Dataset,
    rows: NDArray[np.int64],
    seed: int,
    first_index: int = 0,
) -> dict[str, NDArray[Any]]:
    """What `given` of some test rows makes, by the names that signature `sample` has for it."""
    signature = artifact.signature("translate")
    outputs = {spec.kind: spec.name for spec in signature.outputs}
    inputs = {spec.kind: spec.name for spec in signature.optional}
    kinds = {spec.name: spec.kind for spec in artifact.signature("sample").outputs}
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, len(rows), BATCH):
        own = rows[start : start + BATCH]
        fields = {inputs[kinds[name]]: test.samples[name][own] for name in given}
        indices = range(first_index + start, first_index + start + len(own))
        drawn = artifact.draw("translate", seed, indices, given=fields)
        parts.append(artifact.run("translate", drawn))
    return {
        name: np.concatenate([part[outputs[kind]] for part in parts])
        for name, kind in kinds.items()
    }


def side_by_side(artifact: Artifact, test: Dataset, seed: int) -> NDArray[np.uint8]:
    """Test images, two of each class; below, what is drawn from the other parts of their rows, one
    part after the other.

    Raises ValueError for a model without images.
    """
    test = _whole(test)
    kinds = {spec.name: spec.kind for spec in artifact.signature("sample").outputs}
    image = next((name for name, kind in kinds.items() if kind == "image"), "")
    if not image:
        raise ValueError(f"{artifact.id} makes no images, only {', '.join(kinds)}")
    rows = np.concatenate([np.flatnonzero(test.labels == c)[:2] for c in np.unique(test.labels)])
    shown = [test.samples[image][rows]]
    for name in (name for name in kinds if name != image):
        # Other noise for each, or one row would look like the next.
        first_index = len(shown) * len(rows)
        shown.append(_translated(artifact, (name,), test, rows, seed, first_index)[image])
    return grid(to_uint8(np.concatenate(shown), -1, 1), len(rows))


def _spread(which: str, real: _Real, made: NDArray[Any], labels: NDArray[np.int64]) -> list[Metric]:
    """Fréchet distance and diversity within classes, of as many as there are different test ones:
    the distance shrinks with their number."""
    own = real.reader.features(made)
    if own is None or real.train is None or real.test is None:
        return []
    few = np.random.default_rng(0).permutation(len(own))[: len(real.test)]
    distance, floor = frechet(real.train, own[few]), frechet(real.train, real.test)
    spread, real_spread = diversity(own[few], labels[few]), diversity(real.test, real.labels)
    return [
        Metric(f"frechet/{which}", distance, floor, "lower"),
        Metric(f"diversity/{which}", spread, real_spread, "real"),
    ]


def _real(spec: TensorSpec, train: Dataset, test: Dataset) -> _Real:
    own, held_out = _part(train, spec.name), _part(test, spec.name)
    reader: Reader
    if spec.kind == "text":
        reader = _Words(spec.vocabulary, own.samples, own.labels)
    elif spec.kind == "audio":
        reader = _Sounds(spec.sample_rate_hz, own)
    else:
        reader = _Pictures(Classifier.trained_on(own))
    return _Real(
        reader=reader,
        right=float((reader.classes(test.samples[spec.name]) == test.labels).mean()),
        train=reader.features(own.samples),
        test=reader.features(held_out.samples),
        labels=held_out.labels,
    )


def _part(dataset: Dataset, name: str) -> Dataset:
    """What is in the rows under a name, each once, as data of its own."""
    found, which = np.unique(dataset.samples[name], axis=0, return_index=True)
    of = f"{dataset.name}/{name}"
    return replace(dataset, name=of, samples=found, labels=dataset.labels[which])
