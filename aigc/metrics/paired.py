"""Several things that belong together: does one follow from another, and is it a sample?

Coherence is the share of what was made that classifiers trained on real data take for the class
that was given, or for one class in all modalities. A generator of class prototypes is coherent, so
the Fréchet distance and the spread within a class stand beside it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, TensorSpec
from aigc.artifact.vocabulary import Vocabulary
from aigc.data import Dataset
from aigc.metrics import Metric
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.frechet import frechet
from aigc.metrics.sound import diversity, log_mel

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
    """A CNN of pictures of real sounds; their features are log-mel bands over eighths of the time.

    The same as metrics/audio.py has."""

    name = NAME

    def __init__(self, rate_hz: int, real: Dataset) -> None:
        self._rate_hz = rate_hz
        self._span = (0.0, 1.0)
        mel = log_mel(real.samples[:, 0], rate_hz)
        self._span = float(mel.min()), float(mel.max())
        self._network = Classifier.trained_on(replace(real, samples=self._picture(mel)))

    def classes(self, made: NDArray[Any]) -> NDArray[np.int64]:
        mel = log_mel(made[:, 0], self._rate_hz)
        return self._network.judge(self._picture(mel)).predicted

    def features(self, made: NDArray[Any]) -> NDArray[np.float32]:
        mel = log_mel(made[:, 0], self._rate_hz)
        pooled = mel.reshape(*mel.shape[:2], 8, -1).mean(3).reshape(len(mel), -1)
        return np.asarray(pooled, np.float32)

    def _picture(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = self._span
        return np.asarray((2 * (mel - low) / (high - low) - 1).clip(-1, 1)[:, None], np.float32)


def judge(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> list[Metric]:
    """Of signatures `sample` and `translate`, the latter given what the test rows hold.

    As many rows as the test split has, n at most; classes are needed. Names: `coherence/a+b>c` is
    the share of c made from a and b that is of their class, `coherence/joint` that of samples whose
    parts are all of one class; floors are what the classifiers make of real test data.
    """
    specs = artifact.signature("sample").outputs
    n = min(n, len(test))
    readers = {spec.name: _reader(spec, train) for spec in specs}
    right = {
        name: float((reader.classes(test.samples[name]) == test.labels).mean())
        for name, reader in readers.items()
    }
    joint = artifact.sample(seed=seed, n=n)
    names = [spec.name for spec in specs]
    seen = {name: reader.classes(joint[name]) for name, reader in readers.items()}
    first = seen[names[0]]
    agree = np.logical_and.reduce([seen[name] == first for name in names]) & (first != NOTHING)
    metrics = [
        Metric("coherence/joint", float(agree.mean()), float(np.prod([*right.values()])), "higher")
    ]
    metrics.append(
        Metric(
            "classes/joint",
            float(len(set(first[agree].tolist()))),
            float(len(train.classes)),
            "higher",
        )
    )
    for name in names:
        if (seen[name] == NOTHING).any() or readers[name].features(joint[name][:1]) is None:
            valid = float((seen[name] != NOTHING).mean())
            metrics.append(Metric(f"valid/joint>{name}", valid, 1.0, "higher"))
    metrics += _spread("joint", joint, seen, readers, train, test)
    for size in range(1, len(names)):
        for given in itertools.combinations(names, size):
            metrics += _from(artifact, given, readers, right, train, test, n, seed)
    return metrics


def _from(
    artifact: Artifact,
    given: tuple[str, ...],
    readers: dict[str, Reader],
    right: dict[str, float],
    train: Dataset,
    test: Dataset,
    n: int,
    seed: int,
) -> list[Metric]:
    """What a subset makes of all others."""
    signature = artifact.signature("translate")
    outputs = {spec.kind: spec.name for spec in signature.outputs}
    inputs = {spec.kind: spec.name for spec in signature.optional}
    kinds = {spec.name: spec.kind for spec in artifact.signature("sample").outputs}
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in readers}
    # Test rows go by class, so some of each are taken.
    rows = np.linspace(0, len(test) - 1, n).astype(int)
    for start in range(0, n, BATCH):
        own = rows[start : start + BATCH]
        fields = {inputs[kinds[name]]: test.samples[name][own] for name in given}
        indices = range(start, start + len(own))
        found = artifact.run("translate", artifact.draw("translate", seed, indices, given=fields))
        for name in readers:
            parts[name].append(found[outputs[kinds[name]]])
    made = {name: np.concatenate(part) for name, part in parts.items() if name not in given}
    labels = test.labels[rows]
    source = "+".join(given)
    metrics = []
    for name in made:
        value = float((readers[name].classes(made[name]) == labels).mean())
        metrics.append(
            Metric(f"coherence/{source}>{name}/{readers[name].name}", value, right[name], "higher")
        )
    return metrics + _spread(source, made, dict.fromkeys(made, labels), readers, train, test)


def _spread(
    source: str,
    made: dict[str, NDArray[Any]],
    labels: dict[str, NDArray[np.int64]],
    readers: dict[str, Reader],
    train: Dataset,
    test: Dataset,
) -> list[Metric]:
    """Fréchet distance and diversity within classes, of as many as there are different test ones:
    the distance shrinks with their number."""
    metrics = []
    for name in made:
        held_out, which = np.unique(test.samples[name], axis=0, return_index=True)
        own = readers[name].features(made[name])
        if own is None:
            continue
        real = readers[name].features(np.unique(train.samples[name], axis=0))
        other = readers[name].features(held_out)
        assert real is not None
        assert other is not None
        few = np.random.default_rng(0).permutation(len(own))[: len(other)]
        metrics.append(
            Metric(
                f"frechet/{source}>{name}", frechet(real, own[few]), frechet(real, other), "lower"
            )
        )
        metrics.append(
            Metric(
                f"diversity/{source}>{name}",
                diversity(own[few], labels[name][few]),
                diversity(other, test.labels[which]),
                "real",
            )
        )
    return metrics


def _reader(spec: TensorSpec, train: Dataset) -> Reader:
    samples = train.samples[spec.name]
    if spec.kind == "text":
        return _Words(spec.vocabulary, samples, train.labels)
    _, which = np.unique(samples, axis=0, return_index=True)
    own = Dataset(
        name=f"{train.name}/{spec.name}",
        samples=samples[which],
        labels=train.labels[which],
        classes=train.classes,
    )
    return (
        _Sounds(spec.sample_rate_hz, own)
        if spec.kind == "audio"
        else _Pictures(Classifier.trained_on(own))
    )
