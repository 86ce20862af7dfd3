"""Rows of an image, a word and a tone, of two classes."""

import numpy as np

from aigc.artifact.vocabulary import Vocabulary
from aigc.data import Dataset
from aigc.data.sources.paired import record
from tests.data.rows import RATE_HZ, SHAPES, WORDS


def split(seed: int, n: int) -> Dataset:
    """n rows of two classes, all different: one half bright or the other, a word, a tone."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pieces = ("", *sorted(set("".join(WORDS))))
    samples = np.zeros(n, record(SHAPES))
    for name in SHAPES:
        samples[f"mask/{name}"] = 1
    samples["image"] = random.normal(-0.5, 0.1, (n, *SHAPES["image"]))
    samples["image"][labels == 0, :, 4:] += 1
    samples["image"][labels == 1, :, :4] += 1
    samples["text"] = Vocabulary(pieces).rows([WORDS[label] for label in labels], 4)
    hz = 300 + 500 * labels + random.uniform(0, 60, n)
    time_s = np.arange(SHAPES["audio"][1]) / RATE_HZ
    samples["audio"] = 0.5 * np.sin(2 * np.pi * hz[:, None] * time_s)[:, None]
    return Dataset(
        name="rows",
        samples=samples,
        labels=labels,
        classes=WORDS,
        vocabulary=pieces,
        sample_rate_hz=RATE_HZ,
    )


TRAIN, TEST = split(0, 60), split(1, 24)
