"""Multi-resolution STFT distances against another implementation and known differences.

The constants are those of auraloss 0.4.0, in float64: MultiResolutionSTFTLoss with fft_sizes and
win_lengths 128, 256 and 512, hops of a quarter, eps 1e-7, called with (made, real).
"""

import numpy as np
import pytest

from aigc.metrics.stft_distance import multi_resolution_distances, stft_distance
from tests.metrics.recorded import RATE_HZ, low_passed, noise, shifted, voice


def distance(real: np.ndarray, made: np.ndarray) -> float:
    (found,) = multi_resolution_distances([real], [made], RATE_HZ)
    return found


def test_distances_equal_others() -> None:
    real = voice(180) + 0.01 * noise(1.5)
    made = low_passed(real, 2500) + 0.01 * noise(1.5, seed=1)
    found = multi_resolution_distances([real, real], [made, 0.5 * real], RATE_HZ)
    assert found == pytest.approx([0.6943168410729724, 1.1930272565396114], rel=1e-12)


def test_equal_recordings_have_distance_0() -> None:
    assert multi_resolution_distances([voice(180), noise()], [voice(180), noise()], RATE_HZ) == [
        0,
        0,
    ]


def test_half_as_loud_is_a_half_and_the_logarithm_of_two() -> None:
    assert stft_distance(noise(), 0.5 * noise(), 256, 64) == pytest.approx(0.5 + np.log(2))


def test_silence_is_told_apart() -> None:
    """A real recording of silence has no distance, one that is made has; faint is not silent."""
    silence, sound = np.zeros(800), noise()[:800]
    found = multi_resolution_distances([silence, sound], [sound, silence], RATE_HZ)
    assert np.isnan(found[0])
    assert np.isfinite(found[1])
    assert np.isfinite(stft_distance(silence, sound, 256, 64))
    assert np.isnan(distance(9e-4 * sound / np.abs(sound).max(), sound))
    assert np.isfinite(distance(1.1e-3 * sound / np.abs(sound).max(), sound))


def test_distance_grows_with_noise_a_low_pass_and_a_shift() -> None:
    real = voice(180)
    for made in (
        [real + level * noise(1.5, seed=1) for level in (0.001, 0.01, 0.05)],
        [low_passed(real, hz) for hz in (3500, 2500, 1500)],
        [shifted(real, factor) for factor in (1.005, 1.02, 1.1)],
    ):
        found = [distance(real, one) for one in made]
        assert 0 < found[0] < found[1] < found[2]


def test_windows_below_four_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="four samples at least"):
        multi_resolution_distances([noise()], [noise()], 100)
    with pytest.raises(ValueError, match="four samples at least"):
        multi_resolution_distances([noise()], [noise()], RATE_HZ, ())
