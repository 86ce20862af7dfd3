"""WAV, FLAC and raw PCM of 16 bits: encoding and decoding with provenance, and clips of
recordings."""

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from aigc.artifact.axes import NO_AXES, Axis, Shape, bounds, nearest, solved
from aigc.artifact.image_files import Provenance
from aigc.artifact.manifest import Level
from aigc.artifact.preprocessing import AUDIO, AudioPreprocessing
from aigc.artifact.resampling import polyphase

MAX_SAMPLES = 192_000 * 600
"""Most values, over all channels, in a file: ten minutes at the highest rate."""
MAX_CHANNELS = 8
MAX_RATE_HZ = 192_000
MAX_CHUNKS = 1000
FULL_SCALE = 32767
SUFFIXES = (".wav", ".flac")

PEAK = AUDIO.peak
"""Largest absolute value of a clip; the same for all, so that loudness does not reveal a class."""
SILENCE = AUDIO.silence
"""Fraction of the peak below which sound is cut off at both ends."""
MARGIN_S = AUDIO.margin_s
"""Seconds of it that remain on both sides."""
FAINT = 1e-7
"""Peak below which a clip is silence: one level of 24 bits; dividing by less overflows floats."""
LEAD_S = 0.5
"""Seconds of a long recording kept on both sides of the part that a clip can come from."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Sound:
    """A decoded file."""

    samples: NDArray[np.float32]
    """(channels, n) in [-1, 1]."""
    rate_hz: int
    provenance: Provenance | None
    """None if the file has no provenance of ours."""


def to_pcm16(waves: NDArray[np.float32]) -> NDArray[np.int16]:
    """(..., channels, n) float32, clipped to [-1, 1] -> (..., n, channels) int16, rounded."""
    scaled = np.rint(np.clip(waves, -1, 1) * np.float32(FULL_SCALE))
    return np.ascontiguousarray(np.moveaxis(scaled.astype(np.int16), -2, -1))


def pcm(samples: NDArray[np.int16]) -> bytes:
    """(n, channels) int16 -> raw samples, little-endian, interleaved, without a header."""
    return np.ascontiguousarray(samples, "<i2").tobytes()


def wav(samples: NDArray[np.int16], rate_hz: int, provenance: Provenance | None = None) -> bytes:
    """(n, channels) int16 -> WAV with its provenance as the comment of a LIST chunk."""
    n, channels = samples.shape
    return wav_head(n, channels, rate_hz, provenance) + pcm(samples)


def wav_head(n: int, channels: int, rate_hz: int, provenance: Provenance | None = None) -> bytes:
    """Header of a WAV of n samples per channel, for streaming: the samples may follow later."""
    form = struct.pack("<HHIIHH", _PCM, channels, rate_hz, rate_hz * channels * 2, channels * 2, 16)
    parts = [_chunk(b"fmt ", form)]
    if provenance is not None:
        comment = _chunk(b"ICMT", provenance.text().encode() + b"\0")
        parts.append(_chunk(b"LIST", b"INFO" + comment))
    size = n * channels * 2
    parts.append(b"data" + struct.pack("<I", size))
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body) + size) + b"WAVE" + body


def flac(samples: NDArray[np.int16], rate_hz: int, provenance: Provenance | None = None) -> bytes:
    """(n, channels) int16 -> FLAC with its provenance as a comment. Raises ValueError without the
    library."""
    library = _soundfile()
    buffer = io.BytesIO()
    form = {"format": "FLAC", "subtype": "PCM_16"}
    with library.SoundFile(buffer, "w", rate_hz, samples.shape[1], **form) as file:
        if provenance is not None:
            file.comment = provenance.text()
        file.write(samples)
    return buffer.getvalue()


def read_sound(
    data: bytes,
    max_samples: int = MAX_SAMPLES,
    overload: Literal["scaled", "clipped"] = AUDIO.overload,
) -> Sound:
    """Decode WAV (integers of 8 to 32 bits, floats) or FLAC.

    `overload`: see AudioPreprocessing. Raises ValueError for other formats, truncated files, more
    than MAX_CHANNELS channels or MAX_RATE_HZ, and more than `max_samples` values, which are counted
    before decoding.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _read_wav(data, max_samples, overload)
    if data[:4] == b"fLaC":
        return _read_flac(data, max_samples)
    raise ValueError("not a WAV or FLAC file that can be read: it begins like neither")


