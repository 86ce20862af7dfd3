"""Metrics of samples of several modalities: coherence between them, and quality of each.

Coherence is the share of samples that classifiers trained on real data assign to the class of the
input, or to one class in all modalities. A generator of class prototypes is coherent too, so the
Fréchet distance and the diversity within a class are measured beside it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, TensorSpec
from aigc.artifact.image_files import grid, to_uint8
from aigc.artifact.vocabulary import Vocabulary
from aigc.data import Dataset
from aigc.data.sources.paired import MASK
from aigc.metrics import Distance, Evaluation, Omitted, mean, reliability_note
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.frechet import add_frechet, frechet
from aigc.metrics.sound import diversity, log_mel, pooled
from aigc.metrics.text import pairs

NO_CLASS = -1
"""Class of a text that is no valid word."""
BATCH = 64


class ModalityClassifier(Protocol):
    """Classifier and feature extractor of one modality."""

    @property
    def name(self) -> str:
        """Name of the method, part of the metric's name."""

    def classes(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        """(N, *shape) -> (N,) class indices or NO_CLASS."""

    def features(self, samples: NDArray[Any]) -> NDArray[np.float32] | None:
        """(N, *shape) -> (N, D); None where a Fréchet distance has no meaning."""


@dataclass(frozen=True)
class _Real:
    """One modality of the real data, with its classifier."""

    classifier: ModalityClassifier
    correct: NDArray[np.bool_]
    """(N,) True for test rows that are assigned their class."""
    train: NDArray[np.float32] | None
    """Features (N, D) of the distinct training samples."""
    test: NDArray[np.float32] | None
    """Features (M, D) of the distinct test samples."""
    labels: NDArray[np.int64]
    """(M,) classes of the distinct test samples."""


class _TextLookup:
    """Exact match with the real texts."""

    name = "exact"

    def __init__(self, vocabulary: Sequence[str], real: NDArray[Any], labels: NDArray[Any]) -> None:
        self._vocabulary = Vocabulary(vocabulary)
        texts = self._vocabulary.texts(real)
        self._classes = dict(zip(texts, labels.tolist(), strict=True))

    def classes(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        texts = self._vocabulary.texts(samples)
        return np.array([self._classes.get(text, NO_CLASS) for text in texts], np.int64)

    def features(self, samples: NDArray[Any]) -> None:
        return None


@dataclass(frozen=True)
class _ImageClassifier:
    """A CNN trained on real images."""

    network: Classifier
    name: str = NAME

    def classes(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        return self.network.classify(samples).predicted

    def features(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        return self.network.classify(samples).features


class _AudioClassifier:
    """A CNN trained on log-mel pictures of real sounds; features are pooled log-mel bands."""

    name = NAME

    def __init__(self, rate_hz: int, real: Dataset) -> None:
        self._rate_hz = rate_hz
        mel = log_mel(real.samples[:, 0], rate_hz)
        self._span = float(mel.min()), float(mel.max())
        self._network = Classifier.trained_on(replace(real, samples=self._picture(mel)))

    def classes(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        mel = log_mel(samples[:, 0], self._rate_hz)
        return self._network.classify(self._picture(mel)).predicted

    def features(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        return pooled(log_mel(samples[:, 0], self._rate_hz))

    def _picture(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = self._span
        return np.asarray((2 * (mel - low) / (high - low) - 1).clip(-1, 1)[:, None], np.float32)


def evaluate(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> Evaluation:
    """Metrics of the signatures `sample` and `translate`, the latter applied to test rows.

    Only complete rows are used, at most n. `coherence/a+b>c` is the share of c generated from a and
    b that has their class, `coherence/joint` that of samples whose parts all have one class; floors
    are the classifiers' accuracies on real test data. Without complete test rows nothing is
    translated, and n samples are drawn. Raises ValueError for training data without classes or
    without complete rows.
    """
    train, test = _complete_rows(train), _complete_rows(test, at_least=0)
    real = {spec.name: _real(spec, train, test) for spec in artifact.signature("sample").outputs}
    n = min(n, len(test) or n)
    evaluation = _joint(artifact, real, len(train.classes), n, seed)
    for size in range(1, len(real)):
        for given in itertools.combinations(real, size):
            if len(test):
                evaluation.extend(_translations(artifact, given, real, test, n, seed))
            else:
                reason = "no test row has all modalities, from which it could be generated"
                evaluation.omitted.append(Omitted(f"coherence/{'+'.join(given)}", reason))
    return evaluation


def distance(real: Dataset) -> Distance | None:
    """Fréchet distance of the concatenated features of all modalities, each of total variance 1.

    The covariance reflects which parts belong together, so good parts of different rows are far
    from real rows, too. None without classes, or with fewer than two complete rows.
    """
    try:
        real = _complete_rows(real, at_least=2)
    except ValueError:
        return None
    names = [name for name in real.samples.dtype.names or () if not name.startswith(MASK)]
    measures = {name: _measure(name, real) for name in names}

    def features(rows: NDArray[Any]) -> NDArray[np.float64]:
        return np.concatenate([measures[name](rows[name]) for name in names], 1)

    known = features(real.samples)
    return Distance(lambda rows: frechet(known, features(rows)))


def _measure(name: str, real: Dataset) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Scaled features of one modality: (N, *shape) -> (N, D)."""
    measures: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "text": pairs,
        "audio": lambda waves: pooled(log_mel(waves[:, 0], real.sample_rate_hz)),
    }
    extract = (
        measures.get(name) or _ImageClassifier(Classifier.trained_on(_part(real, name))).features
    )
    scale = np.sqrt(extract(real.samples[name]).var(0).sum()) or 1.0
    return lambda samples: extract(samples) / scale


def _complete_rows(dataset: Dataset, at_least: int = 1) -> Dataset:
    """Rows with all modalities. Raises ValueError for fewer than `at_least`, or no classes."""
    names = [name for name in dataset.samples.dtype.names or () if name.startswith(MASK)]
    rows = np.logical_and.reduce([dataset.samples[name] == 1 for name in names])
    if not dataset.classes or rows.sum() < at_least:
        raise ValueError(
            f"data {dataset.name!r} has no classes, or no row with all of {', '.join(names)}:"
            " coherence is about classes of whole rows"
        )
    samples, labels = dataset.samples[rows], dataset.labels[rows]
    return replace(dataset, samples=samples, labels=labels, origin=None)


def _joint(
    artifact: Artifact, real: dict[str, _Real], num_classes: int, n: int, seed: int
) -> Evaluation:
    """Metrics of samples of all modalities."""
    generated = artifact.sample(seed=seed, n=n)
    seen = {name: part.classifier.classes(generated[name]) for name, part in real.items()}
    first, *others = seen.values()
    agree = np.logical_and.reduce([first == other for other in others]) & (first != NO_CLASS)
    num_classes_seen = float(len(set(first[agree].tolist())))
    doubts = {reliability_note(part.correct) for part in real.values()} - {""}
    evaluation = Evaluation()
    evaluation.add(
        "coherence/joint",
        lambda: mean(agree),
        lambda: float(np.prod([mean(part.correct) for part in real.values()])),
        "higher",
        "; ".join(sorted(doubts)),
    )
    evaluation.add("classes/joint", lambda: num_classes_seen, lambda: float(num_classes), "higher")
    for name, part in real.items():
        if part.test is None:
            valid = float((seen[name] != NO_CLASS).mean())
            evaluation.add(f"valid/joint>{name}", partial(float, valid), lambda: 1.0, "higher")
        _spread(evaluation, f"joint>{name}", part, generated[name], seen[name])
    return evaluation


def _translations(
    artifact: Artifact,
    given: tuple[str, ...],
    real: dict[str, _Real],
    test: Dataset,
    n: int,
    seed: int,
) -> Evaluation:
    """Metrics of all other modalities, generated from the given ones."""
    # Rows are sorted by class, so equal steps reach each class.
    rows = np.linspace(0, len(test) - 1, n).astype(int)
    generated = _translated(artifact, given, test, rows, seed)
    evaluation = Evaluation()
    labels = test.labels[rows]
    for name in (name for name in real if name not in given):
        part, samples = real[name], generated[name]
        which = f"{'+'.join(given)}>{name}"
        evaluation.add(
            f"coherence/{which}/{part.classifier.name}",
            partial(mean, part.classifier.classes(samples) == labels),
            partial(mean, part.correct),
            "higher",
            reliability_note(part.correct),
        )
        _spread(evaluation, which, part, samples, labels)
    return evaluation


def _translated(
    artifact: Artifact,
    given: tuple[str, ...],
    test: Dataset,
    rows: NDArray[np.int64],
    seed: int,
    first_index: int = 0,
) -> dict[str, NDArray[Any]]:
    """Outputs of `translate` for the given modalities of test rows, by their names in `sample`."""
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
    """Test images, two of each class, and below them the images generated from each of the other
    modalities of their rows.

    Raises ValueError for a model without images.
    """
    test = _complete_rows(test)
    kinds = {spec.name: spec.kind for spec in artifact.signature("sample").outputs}
    image = next((name for name, kind in kinds.items() if kind == "image"), "")
    if not image:
        raise ValueError(f"{artifact.id} generates no images, only {', '.join(kinds)}")
    rows = np.concatenate([np.flatnonzero(test.labels == c)[:2] for c in np.unique(test.labels)])
    shown = [test.samples[image][rows]]
    for name in (name for name in kinds if name != image):
        # Other noise for each modality: with the same the rows would look alike.
        first_index = len(shown) * len(rows)
        shown.append(_translated(artifact, (name,), test, rows, seed, first_index)[image])
    return grid(to_uint8(np.concatenate(shown), -1, 1), len(rows))


def _spread(
    evaluation: Evaluation,
    which: str,
    real: _Real,
    generated: NDArray[Any],
    labels: NDArray[np.int64],
) -> None:
    """Add Fréchet distance and diversity within classes, of as many samples as there are distinct
    test ones: the distance shrinks with their number."""
    own, train, test = real.classifier.features(generated), real.train, real.test
    if own is None or train is None or test is None:
        return
    few = np.random.default_rng(0).permutation(len(own))[: len(test) or None]
    add_frechet(evaluation, f"frechet/{which}", train, own[few], test)
    evaluation.add(
        f"diversity/{which}",
        lambda: diversity(own[few], labels[few]),
        lambda: diversity(test, real.labels),
        "real",
    )


def _real(spec: TensorSpec, train: Dataset, test: Dataset) -> _Real:
    own, held_out = _part(train, spec.name), _part(test, spec.name)
    classifier: ModalityClassifier
    if spec.kind == "text":
        classifier = _TextLookup(spec.vocabulary, own.samples, own.labels)
    elif spec.kind == "audio":
        classifier = _AudioClassifier(spec.sample_rate_hz, own)
    else:
        classifier = _ImageClassifier(Classifier.trained_on(own))
    return _Real(
        classifier=classifier,
        correct=classifier.classes(test.samples[spec.name]) == test.labels,
        train=classifier.features(own.samples),
        test=classifier.features(held_out.samples),
        labels=held_out.labels,
    )


def _part(dataset: Dataset, name: str) -> Dataset:
    """One modality of the rows as a data set of its own, without duplicates."""
    samples, rows = np.unique(dataset.samples[name], axis=0, return_index=True)
    labels = dataset.labels[rows]
    return replace(dataset, name=f"{dataset.name}/{name}", samples=samples, labels=labels)
