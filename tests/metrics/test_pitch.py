"""Pitch of tones that are known, and errors that are counted by hand."""

import numpy as np
import pytest

from aigc.metrics.pitch import HOP_S, Pitch, PitchErrors, pitch
from tests.metrics.recorded import RATE_HZ, low_passed, noise, speech, tone, voice


def cents(f0_hz: np.ndarray, wanted_hz: np.ndarray | float) -> np.ndarray:
    return 1200 * np.log2(f0_hz / wanted_hz)


def errors(real: np.ndarray, made: np.ndarray) -> PitchErrors:
    return PitchErrors.of(pitch(real, RATE_HZ), pitch(made, RATE_HZ))


@pytest.mark.parametrize("f0_hz", [70, 101.3, 220, 333.3, 470])
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
def test_tones_are_found_within_five_cents(f0_hz: float, rate_hz: int) -> None:
    found = pitch(tone(f0_hz, 0.5, rate_hz), rate_hz)
    inside = slice(5, -5)  # frames at an end are half silent
    assert found.voiced[inside].all()
    assert np.abs(cents(found.f0_hz[inside], f0_hz)).max() < 5


def test_sines_are_found_without_harmonics() -> None:
    sine = 0.3 * np.sin(2 * np.pi * 155.5 * np.arange(RATE_HZ) / RATE_HZ)
    found = pitch(sine, RATE_HZ)
    assert np.abs(cents(found.f0_hz[5:-5], 155.5)).max() < 5


def test_glide_is_followed() -> None:
    f0 = np.geomspace(100, 300, 2 * RATE_HZ)
    found = pitch(tone(f0, 2.0), RATE_HZ)
    at = np.arange(len(found.f0_hz)) * round(HOP_S * RATE_HZ)
    assert found.voiced[5:-5].all()
    # The integration window lies half of the longest lag before the middle of a frame.
    assert np.abs(cents(found.f0_hz[5:-5], f0[at[5:-5]])).max() < 25


def test_noise_and_silence_are_unvoiced() -> None:
    assert pitch(0.1 * noise(), RATE_HZ).voiced.mean() < 0.05
    assert not pitch(np.zeros(RATE_HZ), RATE_HZ).voiced.any()
    assert not pitch(np.full(RATE_HZ, 0.3), RATE_HZ).voiced.any()


def test_quiet_parts_are_unvoiced() -> None:
    wave = np.concatenate([tone(200), 1e-3 * tone(200)])
    voiced = pitch(wave, RATE_HZ).voiced
    assert voiced[10:90].all()
    assert not voiced[110:190].any()


def test_level_does_not_matter() -> None:
    loud, quiet = pitch(voice(180), RATE_HZ), pitch(0.01 * voice(180), RATE_HZ)
    assert np.array_equal(loud.voiced, quiet.voiced)
    assert np.allclose(loud.f0_hz[loud.voiced], quiet.f0_hz[loud.voiced])


def test_frames_are_one_per_hop() -> None:
    assert len(pitch(noise()[:799], RATE_HZ).f0_hz) == 10
    assert len(pitch(noise()[:800], RATE_HZ).f0_hz) == 11
    assert len(pitch(noise()[:1], RATE_HZ).f0_hz) == 1


def test_errors_are_counted() -> None:
    real = Pitch(np.array([100.0, 100, 100, 100, 100]), np.array([1, 1, 1, 1, 0], bool))
    made = Pitch(np.array([100.0, 200, 110, 100, 300]), np.array([1, 1, 1, 0, 0], bool))
    found = PitchErrors.of(real, made)
    tenth = 1200 * np.log2(1.1)
    assert (found.frames, found.both, found.voicing, found.gross) == (5, 3, 1, 1)
    assert found.rmse_cents == pytest.approx(np.sqrt((1200**2 + tenth**2) / 3))
    assert found.gross_share == pytest.approx(1 / 3)
    assert found.voicing_share == pytest.approx(1 / 5)


def test_errors_add_up() -> None:
    real = Pitch(np.array([100.0, 100]), np.array([True, True]))
    octave = Pitch(np.array([200.0, 100]), np.array([True, False]))
    total = PitchErrors.total([PitchErrors.of(real, real), PitchErrors.of(real, octave)])
    assert (total.frames, total.both, total.voicing, total.gross) == (4, 3, 1, 1)
    assert total.rmse_cents == pytest.approx(np.sqrt(1200**2 / 3))
    assert np.isnan([PitchErrors().rmse_cents, PitchErrors().gross_share]).all()
    assert PitchErrors.total([]) == PitchErrors()


def test_recording_has_no_errors_beside_itself() -> None:
    found = errors(voice(180), voice(180))
    assert (found.rmse_cents, found.gross_share, found.voicing_share) == (0, 0, 0)
    assert found.both > 50


@pytest.mark.parametrize("semitones", [0.5, 1, 2])
def test_shift_is_measured_in_cents(semitones: float) -> None:
    found = errors(tone(150), tone(150 * 2 ** (semitones / 12)))
    assert found.rmse_cents == pytest.approx(100 * semitones, abs=3)
    assert found.gross_share == 0
    assert errors(tone(150), tone(150 * 1.3)).gross_share > 0.95


def test_errors_grow_with_noise() -> None:
    real = voice(180)
    made = [errors(real, real + level * noise(1.5, seed=1)) for level in (0.003, 0.03, 0.3)]
    shares = [one.voicing_share for one in made]
    assert shares[0] < shares[1] < shares[2]


def test_low_pass_that_leaves_harmonics_keeps_the_pitch() -> None:
    found = errors(voice(180), low_passed(voice(180), 1000))
    assert found.rmse_cents < 25
    assert found.voicing_share < 0.05


def test_voice_of_a_woman_is_found_where_it_is() -> None:
    found = [pitch(wave, RATE_HZ) for wave in speech()]
    f0 = np.concatenate([one.f0_hz[one.voiced] for one in found])
    voiced = np.concatenate([one.voiced for one in found])
    assert 0.3 < voiced.mean() < 0.8
    assert 150 < np.median(f0) < 250
    # Neighbouring voiced frames are rarely a third apart: octave errors would be.
    jumps = np.concatenate(
        [np.abs(np.diff(np.log2(one.f0_hz)))[one.voiced[1:] & one.voiced[:-1]] for one in found]
    )
    assert (jumps > 1 / 3).mean() < 0.02


@pytest.mark.parametrize("range_hz", [(0, 500), (500, 60), (60, 2001)])
def test_ranges_without_a_meaning_are_refused(range_hz: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must rise within"):
        pitch(noise(), RATE_HZ, range_hz)


def test_other_numbers_of_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="got 101 and 11"):
        PitchErrors.of(pitch(noise(), RATE_HZ), pitch(noise()[:800], RATE_HZ))
