"""Evaluation of texts, on texts whose figures are known by hand."""

import math

import numpy as np
import pytest

from aigc.config import DataConfig
from aigc.data.sources import numbers
from aigc.metrics.text import distance, ngrams, overlap, pairs, self_bleu, share, with_noise


def test_shares_of_valid_and_distinct_texts() -> None:
    assert share(["a", "b", "a", "c"], {"a", "b"}.__contains__) == 0.75


def test_ngrams_are_counted() -> None:
    assert ngrams("abab", 2) == {"ab": 2, "ba": 1}
    assert ngrams("ab", 3) == {}


def test_bleu_is_one_for_equal_and_zero_for_different_texts() -> None:
    assert self_bleu(["abcdef", "abcdef", "abcdef"]) == 1
    assert self_bleu(["abcd", "efgh"]) < 1e-8
    assert self_bleu(["abc", "abc"]) == 1  # shorter than the n-grams


def test_self_bleu_equals_the_formula() -> None:
    # "aab" against "ab": 2 of 3 characters, 1 of 2 pairs; "ab" against "aab": all, but shorter.
    first = math.sqrt(2 / 3 * 1 / 2)
    second = math.exp(1 - 3 / 2)
    assert self_bleu(["aab", "ab"], order=2) == pytest.approx((first + second) / 2)


def test_self_bleu_leaves_out_the_text_itself() -> None:
    # "aa" is the only text with two of them; the others have one.
    assert self_bleu(["aa", "ab", "ac"], order=1) == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)


def test_overlap_counts_ngrams_of_training_texts() -> None:
    train = ["abcd", "xbcx"]
    # "abc", "bcd" and "bcx" of "abcx" and "xabcd": abc and bcx, xab and abc and bcd.
    assert overlap(["abcx", "xabcd"], train, 3) == pytest.approx(4 / 5)
    assert overlap(train, train, 3) == 1
    assert overlap(["abab", "abab"], ["ab"], 2) == pytest.approx(4 / 6)  # repeats count
    assert math.isnan(overlap(["ab"], train, 3))


def test_blurred_posterior_adds_noise_at_equal_variance() -> None:
    code = np.array([[1.0, -1.0], [1.2, -0.7483315]], np.float32)  # |mu|² = 2
    clear = math.sqrt(1 - 0.3**2) * code, np.full((2, 2), 2 * math.log(0.3), np.float32)
    mu, logvar = with_noise(*clear, 0.3, 0.8)
    assert mu == pytest.approx(0.6 * code, abs=1e-6)
    assert np.exp(logvar) == pytest.approx(0.64, abs=1e-6)
    same = with_noise(*clear, 0.3, 0.3)
    assert same[0] == pytest.approx(clear[0])
    assert same[1] == pytest.approx(clear[1])


def test_token_pairs_include_both_ends() -> None:
    tokens = np.array([[3, 4, 3, 4, 0], [3, 4, 0, 0, 0], [4, 3, 0, 0, 0], [0, 0, 0, 0, 0]])
    found = pairs(tokens)
    assert np.abs(found).sum(1).tolist() == [5, 3, 3, 1]  # no two of these pairs share a number
    assert np.square(found).sum(1).tolist() == [1 + 4 + 1 + 1, 3, 3, 1]
    assert not np.array_equal(found[1], found[2])
    assert found.min() < 0 < found.max()  # numbers that two pairs share cancel on average
    assert np.array_equal(pairs(np.pad(tokens, ((0, 0), (0, 3)))), found)


def test_text_distance_separates_jumbled_and_truncated_texts() -> None:
    config = DataConfig(source="numbers")
    train, test = (numbers.load(config, (44,), split) for split in ("train", "test"))  # type: ignore[arg-type]
    to_train = distance(train)
    jumbled, cut = test.samples.copy(), test.samples.copy()
    for row in jumbled:
        text = row[row != 0]
        row[: len(text)] = np.random.default_rng(0).permutation(text)
    cut[:, 30:] = 0
    assert to_train(test.samples) < 0.1
    assert to_train(cut) > 5 * to_train(test.samples)
    assert to_train(jumbled) > 5 * to_train(test.samples)
