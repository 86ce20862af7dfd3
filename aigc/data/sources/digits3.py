"""A handwritten digit, its word, and the word spoken: three things that a class joins.

Within a class nothing is shared by what a row holds, so rows are put together by a fixed draw. A
test row has an image and a sound that no training row has; the ten words are the same in both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.latents import integers
from aigc.config import DataConfig
from aigc.data import Dataset, Shapes, Source, Split, scaled
from aigc.data.lines import characters, tokenized
from aigc.data.sources import digits, idx, spoken_digits
from aigc.data.sources.paired import Pairs
from aigc.data.sources.spoken_digits import WORDS
from aigc.data.survey import Survey


@dataclass(frozen=True)
class _Parts:
    """Reads parts of rows from what is in memory."""

    sources: dict[str, Source]

    def __call__(self, modality: str, number: int) -> NDArray[np.float32]:
        return scaled(self.sources[modality].read(number)[0])


def load(config: DataConfig, shapes: Shapes, split: Split, *, conditional: bool = True) -> Pairs:
    """Rows of each class: as many as the larger of its sets has, images or sounds.

    Images are those of `digits`, or of the IDX files at `config.path`; sounds need the extra
    `speech`. Raises ValueError for images of other classes than ten digits, or shapes that do not
    fit.
    """
    images: Dataset = (idx if config.path else digits).load(config, shapes["image"], split)
    if len(images.classes) != len(WORDS):
        raise ValueError(
            f"data digits3 pairs ten digits, {images.name!r} has {len(images.classes)} classes"
        )
    sounds = spoken_digits.load(config, shapes["audio"], split)
    vocabulary = characters(WORDS)
    words = Dataset(
        name="words",
        samples=tokenized(WORDS, vocabulary, shapes["text"], "digits3"),
        labels=np.arange(len(WORDS)),
        classes=WORDS,
        vocabulary=vocabulary.pieces,
    )
    sources: dict[str, Source] = {"image": images, "text": words, "audio": sounds}
    labels = {"image": images.labels, "text": words.labels, "audio": sounds.labels}
    rows: dict[str, list[NDArray[np.int64]]] = {name: [] for name in sources}
    counts = [
        max(int((images.labels == c).sum()), int((sounds.labels == c).sum()))
        for c in range(len(WORDS))
    ]
    for name in sources:
        for c, count in enumerate(counts):
            rows[name].append(_drawn(np.flatnonzero(labels[name] == c), count, f"{name}/{c}"))
    row_labels = np.repeat(np.arange(len(WORDS)), counts)
    return Pairs(
        name="digits3",
        shapes=shapes,
        read_part=_Parts(sources),
        parts={name: np.concatenate(numbers) for name, numbers in rows.items()},
        labels=row_labels,
        classes=WORDS,
        vocabulary=vocabulary.pieces,
        sample_rate_hz=config.sample_rate_hz,
        sha256="/".join(str(source.fingerprint()["sha256"]) for source in sources.values()),
        survey=Survey(splits={split: len(row_labels)}, labels=row_labels),
    )


def _drawn(numbers: NDArray[np.int64], count: int, purpose: str) -> NDArray[np.int64]:
    """`count` of the numbers in a fixed random order, none again before all were taken."""
    turns = -(-count // len(numbers))
    random = integers(0, f"digits3/{purpose}", range(turns), len(numbers))
    return np.concatenate([numbers[np.argsort(turn, kind="stable")] for turn in random])[:count]
