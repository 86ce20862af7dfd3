"""Texts and tokens are inverse; what a vocabulary cannot say is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc.artifact.vocabulary import Vocabulary

PIECES = ("", "a", "b", "c", "ab", "abc", "bc")
LETTERS = st.text("abc", max_size=12)


@given(st.lists(LETTERS, min_size=1, max_size=5))
def test_decoding_is_the_inverse_of_encoding(texts: list[str]) -> None:
    vocabulary = Vocabulary(PIECES)
    rows = vocabulary.rows(texts, 13)
    assert rows.dtype == np.int64
    assert vocabulary.texts(rows) == texts


def test_the_earliest_pair_is_joined_first() -> None:
    vocabulary = Vocabulary(PIECES)
    assert vocabulary.encode("abcb") == [5, 2]  # ab, then abc; bc was learned later
    assert vocabulary.encode("bcb") == [6, 2]
    assert Vocabulary(("", "a", "b", "c", "bc", "ab")).encode("abc") == [1, 4]


def test_decoding_ends_at_the_end_and_before_what_stops_it() -> None:
    vocabulary = Vocabulary(PIECES)
    assert vocabulary.decode([5, 0, 1]) == "abc"
    assert vocabulary.decode([5, 2, 1], stop=("ba",)) == "abc"
    assert vocabulary.decode([5, 2, 1], stop=("x", "cb", "b")) == "a"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vocabulary(("a", "b")), 'begins with ""'),
        (lambda: Vocabulary(("", "a", "")), 'begins with ""'),
        (lambda: Vocabulary(()), 'begins with ""'),
        (lambda: Vocabulary(("", "a", "a")), "names a piece twice"),
        (lambda: Vocabulary(PIECES).encode("abz"), r"lacks: \['z'\]"),
        (lambda: Vocabulary(PIECES).rows(["aaaa"], 4), "4 tokens long, at most 3 and an end fit"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
