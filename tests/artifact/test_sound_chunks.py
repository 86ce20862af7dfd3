"""AIFF as other programs write it: the values are those of a WAV, and harmed files are refused."""

import io
import struct
import warnings
from typing import Any

import numpy as np
import pytest

from aigc.artifact import audio_files
from aigc.artifact.sound_chunks import MAX_CHUNKS, layout
from aigc.data.headers import sound_header

soundfile = pytest.importorskip("soundfile", reason="the extra `flac` is not installed")


def noise(channels: int, n: int = 101) -> np.ndarray:
    """(n, channels) int32 over the whole range."""
    generator = np.random.default_rng(channels)
    return generator.integers(-(2**31) + 1, 2**31, (n, channels)).astype(np.int32)


def by_libsndfile(samples: np.ndarray, form: str, subtype: str, endian: str = "FILE") -> bytes:
    buffer = io.BytesIO()
    more: dict[str, Any] = {"format": form, "subtype": subtype, "endian": endian}
    with soundfile.SoundFile(buffer, "w", 44_100, samples.shape[1], **more) as file:
        file.write(samples)
    return buffer.getvalue()


def by_aifc(samples: np.ndarray, width: int, compression: bytes = b"NONE") -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and gone from 3.13 on
        aifc = pytest.importorskip("aifc")
    buffer = io.BytesIO()
    file = aifc.open(buffer, "wb")
    if compression == b"NONE":
        file.aiff()
    file.setparams((samples.shape[1], width, 44_100, 0, compression, b""))
    whole = samples.astype(">i4").view(np.uint8).reshape(-1, 4)
    file.writeframesraw(whole[:, :width].tobytes())
    file._patchheader()
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("endian", ["FILE", "LITTLE"], ids=["aiff", "sowt"])
def test_aiff_of_libsndfile_reads_as_its_wav(channels: int, bits: int, endian: str) -> None:
    samples = noise(channels)
    aiff = by_libsndfile(samples, "AIFF", f"PCM_{bits}", endian)
    wav = by_libsndfile(samples, "WAV", f"PCM_{bits}")
    found = audio_files.read_sound(aiff)
    assert found.samples.tobytes() == audio_files.read_sound(wav).samples.tobytes()
    assert (found.rate_hz, found.provenance) == (44_100, None)
    assert found.samples.shape == (channels, 101)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_aiff_of_floats_reads_as_its_wav(channels: int, subtype: str) -> None:
    samples = noise(channels) / 2.0**31
    aiff, wav = (by_libsndfile(samples, form, subtype) for form in ("AIFF", "WAV"))
    assert aiff[8:12] == b"AIFC"
    expected = audio_files.read_sound(wav).samples
    assert audio_files.read_sound(aiff).samples.tobytes() == expected.tobytes()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_aiff_of_the_standard_library_has_the_values_written(channels: int, width: int) -> None:
    samples = noise(channels)
    found = audio_files.read_sound(by_aifc(samples, width)).samples
    expected = (samples >> (32 - 8 * width)) / (2.0 ** (8 * width - 1) - 1)
    assert np.abs(found.T - expected.clip(-1, 1)).max() < 2**-23


def test_aiff_of_8_bits_by_libsndfile_is_signed() -> None:
    samples = np.array([[0], [64 << 24], [-64 << 24], [0]], np.int32)
    found = audio_files.read_sound(by_libsndfile(samples, "AIFF", "PCM_S8")).samples
    assert found[0].tolist() == pytest.approx([0, 64 / 127, -64 / 127, 0])


def test_aifc_of_8_bits_by_libsndfile_may_be_unsigned() -> None:
    samples = np.array([[0], [64 << 24], [-64 << 24], [127 << 24]], np.int32)
    data = by_libsndfile(samples, "AIFF", "PCM_U8")
    assert b"raw " in data[:80]
    expected = audio_files.read_sound(by_libsndfile(samples, "WAV", "PCM_U8")).samples
    assert audio_files.read_sound(data).samples.tobytes() == expected.tobytes()
    assert expected[0].tolist() == pytest.approx([0, 64 / 127, -64 / 127, 1])


def test_aifc_without_compression_and_in_little_endian_are_read() -> None:
    samples = noise(2)
    expected = audio_files.read_sound(by_aifc(samples, 2)).samples
    found = audio_files.read_sound(by_aifc(samples, 2, b"sowt"))
    assert found.samples.tobytes() == expected.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)


RATES = {8000: "400bfa00000000000000", 44_100: "400eac44000000000000"}
"""As other programs write them."""


def common(
    channels: int = 1, frames: int = 3, bits: int = 16, rate: str = RATES[8000], name: bytes = b""
) -> bytes:
    body = struct.pack(">HIH", channels, frames, bits) + bytes.fromhex(rate)
    return chunk(b"COMM", body + name)


SOUND = chunk(b"SSND", bytes(8) + b"\x10\0\x20\0\x30\0")


def aiff(*chunks: bytes, form: bytes = b"AIFF") -> bytes:
    body = form + b"".join(chunks)
    return b"FORM" + struct.pack(">I", len(body)) + body


