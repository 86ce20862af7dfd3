"""Texts and tokens are inverse; what a vocabulary cannot say is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc.artifact.vocabulary import Vocabulary

PIECES = ("", "a", "b", "c", "ab", "abc", "bc")
LETTERS = st.text("abc", max_size=12)


@given(st.lists(LETTERS, min_size=1, max_size=5))
def test_decode_inverts_encode(texts: list[str]) -> None:
    vocabulary = Vocabulary(PIECES)
    rows = vocabulary.rows(texts, 13)
    assert rows.dtype == np.int64
    assert vocabulary.texts(rows) == texts


def test_earliest_pair_is_merged_first() -> None:
    vocabulary = Vocabulary(PIECES)
    assert vocabulary.encode("abcb") == [5, 2]  # ab, then abc; bc was learned later
    assert vocabulary.encode("bcb") == [6, 2]
    assert Vocabulary(("", "a", "b", "c", "bc", "ab")).encode("abc") == [1, 4]


@given(st.text("abc", max_size=40), st.permutations(PIECES[1:]))
def test_pairs_are_merged_in_order_of_definition(text: str, pieces: list[str]) -> None:
    vocabulary = Vocabulary(("", *pieces))
    ids = {piece: number for number, piece in enumerate(vocabulary.pieces)}
    parts = list(text)
    while found := [i for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ids]:
        at = min(found, key=lambda i: (ids[parts[i] + parts[i + 1]], i))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    assert vocabulary.encode(text) == [ids[part] for part in parts]


def test_encoding_long_texts_is_subquadratic() -> None:
    class Counted(dict[str, int]):
        asked = 0

        def get(self, *key: Any) -> Any:
            Counted.asked += 1
            return super().get(*key)

    vocabulary = Vocabulary(PIECES)
    vocabulary.__dict__["_ids"] = Counted({piece: i for i, piece in enumerate(PIECES)})
    vocabulary.encode("abc" * 200)
    assert Counted.asked < 3 * 600


def test_decode_ends_at_the_end_token_or_stop() -> None:
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
def test_encode_refuses_what_does_not_fit(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