def is_sound(head: bytes) -> bool:
    """True if a file's first 12 bytes are those of WAV or FLAC."""
    return head[:4] == b"fLaC" or (head[:4] == b"RIFF" and head[8:12] == b"WAVE")


def difference(samples: NDArray[np.int16], other: NDArray[np.int16]) -> int | None:
    """Largest difference of two (n, channels) int16 arrays; None if their shapes differ."""
    if samples.shape != other.shape:
        return None
    return int(np.abs(samples.astype(np.int32) - other).max(initial=0))


def row(
    data: bytes,
    shape: Shape,
    to_hz: int,
    reading: AudioPreprocessing = AUDIO,
    max_samples: int = MAX_SAMPLES,
    axes: Mapping[str, Axis] = NO_AXES,
) -> NDArray[np.float32]:
    """A WAV or FLAC -> (channels, length) float32 in [-1, 1], the input of a model.

    Each channel is converted by clip(). A length that is an expression of `axes` is that of the
    clip, as far as it is allowed. Raises ValueError for a file that cannot be read or has
    other channels than the model, and for more than `max_samples` samples at either rate.
    """
    found = read_sound(data, max_samples, reading.overload)
    channels, most = bounds(axes, shape)[1]
    num_channels, n = found.samples.shape
    if not n and reading.empty == "refused":
        raise ValueError("it holds no samples")
    if channels not in (1, num_channels):
        raise ValueError(f"it has {num_channels} channels, {channels} are wanted")
    waves = found.samples.mean(0)[None] if channels == 1 else found.samples
    if reading.resampling == "polyphase":  # of the whole, whatever its length
        _check_count(waves.size * to_hz // found.rate_hz, max_samples, f" at {to_hz} Hz")
    clips = [clip(wave, found.rate_hz, to_hz, most, reading, pad=not axes) for wave in waves]
    if not axes:
        return np.stack(clips)
    heard_for = max(map(len, clips))
    length = nearest(axes, shape[1:], (heard_for,), up=True)[0]
    if reading.sizing != "nearest" and length != heard_for:
        solved(axes, shape[1:], (heard_for,))  # raises
    return np.stack([_padded(one, length) for one in clips])


def clip(
    wave: NDArray[np.float32],
    rate_hz: int,
    to_hz: int,
    length: int,
    reading: AudioPreprocessing = AUDIO,
    *,
    pad: bool = True,
) -> NDArray[np.float32]:
    """Resample and fit: (n,) float32 at one rate -> (length,) in [-1, 1] at another.

    Without `pad` a short clip keeps its length.
    """
    if reading.resampling == "polyphase":
        wave = polyphase(wave, rate_hz, to_hz)
    else:
        wave = resampled(heard(wave, rate_hz, to_hz, length), rate_hz, to_hz)
    wave = trimmed(wave, to_hz, length, reading)
    return _padded(wave, length) if pad else wave


def fitted(
    wave: NDArray[np.float32], rate_hz: int, length: int, reading: AudioPreprocessing = AUDIO
) -> NDArray[np.float32]:
    """(n,) float32 -> (length,) in [-1, 1], the form in which models take a clip.

    Silence at both ends is cut off, the rest is cut or zero-padded at its end, and its peak is
    scaled to that of the preprocessing.
    """
    return _padded(trimmed(wave, rate_hz, length, reading), length)


def trimmed(
    wave: NDArray[np.float32], rate_hz: int, length: int, reading: AudioPreprocessing
) -> NDArray[np.float32]:
    """fitted() without the zeros at its end: at most `length` samples, none of silence."""
    level = np.abs(wave)
    peak = float(level.max(initial=0))
    if peak < FAINT:
        return np.zeros(0, np.float32)
    loud = np.flatnonzero(level > reading.silence * peak)
    margin = int(reading.margin_s * rate_hz)
    wave = wave[max(0, loud[0] - margin) : loud[-1] + 1 + margin][:length]
    return wave * np.float32(reading.peak / np.abs(wave).max())


def _padded(wave: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """(n,) with n <= length -> (length,) with zeros at its end."""
    out = np.zeros(length, np.float32)
    out[: len(wave)] = wave
    return out


def heard(wave: NDArray[np.float32], rate_hz: int, to_hz: int, length: int) -> NDArray[np.float32]:
    """(n,) float32 -> the part of a recording that determines its clip of `length` samples at
    `to_hz`.

    It begins LEAD_S before the first sound, or a little earlier. A long recording then costs no
    more than the clip, whatever its rate.
    """
    level = np.abs(wave)
    first = int(np.argmax(level > SILENCE * level.max(initial=0))) if wave.size else 0
    lead = math.ceil(LEAD_S * rate_hz)
    # Whole samples at the other rate, too: else what is cut out would be a fraction of one late.
    step = rate_hz // math.gcd(rate_hz, to_hz)
    start = max(0, first - lead) // step * step
    stop = -(-(first + math.ceil(length * rate_hz / to_hz) + lead) // step) * step
    return wave[start:stop]


def resampled(wave: NDArray[np.float32], rate_hz: int, to_hz: int) -> NDArray[np.float32]:
    """(n,) float32 at one rate -> at another, without frequencies above half of either rate.

    By Fourier transform: the method of artifacts without preprocessing.
    """
    if rate_hz == to_hz or not wave.size:
        return wave
    n = max(1, round(wave.size * to_hz / rate_hz))
    spectrum = np.fft.rfft(wave.astype(np.float64))[: n // 2 + 1]
    return np.asarray(np.fft.irfft(spectrum, n) * (n / wave.size), np.float32)


def allowed_difference(level: Level, tolerance: float) -> int:
    """Largest difference in levels of a sound recreated on another machine: 0 at levels `bit` and
    `uint8`, else twice the tolerance of replayed references, plus rounding."""
    return 0 if level == "bit" else int(2 * tolerance * FULL_SCALE) + 1


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _read_wav(data: bytes, max_samples: int, overload: Literal["scaled", "clipped"]) -> Sound:
    form: tuple[int, int, int, int] | None = None
    provenance = None
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        kind, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 :][:4], "little"),
        )
        body = memoryview(data)[position + 8 : position + 8 + size]
        if kind == b"data":
            if form is None:
                raise ValueError("not a WAV that can be read: its samples come before their format")
            if len(body) < size:
                raise ValueError(
                    f"the WAV is cut off: {size} bytes of samples announced, {len(body)} there"
                )
            provenance = provenance or _comment(memoryview(data)[position + 8 + size + size % 2 :])
            samples = _decoded(body, form, max_samples, overload)
            return Sound(samples, form[2], provenance)
        if kind == b"fmt ":
            form = _format(body)
        elif kind == b"LIST":
            provenance = _comment(memoryview(data)[position : position + 8 + size])
        position += 8 + size + size % 2
    raise ValueError("not a WAV that can be read: it holds no samples")


def _format(body: memoryview) -> tuple[int, int, int, int]:
    """Codec, channels, rate in Hz and bits per sample."""
    if len(body) < 16:
        raise ValueError("not a WAV that can be read: its format is cut off")
    coding, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if coding == _EXTENSIBLE and len(body) >= 26:
        coding = int.from_bytes(body[24:26], "little")
    if (coding, bits) not in _WIDTHS:
        raise ValueError(
            f"a WAV of coding {coding} and {bits} bits; integers of 8, 16, 24 or 32 bits and floats"
            " of 32 or 64 are read"
        )
    _check(channels, rate_hz)
    return coding, channels, rate_hz, bits


_WIDTHS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


def _check(channels: int, rate_hz: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"channels must be in [1, {MAX_CHANNELS}], got {channels}")
    if not 1 <= rate_hz <= MAX_RATE_HZ:
        raise ValueError(f"the sample rate must be in [1, {MAX_RATE_HZ}] Hz, got {rate_hz}")


def _check_count(count: int, max_samples: int, where: str = "") -> None:
    if count > max_samples:
        raise ValueError(f"{count} samples{where} are too many; at most {max_samples} are read")


def _decoded(
    body: memoryview,
    form: tuple[int, int, int, int],
    max_samples: int,
    overload: Literal["scaled", "clipped"],
) -> NDArray[np.float32]:
    coding, channels, _, bits = form
    width = bits // 8
    count = len(body) // (width * channels) * channels
    _check_count(count, max_samples)
    body = body[: count * width]
    if coding == _FLOAT:
        floats = np.frombuffer(body, f"<f{width}")
        values = np.nan_to_num(floats).clip(-1, 1) if overload == "clipped" else _within_1(floats)
    elif bits == 8:
        values = (np.frombuffer(body, np.uint8).astype(np.float32) - 128) / 127
    elif bits == 24:
        wide = np.zeros((count, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(count, 3)
        values = wide.view("<i4")[:, 0] / (2**31 - 1)
    else:
        values = np.frombuffer(body, f"<i{width}") / (2.0 ** (bits - 1) - 1)
    rows = values.astype(np.float32).clip(-1, 1).reshape(-1, channels)
    return np.ascontiguousarray(rows.T)


def _within_1(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The wave divided by its peak if that exceeds 1. Raises ValueError for values that are not
    finite."""
    peak = float(np.abs(values).max(initial=0))
    if not math.isfinite(peak):
        raise ValueError("it holds values that are not finite (NaN or infinity)")
    return values if peak <= 1 else values / np.float64(peak)


def _comment(chunk: memoryview) -> Provenance | None:
    """A LIST chunk of type INFO with the provenance."""
    if bytes(chunk[:4]) != b"LIST" or bytes(chunk[8:12]) != b"INFO":
        return None
    position = 12
    for _ in range(MAX_CHUNKS):
        kind, size = bytes(chunk[position : position + 4]), chunk[position + 4 : position + 8]
        if len(size) < 4:
            break
        length = int.from_bytes(size, "little")
        if kind == b"ICMT":
            return _provenance(bytes(chunk[position + 8 : position + 8 + length]).rstrip(b"\0"))
        position += 8 + length + length % 2
    return None


def _provenance(text: bytes) -> Provenance | None:
    try:
        return msgspec.json.decode(text, type=Provenance)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None  # somebody else's comment


def _read_flac(data: bytes, max_samples: int) -> Sound:
    library = _soundfile()
    try:
        with library.SoundFile(io.BytesIO(data)) as file:
            _check(file.channels, file.samplerate)
            # What the head announces may be a lie: no more than is allowed is ever decoded.
            _check_count(file.frames * file.channels, max_samples)
            rows = file.read(max_samples // file.channels + 1, dtype="int16", always_2d=True)
            _check_count(rows.size, max_samples)
            samples = (rows.T / np.float32(FULL_SCALE)).astype(np.float32).clip(-1, 1)
            comment = _provenance(str(file.comment).encode())
            return Sound(np.ascontiguousarray(samples), int(file.samplerate), comment)
    except library.LibsndfileError as error:  # whose message names an object of this program
        said = error.error_string.removeprefix("Error : ").rstrip(".")
        raise ValueError(f"not a FLAC that can be read: {said}") from None
    except (RuntimeError, UnicodeError) as error:
        raise ValueError(f"not a FLAC that can be read: {error}") from error


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the library itself does not load
        raise ValueError(
            f"FLAC needs the extra `flac`: pip install 'aigc[flac]' ({error})"
        ) from None
    return soundfile
