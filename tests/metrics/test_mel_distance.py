"""Mel distances of recordings whose differences are known."""

import numpy as np
import pytest

from aigc.metrics.mel_distance import Mel, mel_distance
from tests.metrics.recorded import RATE_HZ, low_passed, noise, shifted, voice

MEL = Mel(rate_hz=RATE_HZ)


def distance(real: np.ndarray, made: np.ndarray) -> float:
    return mel_distance([real], [made], MEL)


def test_frames_and_bands_are_as_stated() -> None:
    assert (MEL.window, MEL.hop, MEL.bands) == (320, 80, 40)
    assert MEL.log(noise()).shape == (101, 40)
    wide = Mel(rate_hz=16_000, window_s=0.064, hop_s=0.02, bands=80)
    assert wide.log(noise(1.0, 16_000)).shape == (51, 80)


def test_equal_recordings_have_distance_0() -> None:
    assert distance(voice(180), voice(180)) == 0


def test_gain_moves_the_distance_by_its_logarithm() -> None:
    loud = noise()
    assert distance(loud, 0.5 * loud) == pytest.approx(np.log(2))
    assert distance(loud, loud) < distance(loud, 0.9 * loud) < distance(loud, 0.5 * loud)


def test_magnitude_of_a_sine_is_its_amplitude_at_the_peak_of_a_band() -> None:
    band = 20
    # A triangle is 1 in the middle between its edges in mel.
    hz = 700 * (10 ** (2595 * np.log10(1 + 4000 / 700) * (band + 1) / 41 / 2595) - 1)
    sine = 0.5 * np.sin(2 * np.pi * hz * np.arange(RATE_HZ) / RATE_HZ)
    middle = MEL.magnitude(sine)[50]
    assert middle.argmax() == band
    # The window spreads it over the bins around, half as much in each, which weigh a little less.
    assert middle[band] == pytest.approx(1.0, rel=0.2)


def test_silence_is_the_floor() -> None:
    assert np.allclose(MEL.log(np.zeros(800)), np.log(1e-5))
    assert distance(np.zeros(800), np.zeros(800)) == 0


@pytest.mark.parametrize("worse", [(0.001, 0.01, 0.05)])
def test_distance_grows_with_noise(worse: tuple[float, ...]) -> None:
    real = voice(180)
    found = [distance(real, real + level * noise(1.5, seed=1)) for level in worse]
    assert 0 < found[0] < found[1] < found[2]


def test_distance_grows_with_a_low_pass_a_shift_and_a_delay() -> None:
    real = voice(180)
    for made in (
        [low_passed(real, hz) for hz in (3500, 2500, 1500)],
        [shifted(real, factor) for factor in (1.005, 1.02, 1.1)],
        [np.roll(real, delay) for delay in (20, 80, 240)],
    ):
        found = [distance(real, one) for one in made]
        assert 0 < found[0] < found[1] < found[2]


def test_each_frame_weighs_alike() -> None:
    short, long = noise(0.5), noise(2.0, seed=1)
    both = mel_distance([short, long], [short, 0.5 * long], MEL)
    assert both == pytest.approx(np.log(2) * 201 / (201 + 51))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bands": 80}, "hold no bin of a window of 0.01 s"),
        ({"bands": 0}, "bands must be >= 1, got 0"),
        ({"floor": 0.0}, "floor must be > 0"),
        ({"hop_s": 0.0}, "must hold samples"),
    ],
)
def test_mel_without_a_meaning_is_refused(given: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mel(rate_hz=RATE_HZ, **{"window_s": 0.01, **given})


def test_no_recordings_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a recording"):
        mel_distance([], [], MEL)
