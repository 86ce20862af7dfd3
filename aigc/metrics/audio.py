"""Sounds judged against real ones, by figures that a whisper or a single voice cannot all pass.

Two classifiers that share neither features nor method, the Fréchet distance of log-mel spectra,
harmonicity, diversity within a class, duration, and how near samples come to training clips.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.artifact.codecs import grid
from aigc.data import Dataset
from aigc.metrics import Distance, Metric, a_row_each, first_samples
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.frechet import frechet
from aigc.metrics.neighbours import copied, nearest
from aigc.metrics.sound import diversity, duration_s, harmonicity, log_mel, pooled, spectrograms

QUIETEST = float(np.log(1e-3))
"""What log_mel() gives for silence."""
SVM = "mfcc_svm"
"""Support vectors on 13 cepstral coefficients over 16 stretches of time."""
COEFFICIENTS = 13


def judge(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> list[Metric]:
    """Metrics of the first samples of a seed: as many as there are test clips, n at most.

    A Fréchet distance shrinks with the number of clips, so that it is fair only between equally
    many. Both classifiers are trained on `train` alone; without classes there are none.
    """
    n = min(n, len(test))
    rate_hz = artifact.signature("sample").outputs[0].sample_rate_hz
    sounds, labels = first_samples(artifact, n, seed)
    made, own = sounds[:, 0], np.zeros(n, np.int64) if labels is None else labels
    real, held_out = train.samples[:, 0], test.samples[:n, 0]
    mel = {
        name: log_mel(waves, rate_hz)
        for name, waves in (("made", made), ("real", real), ("test", held_out))
    }
    metrics = []
    if labels is not None:
        metrics += _accuracies(mel, own, replace(train, origin=None), test.labels[:n])
    spread = {
        "made": diversity(mel["made"], own),
        "test": diversity(mel["test"], test.labels[:n]),
    }
    return [
        *metrics,
        Metric(
            "frechet/log_mel",
            frechet(pooled(mel["real"]), pooled(mel["made"])),
            frechet(pooled(mel["real"]), pooled(mel["test"])),
            "lower",
        ),
        Metric("diversity/log_mel", spread["made"], spread["test"], "real"),
        *(
            Metric(
                name, float(of(made, rate_hz).mean()), float(of(held_out, rate_hz).mean()), "real"
            )
            for name, of in (("harmonicity", harmonicity), ("duration_s", duration_s))
        ),
        *_memorisation(mel),
    ]


def side_by_side(artifact: Artifact, test: Dataset, seed: int) -> NDArray[np.uint8]:
    """Spectrograms: a row of test clips above a row of the first samples of a seed."""
    rate_hz = artifact.signature("sample").outputs[0].sample_rate_hz
    rows = a_row_each(artifact, test, seed)
    drawn = [spectrograms(waves[:, 0], rate_hz) for waves in rows]
    return grid(np.concatenate(drawn)[..., None], len(drawn[0]))


def _memorisation(mel: dict[str, NDArray[np.float32]]) -> list[Metric]:
    """Distance to the nearest training clip, and the share of samples that are all but one."""
    flat = {name: m.reshape(len(m), -1) for name, m in mel.items()}
    made, test = (float(np.median(nearest(flat[name], flat["real"]))) for name in ("made", "test"))
    share = {name: copied(flat[name], flat["real"], flat["test"]) for name in ("made", "test")}
    return [
        Metric("nearest/log_mel", made, test, "real"),
        Metric("copied/log_mel", share["made"], share["test"], "lower"),
    ]


def _accuracies(
    mel: dict[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    train: Dataset,
    test_labels: NDArray[np.int64],
) -> list[Metric]:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    loudest = float(mel["real"].max())
    picture = {
        name: (2 * (m - QUIETEST) / (loudest - QUIETEST) - 1).clip(-1, 1)[:, None]
        for name, m in mel.items()
    }
    network = Classifier.trained_on(replace(train, samples=picture["real"]))
    vectors = make_pipeline(StandardScaler(), SVC(C=10)).fit(_cepstrum(mel["real"]), train.labels)
    metrics = []
    for name, predict in (
        (NAME, lambda which: network.judge(picture[which]).predicted),
        (SVM, lambda which: vectors.predict(_cepstrum(mel[which]))),
    ):
        value = float((predict("made") == labels).mean())
        metrics.append(
            Metric(
                f"accuracy/{name}", value, float((predict("test") == test_labels).mean()), "higher"
            )
        )
    return metrics


def distance(real: Dataset) -> Distance:
    """Fréchet, of log-mel spectra pooled over time."""
    rate_hz = real.sample_rate_hz
    features = pooled(log_mel(real.samples[:, 0], rate_hz))
    return lambda sounds: frechet(features, pooled(log_mel(sounds[:, 0], rate_hz)))


def _cepstrum(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, bands, frames) -> (N, 16 coefficients): means over sixteenths of the time."""
    from scipy.fft import dct

    found = dct(mel, axis=1, norm="ortho")[:, :COEFFICIENTS]
    pooled = found.reshape(len(mel), COEFFICIENTS, 16, -1).mean(3).reshape(len(mel), -1)
    return np.asarray(pooled, np.float32)
