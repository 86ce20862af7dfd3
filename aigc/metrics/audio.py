"""Metrics of sounds, chosen so that neither a whisper nor a single voice scores well in all.

Accuracy under two classifiers that share neither features nor method, the Fréchet distance of
log-mel spectra, harmonicity, diversity within a class, duration, and distance to training clips.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.artifact.image_files import grid
from aigc.data import Dataset
from aigc.metrics import (
    Distance,
    Evaluation,
    TooFewRows,
    first_samples,
    matching_rows,
    mean,
    reliability_note,
)
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.frechet import add_frechet, frechet
from aigc.metrics.neighbours import copied, nearest
from aigc.metrics.sound import (
    Waves,
    diversity,
    duration_s,
    harmonicity,
    log_mel,
    pooled,
    spectrograms,
)

QUIETEST = float(np.log(1e-3))
"""Value of log_mel() for silence."""
SVM = "mfcc_svm"
"""Name of the support vector machine on 13 cepstral coefficients over 16 stretches of time."""
COEFFICIENTS = 13


def evaluate(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> Evaluation:
    """Metrics of the first samples of a seed: as many as there are test clips, at most n; n if
    there are no test clips.

    A Fréchet distance shrinks with the number of clips, so only equal numbers are comparable. Both
    classifiers are trained on `train` alone; without classes there are no accuracies.
    """
    n = min(n, len(test) or n)
    rate_hz = sample_rate_hz(artifact)
    sounds, labels = first_samples(artifact, n, seed)
    generated, own = sounds[:, 0], np.zeros(n, np.int64) if labels is None else labels
    real, held_out = train.samples[:, 0], test.samples[:n, 0]
    mel = {
        name: log_mel(waves, rate_hz)
        for name, waves in (("generated", generated), ("real", real), ("test", held_out))
    }
    evaluation = Evaluation()
    if labels is not None:
        evaluation.extend(_accuracies(mel, own, replace(train, origin=None), test.labels[:n]))
    spectra = {name: pooled(one) for name, one in mel.items()}
    add_frechet(
        evaluation, "frechet/log_mel", spectra["real"], spectra["generated"], spectra["test"]
    )
    evaluation.add(
        "diversity/log_mel",
        lambda: diversity(mel["generated"], own),
        lambda: diversity(mel["test"], test.labels[:n]),
        "real",
    )
    for name, of in (("harmonicity", harmonicity), ("duration_s", duration_s)):
        evaluation.add(
            name,
            partial(_mean_of, of, generated, rate_hz),
            partial(_mean_of, of, held_out, rate_hz),
            "real",
        )
    evaluation.extend(_memorisation(mel))
    return evaluation


def side_by_side(artifact: Artifact, test: Dataset, seed: int) -> NDArray[np.uint8]:
    """Spectrograms: a row of test clips above a row of the first samples of a seed."""
    rate_hz = sample_rate_hz(artifact)
    rows = matching_rows(artifact, test, seed)
    drawn = [spectrograms(waves[:, 0], rate_hz) for waves in rows]
    return grid(np.concatenate(drawn)[..., None], len(drawn[0]))


def sample_rate_hz(artifact: Artifact) -> int:
    """Sample rate of the sounds that an artifact draws."""
    return artifact.signature(artifact.manifest.default_signature()).outputs[0].sample_rate_hz


def _mean_of(of: Callable[[Waves, int], NDArray[Any]], waves: Waves, rate_hz: int) -> float:
    return mean(of(waves, rate_hz), "test clips")


def _memorisation(mel: dict[str, NDArray[np.float32]]) -> Evaluation:
    """Distance to the nearest training clip, and the share of near copies of one."""
    flat = {name: m.reshape(len(m), math.prod(m.shape[1:])) for name, m in mel.items()}

    def median(name: str) -> float:
        if not len(flat[name]):
            raise TooFewRows("there are no test clips")
        return float(np.median(nearest(flat[name], flat["real"])))

    def share(name: str) -> float:
        return copied(flat[name], flat["real"], flat["test"])

    evaluation = Evaluation()
    evaluation.add("nearest/log_mel", lambda: median("generated"), lambda: median("test"), "real")
    evaluation.add("copied/log_mel", lambda: share("generated"), lambda: share("test"), "lower")
    return evaluation


def _accuracies(
    mel: dict[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    train: Dataset,
    test_labels: NDArray[np.int64],
) -> Evaluation:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    loudest = float(mel["real"].max())
    picture = {
        name: (2 * (m - QUIETEST) / (loudest - QUIETEST) - 1).clip(-1, 1)[:, None]
        for name, m in mel.items()
    }
    network = Classifier.trained_on(replace(train, samples=picture["real"]))
    vectors = make_pipeline(StandardScaler(), SVC(C=10))
    if len(np.unique(train.labels)) > 1:
        vectors.fit(_cepstrum(mel["real"]), train.labels)

    def predict_vectors(which: str) -> NDArray[np.int64]:
        if len(np.unique(train.labels)) < 2:
            raise TooFewRows("support vectors need training clips of two classes")
        cepstrum = _cepstrum(mel[which])
        return np.asarray(vectors.predict(cepstrum) if len(cepstrum) else [], np.int64)

    evaluation = Evaluation()
    for name, predict in (
        (NAME, lambda which: network.classify(picture[which]).predicted),
        (SVM, predict_vectors),
    ):
        _add_accuracy(evaluation, f"accuracy/{name}", predict, labels, test_labels)
    return evaluation


def _add_accuracy(
    evaluation: Evaluation,
    name: str,
    predict: Callable[[str], NDArray[np.int64]],
    labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
) -> None:
    """Add the accuracy on "generated", with that on "test" as its floor."""
    try:
        correct = predict("test") == test_labels
    except TooFewRows:  # which predict("generated") raises as well
        correct = np.zeros(0, np.bool_)
    evaluation.add(
        name,
        lambda: mean(predict("generated") == labels),
        lambda: mean(correct, "test clips"),
        "higher",
        reliability_note(correct),
    )


def distance(real: Dataset) -> Distance | None:
    """Fréchet distance of log-mel spectra pooled over time; None for a single clip."""
    if len(real) < 2:
        return None
    rate_hz = real.sample_rate_hz
    features = pooled(log_mel(real.samples[:, 0], rate_hz))
    return Distance(lambda sounds: frechet(features, pooled(log_mel(sounds[:, 0], rate_hz))))


def _cepstrum(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, bands, frames) -> (N, 16 coefficients): means over sixteenths of the time."""
    from scipy.fft import dct

    coefficients = dct(mel, axis=1, norm="ortho")[:, :COEFFICIENTS]
    pooled = coefficients.reshape(len(mel), COEFFICIENTS, 16, mel.shape[2] // 16).mean(3)
    return np.asarray(pooled.reshape(len(mel), COEFFICIENTS * 16), np.float32)
