"""Ten spoken digits, synthesised from fixed settings: three voices, their pitch and speed varied.

Nobody speaks here: it is the synthetic speech of eSpeak NG (GPL-3), an extra of training data only
(`aigc[speech]`), which no served model needs. The whole set takes seconds and is the same anywhere.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from aigc.config import DataConfig
from aigc.data import Dataset, Split, permutation
from aigc.data.espeak import Word, speak
from aigc.data.sounds import check_shape, clip
from aigc.data.survey import Survey

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = ("en-us", "en-us+m3", "en-gb-scotland")
PITCHES = range(40, 61)
WORDS_PER_MINUTE = range(190, 241)
PITCH_RANGE = 0
"""Monotone: within minutes a small model learns no melody."""
CLIPS = 130
"""Clips of each word in each voice; every fifth is a test clip."""


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """3,120 clips to train, 780 others to test, at `config.sample_rate_hz`; the label is the digit.

    Raises ValueError if eSpeak NG is not installed.
    """
    check_shape(shape, "spoken_digits")
    samples, labels = _all(config.sample_rate_hz, shape[1])
    test = np.arange(len(samples)) % 5 == 4
    chosen = test if split == "test" else ~test
    return Dataset(
        name="spoken_digits",
        samples=samples[chosen],
        labels=labels[chosen],
        classes=WORDS,
        sample_rate_hz=config.sample_rate_hz,
        known=Survey(splits={"train": int((~test).sum()), "test": int(test.sum())}),
    )


def words() -> list[Word]:
    """Everything that is said, in order; pitch and speed differ between any two of a voice."""
    clips = []
    for v, voice in enumerate(VOICES):
        for w, text in enumerate(WORDS):
            pairs = permutation(0, v * len(WORDS) + w, len(PITCHES) * len(WORDS_PER_MINUTE))
            for pair in pairs[:CLIPS]:
                pitch, speed = divmod(int(pair), len(WORDS_PER_MINUTE))
                clips.append(
                    Word(
                        text=text,
                        voice=voice,
                        pitch=PITCHES[pitch],
                        words_per_minute=WORDS_PER_MINUTE[speed],
                        pitch_range=PITCH_RANGE,
                    )
                )
    return clips


@lru_cache(maxsize=2)
def _all(rate_hz: int, length: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    said = words()
    waves, from_hz = speak(said)
    clips = [clip(wave.astype(np.float32), from_hz, rate_hz, length) for wave in waves]
    labels = np.array([WORDS.index(word.text) for word in said], np.int64)
    return np.stack(clips), labels
