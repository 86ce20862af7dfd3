"""Griffin-Lim from mel spectra: of its length, on time, and as good as it was elsewhere."""

import numpy as np
import pytest

from aigc.metrics.griffin_lim import from_mel, non_negative, pseudo
from aigc.metrics.mel_distance import Mel, mel_distance
from aigc.metrics.speech_quality import pesq, stoi
from tests.metrics.recorded import RATE_HZ, delay, noise, speech, voice

MEL = Mel(rate_hz=RATE_HZ)


@pytest.mark.parametrize("samples", [1, 79, 80, 81, 119, 120, 121, 4000])
def test_lengths_are_kept(samples: int) -> None:
    (made,) = from_mel([voice(180)[:samples]], MEL, 2)
    assert made.shape == (samples,)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()


def test_nothing_is_late() -> None:
    assert abs(delay(voice(180), np.roll(voice(180), 30)) - 30) <= 1
    (made,) = from_mel([voice(180)], MEL, 32)
    assert abs(delay(voice(180), made)) <= 8


def test_silence_stays_silent() -> None:
    (made,) = from_mel([np.zeros(4000)], MEL, 8)
    assert np.abs(made).max() < 1e-3


def test_more_iterations_come_nearer() -> None:
    real = [voice(180), voice(120)]
    found = [mel_distance(real, from_mel(real, MEL, count), MEL) for count in (0, 4, 100)]
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.3


def test_fitted_magnitudes_have_the_bands_and_the_pseudo_inverse_has_not() -> None:
    bands = MEL.magnitude(voice(180) + 1e-3 * noise(1.5)) + 1e-5
    errors = {
        inverse.__name__: np.abs(np.log(inverse(bands, MEL) @ MEL.filters.T / bands)).mean()
        for inverse in (non_negative, pseudo)
    }
    assert errors["non_negative"] < 0.02 < errors["pseudo"]
    assert non_negative(bands, MEL).min() >= 0


def test_other_rates_and_windows() -> None:
    mel = Mel(rate_hz=16_000, window_s=0.032, hop_s=0.008, bands=64)
    real = voice(180, rate_hz=16_000)
    assert mel_distance([real], from_mel([real], mel, 8), mel) < 0.4
    with pytest.raises(ValueError, match="got 320 samples for hops of 100"):
        from_mel([real], Mel(rate_hz=RATE_HZ, hop_s=0.0125))


def test_speech_is_as_good_as_it_was_elsewhere() -> None:
    """By pseudo-inverse: mel .188, PESQ 2.92, STOI .960 on other clips of this speaker; fitted
    magnitudes are better."""
    pytest.importorskip("pesq", reason="pesq is not here; pip install 'aigc[sound]'")
    real = speech()
    common = from_mel(real, MEL, 32, pseudo)
    assert mel_distance(real, common, MEL) == pytest.approx(0.188, abs=0.05)
    assert pesq(real, common, RATE_HZ).mean() == pytest.approx(2.92, abs=0.2)
    assert stoi(real, common, RATE_HZ).mean() == pytest.approx(0.960, abs=0.01)
    fitted = from_mel(real, MEL, 32)
    assert mel_distance(real, fitted, MEL) < mel_distance(real, common, MEL)
    assert pesq(real, fitted, RATE_HZ).mean() > pesq(real, common, RATE_HZ).mean() + 0.3
