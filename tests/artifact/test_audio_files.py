"""Sound files: what is written is read back, their provenance inside; nothing else is let in."""

import io
import struct
import sys
import wave
from contextlib import suppress
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aigc.artifact import audio_files, clips
from aigc.artifact.image_files import Provenance
from aigc.artifact.preprocessing import AudioPreprocessing

PROVENANCE = Provenance(
    artifact="voice@3", digest="ab" * 32, signature="sample", seed=2**53 - 1, index=7, label=3
)
pcm16 = arrays(
    np.int16,
    st.tuples(st.integers(1, 40), st.integers(1, 3)),
    elements=st.integers(-audio_files.FULL_SCALE, audio_files.FULL_SCALE),
)


def noise(n: int = 101, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(n)
    return generator.integers(-32767, 32768, (n, channels)).astype(np.int16)


def plain(data: bytes, channels: int, width: int, rate_hz: int = 8000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(data)
    return buffer.getvalue()


@given(pcm16)
def test_wav_round_trips_samples_rate_and_provenance(samples: np.ndarray) -> None:
    found = audio_files.read_sound(audio_files.wav(samples, 11025, PROVENANCE))
    assert np.array_equal(audio_files.to_pcm16(found.samples), samples)
    assert (found.rate_hz, found.provenance) == (11025, PROVENANCE)


def test_flac_round_trips_samples_rate_and_provenance() -> None:
    pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    samples = noise(4000, 2)
    data = audio_files.flac(samples, 16000, PROVENANCE)
    found = audio_files.read_sound(data)
    assert np.array_equal(audio_files.to_pcm16(found.samples), samples)
    assert (found.rate_hz, found.provenance) == (16000, PROVENANCE)
    assert audio_files.read_sound(audio_files.flac(samples, 16000)).provenance is None


def test_other_programs_read_our_wav() -> None:
    samples = noise(64, 2)
    with wave.open(io.BytesIO(audio_files.wav(samples, 8000, PROVENANCE))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        assert file.readframes(100) == audio_files.pcm(samples) == samples.astype("<i2").tobytes()


def test_other_programs_read_our_wav_comment() -> None:
    soundfile = pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    with soundfile.SoundFile(io.BytesIO(audio_files.wav(noise(), 8000, PROVENANCE))) as file:
        assert file.comment == PROVENANCE.text()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_read_takes_integers_of_every_width(width: int) -> None:
    values = np.array([0.0, 0.5, -0.5, 0.999])
    if width == 1:
        raw = (np.rint(values * 127) + 128).astype(np.uint8).tobytes()
    else:
        whole = np.rint(values * (2 ** (8 * width - 1) - 1)).astype("<i4")
        raw = b"".join(v.tobytes()[:width] for v in whole)
    found = audio_files.read_sound(plain(raw, 1, width)).samples
    assert found.shape == (1, 4)
    assert np.abs(found[0] - values).max() < 1.01 / 2 ** (8 * width - 1) + 2**-23  # of float32


def of_floats(values: list[float], kind: str) -> bytes:
    array = np.array(values, kind)
    width = array.itemsize
    form = struct.pack("<HHIIHH", 3, 1, 8000, 8000 * width, width, 8 * width)
    body = b"fmt " + struct.pack("<I", 16) + form
    body += b"data" + struct.pack("<I", array.nbytes) + array.tobytes()
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_read_scales_floats_beyond_1_by_their_peak(kind: str) -> None:
    assert audio_files.read_sound(of_floats([0.25, -0.5], kind)).samples.tolist() == [[0.25, -0.5]]
    found = audio_files.read_sound(of_floats([0.5, -2, 0.1], kind)).samples
    assert found[0].tolist() == pytest.approx([0.25, -1, 0.05])
    huge = audio_files.read_sound(of_floats([3e38, -1.5e38], kind)).samples
    assert huge.tolist() == [[1, -0.5]]


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_read_refuses_or_clips_floats_that_are_not_finite(kind: str) -> None:
    for odd in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="values that are not finite"):
            audio_files.read_sound(of_floats([0.25, odd], kind))
    data = of_floats([0.25, -2, np.nan, np.inf], kind)
    assert audio_files.read_sound(data, overload="clipped").samples.tolist() == [[0.25, -1, 0, 1]]


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_read_limits_floats_beyond_1_and_refuses_those_that_are_not_finite(kind: str) -> None:
    data = of_floats([0.25, -2, 1.5, -0.5], kind)
    assert audio_files.read_sound(data, overload="limited").samples.tolist() == [
        [0.25, -1, 1, -0.5]
    ]
    for odd in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="values that are not finite"):
            audio_files.read_sound(of_floats([0.25, odd], kind), overload="limited")


@pytest.mark.parametrize("resampling", ["polyphase", "fourier"])
@pytest.mark.parametrize("rate_hz", [8000, 16_000])
def test_kept_level_begins_at_the_first_sample_by_either_resampling(
    resampling: Literal["polyphase", "fourier"], rate_hz: int
) -> None:
    samples = np.zeros((4 * rate_hz, 1), np.int16)
    samples[2 * rate_hz : 3 * rate_hz] = 3277  # of four seconds, the third is not silent
    kept = AudioPreprocessing(resampling=resampling, level="kept")
    found = clips.row(audio_files.wav(samples, rate_hz), (1, 32_000), 8000, kept)[0]
    assert np.abs(found[:15_900]).max() < 0.001
    assert np.median(found[16_000:24_000]) == pytest.approx(0.1, abs=0.001)
    short = clips.row(audio_files.wav(samples, rate_hz), (1, 8000), 8000, kept)[0]
    assert np.abs(short[:7900]).max() < 0.001


def test_channels_are_concatenated_in_order() -> None:
    samples = np.array([[1, 10], [2, 20], [3, 30]], np.int16)
    found = audio_files.read_sound(audio_files.wav(samples, 8000)).samples
    assert np.rint(found * 32767).tolist() == [[1, 2, 3], [10, 20, 30]]


def test_int16_rounds_and_clips() -> None:
    waves = np.array([[[0.5, 2.0, -2.0, 1.4 / 32767]]], np.float32)
    assert audio_files.to_pcm16(waves)[0, :, 0].tolist() == [16384, 32767, -32767, 1]


@pytest.mark.parametrize("comment", [b"a song", b"{}", b"[" * 5000, b'{"seed": 1}', b"\xff\xfe"])
def test_foreign_comment_is_no_provenance(comment: bytes) -> None:
    data = audio_files.wav(noise(), 8000, PROVENANCE)
    text = PROVENANCE.text().encode()
    other = data.replace(text, comment[: len(text)].ljust(len(text), b"\0"))
    assert other != data
    assert audio_files.read_sound(other).provenance is None


def test_read_refuses_too_many_samples_before_decoding() -> None:
    data = audio_files.wav(noise(100, 2), 8000)
    assert audio_files.read_sound(data, max_samples=200).samples.shape == (2, 100)
    with pytest.raises(ValueError, match="200 samples are too many; at most 199"):
        audio_files.read_sound(data, max_samples=199)


def test_read_refuses_silent_flac_bombs_before_decoding() -> None:
    pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    data = audio_files.flac(np.zeros((2_000_000, 1), np.int16), 8000)
    assert len(data) < 50_000
    with pytest.raises(ValueError, match="2000000 samples are too many; at most 100000"):
        audio_files.read_sound(data, max_samples=100_000)


def test_flac_header_with_too_few_samples_bounds_the_output() -> None:
    pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    data = bytearray(audio_files.flac(np.zeros((500_000, 1), np.int16), 8000))
    at = data.index(b"fLaC") + 8 + 13  # the low 36 bits there are the number of samples
    data[at : at + 5] = bytes([data[at] & 0xF0, 0, 0, 0, 100])
    with suppress(ValueError):
        assert audio_files.read_sound(bytes(data), max_samples=1000).samples.size <= 1000


def broken(change: str) -> bytes:
    data = audio_files.wav(noise(), 8000)
    return {
        "empty": b"",
        "another": b"OggS" + data[4:],
        "cut off": data[:-1],
        "no samples": data[:36],
        "no format": data[:12] + data[36:],
        "short format": data[:12] + b"fmt \x04\0\0\0\1\0\1\0" + data[36:],
        "no channels": data[:22] + b"\0\0" + data[24:],
        "many channels": data[:22] + b"\xff\0" + data[24:],
        "no rate": data[:24] + b"\0\0\0\0" + data[28:],
        "coding": data[:20] + b"\x55\0" + data[22:],
        "bits": data[:34] + b"\x0c\0" + data[36:],
    }[change]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("empty", "begins like none of them"),
        ("another", "begins like none of them"),
        ("cut off", "cut off: 202 bytes of samples announced, 201 there"),
        ("no samples", "holds no samples"),
        ("no format", "come before their format"),
        ("short format", "its format is cut off"),
        ("no channels", r"channels must be in \[1, 8\], got 0"),
        ("many channels", r"channels must be in \[1, 8\], got 255"),
        ("no rate", r"sample rate must be in \[1, 192000\] Hz, got 0"),
        ("coding", "coding 85 and 16 bits"),
        ("bits", "coding 1 and 12 bits"),
    ],
)
def test_read_refuses_malformed_wavs_with_the_reason(change: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        audio_files.read_sound(broken(change))


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_read_raises_only_its_own_error_for_damaged_files(form: str) -> None:
    if form == "flac":
        pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    data = getattr(audio_files, form)(noise(600), 8000, PROVENANCE)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        harmed = bytearray(data[: generator.integers(1, len(data) + 1)])
        for at in generator.integers(0, len(harmed), generator.integers(0, 9)):
            harmed[at] = generator.integers(256)
        try:
            audio_files.read_sound(bytes(harmed), max_samples=100_000)
        except ValueError:
            refused += 1
    assert 0 < refused <= 300


def test_read_bounds_the_number_of_chunks() -> None:
    data = b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 200_000
    with pytest.raises(ValueError, match="holds no samples"):
        audio_files.read_sound(data)


def test_missing_flac_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"pip install 'aigc\[flac\]'"):
        audio_files.read_sound(b"fLaC")
    with pytest.raises(ValueError, match=r"pip install 'aigc\[flac\]'"):
        audio_files.flac(noise(), 8000)


def test_differences_are_in_levels_or_none_for_another_size() -> None:
    a = np.array([[-32767], [5]], np.int16)
    found = audio_files.differences(a, np.array([[32767], [5]], np.int16))
    assert found is not None
    assert found.tolist() == [[65534], [0]]
    assert audio_files.differences(a, a[:1]) is None
