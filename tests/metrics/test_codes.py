"""Entropy and bit rate of tokens whose frequencies are known."""

import numpy as np
import pytest

from aigc.metrics.codes import code_use, entropy_bits, perplexity


def test_entropy_of_equal_shares_is_the_logarithm_of_their_number() -> None:
    assert entropy_bits(np.arange(256)) == pytest.approx(8)
    assert perplexity(np.arange(200).repeat(3)) == pytest.approx(200)
    assert entropy_bits(np.zeros((3, 4), int)) == 0
    assert perplexity(np.zeros(5, int)) == 1
    assert entropy_bits(np.array([0, 0, 0, 1])) == pytest.approx(2 - 0.75 * np.log2(3))


def test_use_of_each_codebook() -> None:
    first = np.stack([np.arange(16), np.zeros(16, int)])
    second = np.stack([np.arange(16), np.ones(16, int)])
    found = code_use([first, second], 32, frames_per_s=100)
    assert found.used == (0.5, 1 / 16)
    assert found.entropy_bits == pytest.approx((4, 1))
    assert found.perplexity == pytest.approx((16, 2))
    assert found.bit_rate == 2 * 5 * 100
    assert found.entropy_rate == pytest.approx(5 * 100)


def test_bit_rate_of_four_codebooks_of_256() -> None:
    """8 kHz by a stride of 80 samples: 3.2 kbit/s."""
    tokens = np.random.default_rng(0).integers(256, size=(4, 20_000))
    found = code_use([tokens], 256, frames_per_s=100)
    assert found.bit_rate == 3200
    assert 3190 < found.entropy_rate < 3200
    assert found.used == (1, 1, 1, 1)


def test_recordings_of_different_lengths_are_joined() -> None:
    parts = [np.array([[0, 1]]), np.array([[2]]), np.zeros((1, 0), int)]
    assert code_use(parts, 4, 50).used == (0.75,)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([], "got 0 recordings of no codebooks"),
        ([np.zeros((2, 0), int)], "needs tokens"),
        ([np.zeros((2, 3), int), np.zeros((1, 3), int)], r"of \[1, 2\] codebooks"),
        ([np.zeros(3, int)], r"number 0 is int64 \(3,\)"),
        ([np.zeros((1, 3))], "number 0 is float64"),
        ([np.array([[0, 4]])], r"must be in \[0, 4\), got 4"),
        ([np.array([[-1, 3]])], r"must be in \[0, 4\), got -1"),
    ],
)
def test_others_are_refused(tokens: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        code_use(tokens, 4, 100)


def test_rates_and_sizes_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="frames_per_s must be > 0"):
        code_use([np.zeros((1, 3), int)], 4, 0)
    with pytest.raises(ValueError, match="codebook_size must be >= 1"):
        code_use([np.zeros((1, 3), int)], 0, 100)
