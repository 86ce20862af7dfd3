"""Refusals of what cannot be compared."""

import numpy as np
import pytest

from aigc.metrics.recordings import check, check_pairs, check_rate


def test_equal_lengths_pass() -> None:
    check_pairs([np.zeros(3), np.zeros(5)], [np.ones(3), np.ones(5)])
    check_pairs([], [])


@pytest.mark.parametrize(
    ("real", "made", "said"),
    [
        ([np.zeros(3)], [], "for each real one, got 0 for 1"),
        ([np.zeros(3)], [np.zeros(4)], "number 0 has 3 real samples and 4 made ones"),
        ([np.zeros((1, 3))], [np.zeros((1, 3))], r"number 0 is \(1, 3\)"),
        ([np.zeros(0)], [np.zeros(0)], r"number 0 is \(0,\)"),
        ([np.zeros(3)], [np.full(3, np.nan)], "made recordings must be finite"),
    ],
)
def test_others_are_refused(real: list, made: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_pairs(real, made)


def test_messages_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="tracks must be arrays"):
        check([np.float64(1)], "tracks")
    with pytest.raises(ValueError, match="rate must be > 0 Hz, got 0"):
        check_rate(0)