def test_chunks_come_in_any_order_and_samples_after_an_offset() -> None:
    plain = audio_files.read_sound(aiff(common(), SOUND)).samples
    assert plain[0].tolist() == pytest.approx([v * 4096 / 32767 for v in (1, 2, 3)])
    shifted = chunk(b"SSND", struct.pack(">II", 4, 0) + b"skip" + b"\x10\0\x20\0\x30\0")
    for data in (
        aiff(SOUND, common()),
        aiff(chunk(b"NAME", b"odd"), common(), chunk(b"MARK", b"\0\0"), SOUND),
        aiff(common(), shifted),
        aiff(common(), chunk(b"SSND", bytes(8) + b"\x10\0\x20\0\x30\0" + b"\x7f\xff" * 9)),
    ):
        assert audio_files.read_sound(data).samples.tolist() == plain.tolist()
    assert audio_files.read_sound(aiff(common(frames=0))).samples.shape == (1, 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (aiff(common(), SOUND)[:-1], "cut off: a chunk of 14 bytes announced, .* 13 there"),
        (aiff(common(frames=4), SOUND), "cut off: 8 bytes of samples announced, 6 there"),
        (aiff(common()), r"holds no samples \(SSND\)"),
        (aiff(SOUND), r"holds no format \(COMM\)"),
        (aiff(chunk(b"COMM", b"\0\1"), SOUND), "its format is cut off"),
        (aiff(common(), SOUND, form=b"AIFC"), "its format is cut off"),
        (aiff(common(), chunk(b"SSND", struct.pack(">II", 90, 0) + bytes(6))), "cut off"),
        (aiff(common(channels=0), SOUND), r"channels must be in \[1, 8\], got 0"),
        (aiff(common(channels=99), SOUND), r"channels must be in \[1, 8\], got 99"),
        (aiff(common(bits=12), SOUND), "coding 'NONE' and 12 bits; integers of 8, 16, 24"),
        (aiff(common(name=b"ulaw"), SOUND, form=b"AIFC"), "coding 'ulaw' and 16 .*, raw, sowt"),
        (aiff(common(name=b"raw "), SOUND, form=b"AIFC"), "coding 'raw ' and 16 bits"),
        (aiff(common(rate="00" * 10), SOUND), "rate must be in .* got 0"),
        (aiff(common(rate="3ffd" + "80" + "00" * 7), SOUND), "rate must be in .* got 0"),
        (aiff(common(rate="7fff" + "00" * 8), SOUND), "rate must be in .* got -1"),
        (aiff(common(rate="c00b" + "fa" + "00" * 7), SOUND), "rate must be in .* got -1"),
        (aiff(common(rate="4010fa00" + "00" * 6), SOUND), "rate must be in .* got 256000"),
        (aiff(*[chunk(b"JUNK", b"")] * (MAX_CHUNKS + 1), common(), SOUND), "holds no format"),
    ],
)
def test_malformed_aiff_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        audio_files.read_sound(data)


def test_fractional_rates_of_old_machines_are_rounded() -> None:
    data = aiff(common(rate="400dadddd1745d1745d1"[:20]), SOUND)
    assert audio_files.read_sound(data).rate_hz == 22_255  # 22254.54 Hz


def test_samples_are_counted_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_libsndfile(noise(2, 100), "AIFF", "PCM_24")
    assert audio_files.read_sound(data, max_samples=200).samples.shape == (2, 100)

    def refusing(*_: Any) -> None:
        raise AssertionError("samples are decoded")

    monkeypatch.setattr(audio_files, "decoded", refusing)
    with pytest.raises(ValueError, match="200 samples are too many; at most 199"):
        audio_files.read_sound(data, max_samples=199)
    with pytest.raises(ValueError, match="too long; at most"):
        audio_files.length_at(data, 8000, 10)
    assert audio_files.length_at(data, 8000, 1000) == 19


@pytest.mark.parametrize("compression", [b"NONE", b"sowt"])
def test_damaged_aiff_raises_only_value_errors(compression: bytes) -> None:
    data = by_aifc(noise(2, 300), 2, compression)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        whole = generator.integers(2)
        harmed = bytearray(data if whole else data[: generator.integers(1, len(data))])
        for at in generator.integers(0, min(64, len(harmed)), generator.integers(0, 9)):
            harmed[at] = generator.integers(256)
        try:
            audio_files.read_sound(bytes(harmed), max_samples=100_000)
        except ValueError:
            refused += 1
    assert 250 < refused < 500  # half are cut off, and some differ in their samples alone


def test_layout_of_a_file_names_the_place_of_its_samples() -> None:
    data = by_libsndfile(noise(2), "AIFF", "PCM_24")
    found = layout(io.BytesIO(data))
    assert (found.length, found.block, found.size) == (101, 6, 606)
    assert found.start + found.size <= len(data)


@pytest.mark.parametrize("form", ["WAV", "AIFF"])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_full_scale_is_the_largest_value_decoded(form: str, subtype: str) -> None:
    if (form, subtype) == ("WAV", "PCM_S8"):
        pytest.skip("WAV of 8 bits is unsigned")
    largest = np.full((4, 1), 2**31 - 1, np.int32)
    samples = largest.astype(np.float32) / 2**31 if subtype == "FLOAT" else largest
    data = by_libsndfile(samples, form, subtype)
    found = audio_files.read_sound(data).samples
    assert (found == layout(io.BytesIO(data)).full_scale).all()
    assert found.max() > 1 - 2**-22


def test_header_of_an_aiff_has_rate_channels_and_length() -> None:
    header = sound_header(by_libsndfile(noise(2, 4410), "AIFF", "PCM_16"))
    assert (header.rate_hz, header.channels, header.seconds) == (44_100, 2, 0.1)
