"""Opus and Codec2 by their programs: of the same length, on time, at their bit rates."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aigc.metrics import NotInstalled, speech_codecs
from aigc.metrics.mel_distance import Mel, mel_distance
from aigc.metrics.speech_codecs import (
    CODEC2_MODES,
    bit_rate,
    by_codec2,
    by_opus,
    codec2,
    ogg_packets,
    opus,
)
from aigc.metrics.speech_quality import pesq, stoi
from tests.metrics.recorded import RATE_HZ, delay, noise, speech, tone, voice

pytestmark = pytest.mark.process
MEL = Mel(rate_hz=RATE_HZ)
needs_opus = pytest.mark.skipif(
    shutil.which("opusenc") is None, reason="no opusenc here; apt-get install opus-tools"
)
needs_codec2 = pytest.mark.skipif(
    shutil.which("c2enc") is None, reason="no c2enc here; apt-get install codec2"
)


@needs_opus
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
@pytest.mark.parametrize("samples", [1, 1000, 12_001])
def test_opus_keeps_lengths(rate_hz: int, samples: int) -> None:
    made = by_opus(voice(180, 2.0, rate_hz)[:samples], rate_hz, 8000)
    assert made.wave.shape == (samples,)
    assert made.bits > 0


@needs_codec2
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
@pytest.mark.parametrize("samples", [1, 1000, 12_001])
def test_codec2_keeps_lengths(rate_hz: int, samples: int) -> None:
    made = by_codec2(voice(180, 2.0, rate_hz)[:samples], rate_hz, "1600")
    assert made.wave.shape == (samples,)
    assert made.bits % 64 == 0


@needs_codec2
@needs_opus
def test_ends_are_kept() -> None:
    """The part of the last frame that a codec holds back comes out; it fades within 10 ms."""
    real = tone(150, 0.96)
    for made in (opus([real], RATE_HZ), *(codec2([real], RATE_HZ, mode) for mode in CODEC2_MODES)):
        assert np.square(made[0][-160:-80]).mean() > 0.1 * np.square(real).mean()


@needs_opus
@pytest.mark.parametrize("rate", [6000, 8000])
def test_opus_is_not_late_and_has_about_its_bit_rate(rate: int) -> None:
    for real in (voice(180), voice(110)):
        assert abs(delay(real, by_opus(real, RATE_HZ, rate).wave)) <= 8
    found = bit_rate([voice(180, 4.0)], RATE_HZ, partial(by_opus, bit_rate=rate))
    assert found == pytest.approx(rate, rel=0.2)


@needs_codec2
@pytest.mark.parametrize("mode", CODEC2_MODES)
def test_codec2_has_its_bit_rate(mode: str) -> None:
    found = bit_rate([voice(180, 4.0)], RATE_HZ, partial(by_codec2, mode=mode))
    assert found == pytest.approx(int(mode.removesuffix("C")), rel=0.02)


@needs_codec2
@pytest.mark.parametrize("mode", CODEC2_MODES)
def test_codec2_is_not_late(mode: str) -> None:
    """Speech is nearer to its mel spectrum than moved by 4 ms to either side."""
    real = speech()[:8]
    made = codec2(real, RATE_HZ, mode)
    earlier, there, later = (
        mel_distance(real, [np.roll(wave, by) for wave in made], MEL) for by in (-32, 0, 32)
    )
    assert there < earlier
    assert there < later


@needs_opus
def test_opus_at_a_high_rate_is_nearly_the_recording() -> None:
    real = voice(180) + 0.01 * noise(1.5)
    found = [mel_distance([real], opus([real], RATE_HZ, rate), MEL) for rate in (6000, 64_000)]
    assert found[0] > 2 * found[1]
    (made,) = opus([real], RATE_HZ, 64_000)
    assert np.square(made - real).sum() < 0.05 * np.square(real).sum()  # not even by a sample


@needs_codec2
def test_speech_by_codec2_is_as_good_as_it_was_elsewhere() -> None:
    pytest.importorskip("pesq", reason="pesq is not here; pip install 'aigc[sound]'")
    for mode, published in (("3200", 2.75), ("1600", 2.40)):
        made = codec2(speech(), RATE_HZ, mode)
        assert pesq(speech(), made, RATE_HZ).mean() == pytest.approx(published, abs=0.2)


@needs_opus
def test_speech_by_opus_is_as_good_as_it_was_elsewhere() -> None:
    pytest.importorskip("pesq", reason="pesq is not here; pip install 'aigc[sound]'")
    for rate, published, intelligible in ((6000, 2.99, 0.918), (8000, 3.79, 0.959)):
        made = opus(speech(), RATE_HZ, rate)
        assert pesq(speech(), made, RATE_HZ).mean() == pytest.approx(published, abs=0.2)
        assert stoi(speech(), made, RATE_HZ).mean() == pytest.approx(intelligible, abs=0.01)


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalled, match=r"opusenc is not here; install Debian's opus-tools"):
        by_opus(voice(180), RATE_HZ, 6000)
    with pytest.raises(NotInstalled, match=r"c2enc is not here; install Debian's codec2"):
        by_codec2(voice(180), RATE_HZ, "3200")


def put_codec2(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both programs of Codec2 be a script."""
    for name in ("c2enc", "c2dec"):
        program = folder / name
        program.write_text(script)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_failure_of_a_program_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_codec2(tmp_path, "#!/bin/sh\necho no luck >&2\nexit 3\n", monkeypatch)
    with pytest.raises(ValueError, match="c2enc failed with status 3: no luck"):
        by_codec2(voice(180), RATE_HZ, "3200")


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_codec2(tmp_path, "#!/bin/sh\nexec sleep 60\n", monkeypatch)
    monkeypatch.setattr(speech_codecs, "LONGEST_S", 0.2)
    with pytest.raises(ValueError, match=r"c2enc took more than 0\.2 s"):
        by_codec2(voice(180), RATE_HZ, "3200")


@needs_opus
def test_loud_recordings_are_not_scaled_down() -> None:
    loud = voice(180) / np.abs(voice(180)).max()
    made = by_opus(loud, RATE_HZ, 6000).wave
    assert np.sqrt(np.mean(made**2)) == pytest.approx(np.sqrt(np.mean(loud**2)), rel=0.1)


def test_unknown_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="6,000 to 256,000 bits/s, got 3200"):
        by_opus(voice(180), RATE_HZ, 3200)
    with pytest.raises(ValueError, match=r"Codec2 has the modes 3200, .*, got '6000'"):
        by_codec2(voice(180), RATE_HZ, "6000")
    with pytest.raises(ValueError, match="needs a recording"):
        bit_rate([], RATE_HZ, partial(by_codec2, mode="3200"))


def page(*lacing: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(sum(lacing))


def test_packets_are_counted_over_pages() -> None:
    assert ogg_packets(page(19) + page(255, 45, 255) + page(255, 0)) == [19, 300, 510]
    assert ogg_packets(b"") == []
    for broken in (page(19)[:-1], b"RIFF" + bytes(40), page(19) + b"Og", page(19)[:20], b"OggS"):
        with pytest.raises(ValueError, match="cut off"):
            ogg_packets(broken)
