"""PESQ and STOI of known recordings, of those that they cannot judge, and without the packages."""

import sys

import numpy as np
import pytest

from aigc.metrics import NotInstalled
from aigc.metrics.speech_quality import LOWEST, pesq, stoi
from tests.metrics.recorded import RATE_HZ, low_passed, noise, speech, voice


@pytest.fixture
def has_pesq() -> None:
    """The package is built by a C compiler, and is not among what `make setup` installs."""
    pytest.importorskip("pesq", reason="pesq is not here; pip install 'aigc[sound]'")


@pytest.mark.usefixtures("has_pesq")
def test_pesq_of_a_recording_with_itself_is_the_highest() -> None:
    assert pesq([voice(180)], [voice(180)], RATE_HZ) == pytest.approx([4.549], abs=1e-3)
    wide = voice(180, rate_hz=16_000)
    assert pesq([wide], [wide], 16_000, "wide") == pytest.approx([4.644], abs=1e-3)
    assert pesq([wide], [wide], 16_000) == pytest.approx([4.549], abs=1e-3)


@pytest.mark.usefixtures("has_pesq")
def test_pesq_falls_with_noise_and_a_low_pass() -> None:
    real = speech(3)[2]
    for made in (
        [real + level * noise(len(real) / RATE_HZ)[: len(real)] for level in (1e-3, 1e-2, 0.1)],
        [low_passed(real, hz) for hz in (3300, 2000, 1000)],
    ):
        found = pesq([real] * 3, made, RATE_HZ)
        assert 4.549 > found[0] > found[1] > found[2] >= 1


@pytest.mark.usefixtures("has_pesq")
def test_pesq_is_that_of_the_package() -> None:
    import pesq as package

    for real in speech(3):
        made = real + 0.01 * noise(len(real) / RATE_HZ)[: len(real)]
        wanted = package.pesq(RATE_HZ, real, made.astype(np.float32), "nb")
        assert pesq([real], [made], RATE_HZ) == pytest.approx([wanted])


@pytest.mark.usefixtures("has_pesq")
def test_pesq_judges_no_silence_and_nothing_short() -> None:
    real = [np.zeros(8000), voice(180)[:1500], voice(180)]
    found = pesq(real, [voice(180)[:8000], voice(180)[:1500], np.zeros(12_000)], RATE_HZ)
    assert np.isnan(found[:2]).all()
    assert found[2] == LOWEST["narrow"]


@pytest.mark.usefixtures("has_pesq")
def test_pesq_needs_the_rate_of_its_band() -> None:
    with pytest.raises(ValueError, match="wide band needs 16000 Hz or more, got 8000"):
        pesq([voice(180)], [voice(180)], RATE_HZ, "wide")
    with pytest.raises(ValueError, match="narrow band needs 8000 Hz or more, got 4000"):
        pesq([voice(180)], [voice(180)], 4000)


def test_lowest_is_the_map_of_the_lowest_raw_score() -> None:
    """P.862.1 and P.862.2: 0.999 + 4 / (1 + exp(a x + b)) at x = -0.5."""
    for band, a, b in (("narrow", -1.4945, 4.6607), ("wide", -1.3669, 3.8224)):
        assert LOWEST[band] == pytest.approx(0.999 + 4 / (1 + np.exp(a * -0.5 + b)), abs=1e-3)


def test_stoi_of_a_recording_with_itself_is_1() -> None:
    assert stoi([voice(180)], [voice(180)], RATE_HZ) == pytest.approx([1])
    wide = voice(180, rate_hz=16_000)
    assert stoi([wide, wide], [wide, 0.1 * wide], 16_000) == pytest.approx([1, 1])


def test_stoi_falls_with_noise_and_delay() -> None:
    real = speech(3)[2]
    for made in (
        [real + level * noise(len(real) / RATE_HZ)[: len(real)] for level in (1e-2, 0.1, 1)],
        [np.roll(real, by) for by in (40, 160, 640)],
    ):
        found = stoi([real] * 3, made, RATE_HZ)
        assert 1 > found[0] > found[1] > found[2]


def test_stoi_is_that_of_the_package() -> None:
    import pystoi

    real = voice(180)
    made = real + 0.1 * noise(1.5)
    assert stoi([real], [made], RATE_HZ) == [pystoi.stoi(real, made, RATE_HZ)]


@pytest.mark.parametrize("samples", [1, 100, 256, 2000])
def test_stoi_judges_no_silence_and_nothing_short(samples: int) -> None:
    found = stoi([voice(180)[4000:][:samples]] * 2, [np.zeros(samples)] * 2, RATE_HZ)
    assert np.isnan(found).all()
    assert np.isnan(stoi([np.zeros(8000)], [voice(180)[:8000]], RATE_HZ)).all()
    assert stoi([voice(180)], [np.zeros(12_000)], RATE_HZ) == pytest.approx([0], abs=0.01)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pesq", "pystoi"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotInstalled, match=r"pip install 'aigc\[sound\]'; it needs a C compiler"):
        pesq([voice(180)], [voice(180)], RATE_HZ)
    with pytest.raises(NotInstalled, match=r"pystoi is not here .* pip install 'aigc\[sound\]'"):
        stoi([voice(180)], [voice(180)], RATE_HZ)
