"""The n-gram is a distribution, that of its formula, and its samples follow it."""

import math

import pytest

from aigc.metrics.ngram import END, NGram

TEXTS = ["aab", "ab", "abba", "b"]


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("history", ["", "a", "ab", "bbbbbbb", "zz"])
def test_probabilities_sum_to_one(order: int, history: str) -> None:
    ngram = NGram(order, TEXTS, "abc")
    total = sum(ngram.probability(history, c) for c in ("a", "b", "c", END))
    assert total == pytest.approx(1, abs=1e-12)
    assert ngram.probability(history, "c") > 0  # never seen, never impossible


def test_probabilities_equal_the_formula() -> None:
    unigram, bigram = NGram(1, TEXTS, "ab"), NGram(2, TEXTS, "ab")
    # 5 a, 5 b and 4 ends are 14 characters of 3 kinds; a third each below that.
    below = {"a": (5 + 3 / 3) / 17, "b": (5 + 3 / 3) / 17, END: (4 + 3 / 3) / 17}
    for character, p in below.items():
        assert unigram.probability("", character) == pytest.approx(p)
    # Behind a: once a, three times b, once an end.
    assert bigram.probability("ba", "b") == pytest.approx((3 + 3 * below["b"]) / 8)
    assert bigram.probability("ba", "a") == pytest.approx((1 + 3 * below["a"]) / 8)
    bits = -math.log2(unigram.probability("", "b") * unigram.probability("b", END)) / 2
    assert unigram.bits_per_char(["b"]) == pytest.approx(bits)


def test_samples_follow_the_probabilities() -> None:
    ngram = NGram(3, TEXTS, "ab")
    samples = ngram.sample(0, 4000, 20)
    assert samples[:50] == ngram.sample(0, 50, 20)
    share = sum(text.startswith("a") for text in samples) / 4000
    assert share == pytest.approx(ngram.probability("", "a"), abs=0.03)
    alone = ngram.probability("", "b") * ngram.probability("b", END)
    assert samples.count("b") / 4000 == pytest.approx(alone, abs=0.03)
    assert ngram.share(["b", "b"]) == pytest.approx(alone)
    assert max(map(len, ngram.sample(0, 100, 2))) == 2
