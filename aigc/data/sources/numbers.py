"""English words of the numbers 0 to 9,999: an exact grammar, so that validity can be decided."""

from functools import cache

import numpy as np

from aigc.artifact.latents import integers
from aigc.config import DataConfig
from aigc.data import Dataset, Split
from aigc.data.lines import characters, tokenized
from aigc.data.survey import Survey

COUNT = 10_000
CLASSES = ("ones", "tens", "hundreds", "thousands")
"""The label of a number is how many digits it has, less one."""
TEST_SHARE = 5
"""One number in TEST_SHARE is held out."""
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def words(number: int) -> str:
    """4321 -> "four thousand three hundred twenty-one". Raises ValueError outside 0..9999."""
    if not 0 <= number < COUNT:
        raise ValueError(f"number must be in [0, {COUNT}), got {number}")
    parts = []
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            parts.append(f"{_SMALL[number // size]} {name}")
            number %= size
    if number >= 20:
        tens, ones = _TENS[number // 10 - 2], number % 10
        parts.append(f"{tens}-{_SMALL[ones]}" if ones else tens)
    elif number or not parts:
        parts.append(_SMALL[number])
    return " ".join(parts)


@cache
def _values() -> dict[str, int]:
    return {words(number): number for number in range(COUNT)}


def value(text: str) -> int | None:
    """The inverse of words(): the number that a text names, None if it names none."""
    return _values().get(text)


def valid(text: str) -> bool:
    """Tell if the grammar makes this text, as metrics/text.py asks."""
    return value(text) is not None


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """8,000 numbers to train, 2,000 others to test, evenly from every class."""
    label = np.array([len(str(number)) - 1 for number in range(COUNT)])
    # Ranked within its class by a fixed random number, every fifth is held out.
    random = integers(0, "numbers", [0], COUNT)[0]
    rank = np.empty(COUNT, np.int64)
    for one in range(len(CLASSES)):
        rows = np.flatnonzero(label == one)
        rank[rows[np.argsort(random[rows], kind="stable")]] = np.arange(len(rows))
    chosen = np.flatnonzero((rank % TEST_SHARE == 0) == (split == "test"))
    lines = [words(int(number)) for number in chosen]
    num_test = int((rank % TEST_SHARE == 0).sum())
    splits = {"train": COUNT - num_test, "test": num_test}
    vocabulary = characters([words(number) for number in range(COUNT)])
    return Dataset(
        name="numbers",
        samples=tokenized(lines, vocabulary, shape, "numbers"),
        labels=label[chosen].astype(np.int64),
        classes=CLASSES,
        vocabulary=vocabulary.pieces,
        known=Survey(splits=splits),
    )
