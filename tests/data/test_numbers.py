"""The grammar of number words decides what is a number, and every number is in one split."""

import numpy as np
import pytest

from aigc.artifact.vocabulary import Vocabulary
from aigc.config import DataConfig
from aigc.data import Dataset
from aigc.data.sources import numbers


def load(split: str) -> Dataset:
    return numbers.load(DataConfig(source="numbers"), (44,), split)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (1001, "one thousand one"),
        (4321, "four thousand three hundred twenty-one"),
        (9999, "nine thousand nine hundred ninety-nine"),
    ],
)
def test_words_spell_numbers(number: int, words: str) -> None:
    assert numbers.words(number) == words


def test_value_inverts_words_for_all_numbers() -> None:
    texts = [numbers.words(number) for number in range(numbers.COUNT)]
    assert [numbers.value(text) for text in texts] == list(range(numbers.COUNT))
    with pytest.raises(ValueError, match=r"number must be in \[0, 10000\), got 10000"):
        numbers.words(numbers.COUNT)


@pytest.mark.parametrize(
    "text",
    [
        *("", "zero one", "one thousand zero", "twenty one", "twenty-ten", "ten hundred"),
        *(
            "one hundred one thousand",
            "one  hundred",
            " one",
            "one hundred hundred",
            "ten thousand",
        ),
    ],
)
def test_value_rejects_words_outside_the_grammar(text: str) -> None:
    assert not numbers.valid(text)
    assert numbers.value(text) is None


def test_splits_share_no_number_and_balance_classes() -> None:
    splits = {split: load(split) for split in ("train", "test")}
    texts = {
        split: Vocabulary(data.vocabulary).texts(data.samples) for split, data in splits.items()
    }
    everything = texts["train"] + texts["test"]
    assert sorted(everything) == sorted(numbers.words(number) for number in range(numbers.COUNT))
    assert [np.bincount(splits[s].labels).tolist() for s in ("train", "test")] == [
        [8, 72, 720, 7200],
        [2, 18, 180, 1800],
    ]
    for split, data in splits.items():
        digits = [len(str(numbers.value(text))) - 1 for text in texts[split]]
        assert digits == data.labels.tolist()
