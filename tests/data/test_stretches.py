"""Parts of recordings equal those of the whole bit for bit; levels find silence and clipping."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc.artifact import audio_files
from aigc.artifact.audio_files import MissingLibrary
from aigc.artifact.resampling import needed, polyphase
from aigc.data import stretches
from aigc.data.content import File
from aigc.data.files import listing
from aigc.data.stretches import (
    Length,
    Levels,
    length_of,
    lengths_of,
    levels,
    opened,
    stretch,
    whole,
)
from tests.artifact.test_sound_chunks import by_aifc, by_libsndfile

RATES = (8000, 11_025, 16_000, 44_100, 48_000)


def recording(n: int, channels: int = 2) -> np.ndarray:
    """(n, channels) int16: noise at a quarter of full scale, so that resampling clips nothing."""
    generator = np.random.default_rng(n)
    return generator.integers(-8000, 8000, (n, channels)).astype(np.int16)


def encoded(form: str, samples: np.ndarray, rate_hz: int) -> bytes:
    if form == "aiff":
        data = by_aifc(samples.astype(np.int32) << 16, 2)
        return data.replace(bytes.fromhex("400eac44"), _rate(rate_hz), 1)
    if form == "flac":
        pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    return {"wav": audio_files.wav, "flac": audio_files.flac}[form](samples, rate_hz)


def _rate(rate_hz: int) -> bytes:
    """First four bytes of a rate below 2^16 as an extended float."""
    shift = 16 - rate_hz.bit_length()
    return struct.pack(">HH", 16383 + 15 - shift, rate_hz << shift)


@given(
    st.sampled_from(RATES),
    st.sampled_from(RATES),
    st.integers(1, 3000),
    st.integers(0, 4000),
    st.integers(1, 500),
)
def test_resampled_part_equals_the_part_of_the_resampled_whole(
    rate_hz: int, to_hz: int, n: int, start: int, length: int
) -> None:
    wave = recording(n, 1)[:, 0] / np.float32(32767)
    expected = polyphase(wave, rate_hz, to_hz)
    start = min(start, len(expected) - 1)
    stop = min(start + length, len(expected))
    first, last, offset = needed(start, stop, rate_hz, to_hz, n)
    assert 0 <= first <= last <= n
    found = polyphase(wave[first:last], rate_hz, to_hz)[offset : offset + stop - start]
    assert found.tobytes() == expected[start:stop].tobytes()


@pytest.mark.parametrize("form", ["wav", "aiff", "flac"])
@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_stretches_put_together_are_the_whole_recording(
    form: str, rate_hz: int, tmp_path: Path
) -> None:
    samples = recording(20_000)
    path = tmp_path / "sound"
    path.write_bytes(encoded(form, samples, rate_hz))
    assert length_of(path) == (rate_hz, 20_000)
    total = length_of(path).at(8000)
    parts = [stretch(path, start, 700, 8000) for start in range(0, total, 700)]
    expected = whole(path, 8000, 60)
    assert expected.shape == (total,)
    assert np.concatenate(parts).tobytes() == expected.tobytes()
    mixed = audio_files.read_sound(path.read_bytes()).samples.mean(0)
    assert expected.tobytes() == polyphase(mixed, rate_hz, 8000).tobytes()


def test_stretch_reads_only_its_part_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(audio_files.wav(recording(2_000_000, 1), 44_100))
    asked: list[int] = []
    read = stretches.Opened.read

    def counting(self: stretches.Opened, start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(stretches.Opened, "read", counting)
    assert len(stretch(path, 100_000, 800, 8000)) == 800
    [one] = asked
    assert one < 800 * 44_100 / 8000 + 600


@pytest.mark.parametrize("gain", [0.001, 0.1, 0.9])
def test_loudness_is_kept(gain: float, tmp_path: Path) -> None:
    wave = gain * np.sin(np.arange(8000) * 0.1)
    path = tmp_path / "sine.wav"
    path.write_bytes(audio_files.wav(audio_files.to_pcm16(wave[None].astype(np.float32)), 8000))
    found = whole(path, 8000, 10)
    assert np.abs(found - wave).max() <= 0.502 / 32767
    assert np.array_equal(found[2000:2500], stretch(path, 2000, 500, 8000))


def refusing(*_: object) -> None:
    raise AssertionError("samples are decoded")


def test_long_recordings_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(audio_files.wav(recording(16_001, 1), 8000))
    assert len(whole(path, 8000, 2.1)) == 16_001
    monkeypatch.setattr(stretches.Opened, "read", refusing)
    with pytest.raises(ValueError, match=r"its 2 s are too long; at most 2 s .* raise max_s"):
        whole(path, 8000, 2)


@pytest.mark.parametrize(
    ("channels", "to_hz", "reason"),
    [
        (1, 8000, ""),
        (3, 8000, "3003 samples are too many; at most 3000"),
        (1, 24_001, "3004 samples at 24001 Hz are too many; at most 3000"),
    ],
)
def test_whole_recordings_are_bounded_by_samples_over_channels_and_at_either_rate(
    channels: int, to_hz: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wide.wav"
    path.write_bytes(audio_files.wav(recording(1001, channels), 8000))
    monkeypatch.setattr(stretches, "MAX_SAMPLES", 3000)
    if not reason:
        assert len(whole(path, to_hz, 60)) == 1001
        return
    monkeypatch.setattr(stretches.Opened, "read", refusing)
    with pytest.raises(ValueError, match=reason):
        whole(path, to_hz, 60)


def test_flac_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    data = encoded("flac", recording(40_000), 8000)
    path = tmp_path / "cut.flac"
    path.write_bytes(data[: len(data) // 2])
    assert len(stretch(path, 0, 800, 8000)) == 800
    for read in (
        lambda: stretch(path, 39_000, 800, 8000),
        lambda: whole(path, 8000, 60),
        lambda: length_of(path),
    ):
        with pytest.raises(ValueError, match="it is cut off"):
            read()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("lost", [1, 10, 5000])
def test_flac_has_a_length_only_where_its_last_sample_is_there(
    channels: int, lost: int, tmp_path: Path
) -> None:
    data = encoded("flac", recording(40_000, channels), 8000)
    path = tmp_path / "sound.flac"
    path.write_bytes(data)
    assert length_of(path) == (8000, 40_000)
    path.write_bytes(data[:-lost])
    with pytest.raises(ValueError, match="it is cut off"):
        length_of(path)


def announcing(data: bytes, length: int) -> bytes:
    """A FLAC whose head announces another number of samples."""
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | length
    return data[:18] + packed.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("length", [2**36 - 1, 2**30, 1_000_000, 4001])
@pytest.mark.parametrize("cut", [42, 10_000])
def test_flac_that_announces_more_than_it_holds_has_no_length(
    length: int, cut: int, tmp_path: Path
) -> None:
    path = tmp_path / "sound.flac"
    path.write_bytes(announcing(encoded("flac", recording(4000), 8000), length)[:cut])
    with pytest.raises(ValueError, match="it is cut off"):
        length_of(path)
    with pytest.raises(ValueError, match="it is cut off"):
        stretch(path, length - 10, 10, 8000)


def test_flac_of_silence_fits_into_few_bytes(tmp_path: Path) -> None:
    path = tmp_path / "silence.flac"
    path.write_bytes(encoded("flac", np.zeros((3_000_000, 1), np.int16), 48_000))
    assert path.stat().st_size < 20_000
    assert length_of(path) == (48_000, 3_000_000)


@pytest.mark.parametrize(
    ("rate_hz", "to_hz", "length", "reason"),
    [
        (1, 64, 10, ""),
        (1, 65, 10, "its rate of 1 Hz is too low to be brought to 65 Hz"),
        (125, 8001, 10, "its rate of 125 Hz is too low"),
        (8000, 8000, 1 << 32, ""),
        (8000, 16_000, 1 << 31, ""),
        (8000, 8000, (1 << 32) + 1, "it is too long: 4294967297 samples at 8000 Hz"),
        (8000, 48_000, 1 << 30, "it is too long: 6442450944 samples at 48000 Hz"),
    ],
)
def test_lengths_are_bounded_at_the_rate_they_are_brought_to(
    rate_hz: int, to_hz: int, length: int, reason: str
) -> None:
    one = Length(rate_hz, length)
    if not reason:
        assert one.at(to_hz) == length * to_hz // rate_hz
        return
    with pytest.raises(ValueError, match=reason):
        one.at(to_hz)


def test_flac_without_a_length_and_files_without_samples_are_refused(tmp_path: Path) -> None:
    data = bytearray(encoded("flac", recording(4000), 8000))
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    for content, reason in (
        (bytes(data), "states no length"),
        (data[:20], "its head is cut off"),
        (audio_files.wav(np.zeros((0, 1), np.int16), 8000), "holds no samples"),
    ):
        path = tmp_path / "sound"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            stretch(path, 0, 10, 8000)


def of_floats(values: np.ndarray) -> bytes:
    form = struct.pack("<HHIIHH", 3, 1, 8000, 32_000, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form
    body += b"data" + struct.pack("<I", 4 * len(values)) + values.astype("<f4").tobytes()
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_floats_beyond_1_are_clipped_and_others_keep_their_level(tmp_path: Path) -> None:
    path = tmp_path / "floats.wav"
    path.write_bytes(of_floats(np.array([0.25, 3, -2, 0.5])))
    assert whole(path, 8000, 1).tolist() == [0.25, 1, -1, 0.5]
    path.write_bytes(of_floats(np.array([0.25, np.nan])))
    with pytest.raises(ValueError, match="not finite"):
        whole(path, 8000, 1)


def listed(folder: Path) -> list[File]:
    return list(listing(str(folder), audio_files.SUFFIXES, "audio").files)


def test_lengths_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc.data.files.SETTLED_S", -1)
    (tmp_path / "a.wav").write_bytes(audio_files.wav(recording(700), 8000))
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    assert lengths_of(listed(tmp_path)) == [(8000, 700), None]
    with monkeypatch.context() as patch:
        patch.setattr(stretches, "length_of", refusing)
        assert lengths_of(listed(tmp_path)) == [(8000, 700), None]
    (tmp_path / "b.wav").write_bytes(audio_files.wav(recording(90), 16_000))
    assert lengths_of(listed(tmp_path)) == [(8000, 700), (16_000, 90)]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), OSError(5, "I/O error"), MissingLibrary("no library")]
)
def test_lengths_are_not_kept_for_a_reason_that_passes(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc.data.files.SETTLED_S", -1)
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(audio_files.wav(recording(700), 8000))

    def failing(path: Path) -> Length:
        if path.name == "b.wav":
            raise error
        return length_of(path)

    with monkeypatch.context() as patch:
        patch.setattr(stretches, "length_of", failing)
        assert lengths_of(listed(tmp_path)) == [(8000, 700), None]
    assert lengths_of(listed(tmp_path)) == [(8000, 700)] * 2


def levels_of(samples: np.ndarray) -> Levels:
    with opened(io.BytesIO(audio_files.wav(samples, 8000))) as found:
        return levels(found)


def ends(*values: int) -> np.ndarray:
    return np.array(values, np.int16)[:, None]


def test_levels_count_runs_at_full_scale() -> None:
    top, bottom = 32767, -32767
    assert levels_of(ends(0, top, top, 0)).clipped == 0
    assert levels_of(ends(0, top, top, top)).clipped == 3 / 4
    assert levels_of(ends(top, top, bottom, bottom, top)).clipped == 0
    assert levels_of(ends(*[bottom] * 4, 0, *[top] * 3, 0, top)).clipped == 7 / 10
    stereo = np.concatenate([ends(top, top, top, 0), ends(0, 0, 0, 0)], 1)
    assert levels_of(stereo).clipped == 3 / 8


@pytest.mark.parametrize("form", ["WAV", "AIFF", "FLAC"])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "DOUBLE"])
def test_levels_find_clipping_at_both_ends_of_every_coding(form: str, subtype: str) -> None:
    library = pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    if not library.check_format(form, subtype):
        pytest.skip(f"there is no {form} of {subtype}")
    top = 2**31 - 1
    values = np.array([0, *[top] * 3, 0, *[-top] * 4, 0, top, top, 0, 0, 0, 0], np.int64)[:, None]
    floats = subtype == "DOUBLE"
    with opened(io.BytesIO(by_libsndfile(_coded(values, floats), form, subtype))) as found:
        assert levels(found).clipped == 7 / 16
    quieter = values * 124 // 128
    with opened(io.BytesIO(by_libsndfile(_coded(quieter, floats), form, subtype))) as found:
        assert levels(found) == (pytest.approx(124 / 128, abs=0.01), 0)


def _coded(values: np.ndarray, floats: bool) -> np.ndarray:
    return values / (2**31 - 1) if floats else values.astype(np.int32)


def test_floats_beyond_1_count_as_clipped_only_where_they_are_clipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stretches, "BLOCK", 4)
    beyond, at = np.array([1, 1, 1, 1, 0, 0, 0, -1.5]), np.array([1, 1, 1, 1, 0, 0, 0, -0.5])
    for values, limited, scaled in ((beyond, 0.5, 0), (at, 0.5, 0.5), (at / 2, 0, 0)):
        with opened(io.BytesIO(of_floats(values))) as found:
            assert levels(found).clipped == levels(found, "limited").clipped == limited
            assert levels(found, "scaled").clipped == scaled


def test_levels_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    samples = generator.choice(np.array([32767, 32767, -32767, 5], np.int16), (300, 2))
    expected = levels_of(samples)
    assert 0 < expected.clipped < 1
    for block in (1, 2, 3, 7, 100):
        monkeypatch.setattr(stretches, "BLOCK", block)
        assert levels_of(samples) == expected


def test_silence_is_a_peak_below_60_decibels() -> None:
    assert levels_of(ends(0, 0)).silent
    assert levels_of(ends(0, 32)).silent
    assert not levels_of(ends(0, 33)).silent
