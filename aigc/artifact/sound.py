"""Arrays <-> WAV, FLAC and raw PCM of 16 bits, with their provenance inside."""

import io
import math
import struct
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aigc.artifact.codecs import Provenance
from aigc.artifact.manifest import Level

MAX_SAMPLES = 192_000 * 600
"""Most values, over all channels, that a file may hold: ten minutes at the highest rate."""
MAX_CHANNELS = 8
MAX_RATE_HZ = 192_000
MAX_CHUNKS = 1000
FULL_SCALE = 32767
SUFFIXES = (".wav", ".flac")

PEAK = 0.95
"""Largest absolute value of a clip: loudness is no clue to its class."""
SILENCE = 0.01
"""What lies below this share of the peak, before and after, is cut away."""
MARGIN_S = 0.005
"""Left standing of it on both sides."""
FAINT = 1e-7
"""A clip whose peak is lower is silence: a level of 24 bits, below which floats overflow."""
LEAD_S = 0.5
"""Kept of a long recording on both sides of what a clip of it can be."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Sound:
    """What was read from a file."""

    samples: NDArray[np.float32]
    """(channels, n) in [-1, 1]."""
    rate_hz: int
    provenance: Provenance | None
    """None if the file carries none of ours."""


def to_pcm16(waves: NDArray[np.float32]) -> NDArray[np.int16]:
    """(..., channels, n) float32, cut to [-1, 1] -> (..., n, channels) int16, rounded."""
    scaled = np.rint(np.clip(waves, -1, 1) * np.float32(FULL_SCALE))
    return np.ascontiguousarray(np.moveaxis(scaled.astype(np.int16), -2, -1))


def pcm(samples: NDArray[np.int16]) -> bytes:
    """(n, channels) int16 -> raw samples, little-endian, channels in turn, without a head."""
    return np.ascontiguousarray(samples, "<i2").tobytes()


def wav(samples: NDArray[np.int16], rate_hz: int, provenance: Provenance | None = None) -> bytes:
    """(n, channels) int16 -> WAV, its provenance as the comment of its LIST chunk."""
    n, channels = samples.shape
    return wav_head(n, channels, rate_hz, provenance) + pcm(samples)


def wav_head(n: int, channels: int, rate_hz: int, provenance: Provenance | None = None) -> bytes:
    """What stands in a WAV before the raw samples: n of each channel, which may come later."""
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
    """(n, channels) int16 -> FLAC, its provenance as its comment. Raises ValueError without the
    library."""
    library = _soundfile()
    buffer = io.BytesIO()
    form = {"format": "FLAC", "subtype": "PCM_16"}
    with library.SoundFile(buffer, "w", rate_hz, samples.shape[1], **form) as file:
        if provenance is not None:
            file.comment = provenance.text()
        file.write(samples)
    return buffer.getvalue()


def read_sound(data: bytes, max_samples: int = MAX_SAMPLES) -> Sound:
    """WAV (integers of 8 to 32 bits, floats) or FLAC -> its samples.

    Raises ValueError for anything else, for what is cut off, for more than MAX_CHANNELS channels or
    MAX_RATE_HZ, and for more than `max_samples` values, which it counts before it decodes.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _read_wav(data, max_samples)
    if data[:4] == b"fLaC":
        return _read_flac(data, max_samples)
    raise ValueError("not a WAV or FLAC file that can be read: it begins like neither")


def is_sound(head: bytes) -> bool:
    """Whether a file's first 12 bytes are those of a WAV or FLAC."""
    return head[:4] == b"fLaC" or (head[:4] == b"RIFF" and head[8:12] == b"WAVE")


def difference(samples: NDArray[np.int16], other: NDArray[np.int16]) -> int | None:
    """Largest difference of two (n, channels) int16; None if the sizes differ."""
    if samples.shape != other.shape:
        return None
    return int(np.abs(samples.astype(np.int32) - other).max(initial=0))


def fitted(wave: NDArray[np.float32], rate_hz: int, length: int) -> NDArray[np.float32]:
    """(n,) float32 -> (length,) in [-1, 1], as models of sound take a clip.

    Silence around it is cut away; it is cut off or filled up with zeros at its end; then its peak
    is brought to PEAK.
    """
    level = np.abs(wave)
    peak = float(level.max(initial=0))
    out = np.zeros(length, np.float32)
    if peak >= FAINT:
        loud = np.flatnonzero(level > SILENCE * peak)
        margin = int(MARGIN_S * rate_hz)
        wave = wave[max(0, loud[0] - margin) : loud[-1] + 1 + margin][:length]
        out[: len(wave)] = wave * np.float32(PEAK / np.abs(wave).max())
    return out


def heard(wave: NDArray[np.float32], rate_hz: int, to_hz: int, length: int) -> NDArray[np.float32]:
    """(n,) float32 -> the part of a recording that a clip of `length` samples at `to_hz` is of.

    It begins LEAD_S before the first sound, or a little earlier. So a long one costs no more than
    the clip, whatever its rate.
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
    """(n,) float32 at one rate -> at another, what lies above both of half the rates cut away.

    By its Fourier transform, so that serving needs no library for it.
    """
    if rate_hz == to_hz or not wave.size:
        return wave
    n = max(1, round(wave.size * to_hz / rate_hz))
    spectrum = np.fft.rfft(wave.astype(np.float64))[: n // 2 + 1]
    return np.asarray(np.fft.irfft(spectrum, n) * (n / wave.size), np.float32)


def allowed_difference(level: Level, tolerance: float) -> int:
    """Levels that a sound made again may differ by: none where the artifact is exact, else twice
    what replayed references may, rounding added."""
    return 0 if level == "bit" else int(2 * tolerance * FULL_SCALE) + 1


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _read_wav(data: bytes, max_samples: int) -> Sound:
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
            return Sound(_decoded(body, form, max_samples), form[2], provenance)
        if kind == b"fmt ":
            form = _format(body)
        elif kind == b"LIST":
            provenance = _comment(memoryview(data)[position : position + 8 + size])
        position += 8 + size + size % 2
    raise ValueError("not a WAV that can be read: it holds no samples")


def _format(body: memoryview) -> tuple[int, int, int, int]:
    """Coding, channels, rate in Hz and bits of a sample."""
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


def _check_count(count: int, max_samples: int) -> None:
    if count > max_samples:
        raise ValueError(f"{count} samples are too many; at most {max_samples} are read")


def _decoded(
    body: memoryview, form: tuple[int, int, int, int], max_samples: int
) -> NDArray[np.float32]:
    coding, channels, _, bits = form
    width = bits // 8
    count = len(body) // (width * channels) * channels
    _check_count(count, max_samples)
    body = body[: count * width]
    if coding == _FLOAT:
        values = np.nan_to_num(np.frombuffer(body, f"<f{width}")).clip(-1, 1)
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


def _comment(chunk: memoryview) -> Provenance | None:
    """The provenance in a LIST chunk of kind INFO."""
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
    except (library.LibsndfileError, RuntimeError, UnicodeError) as error:
        raise ValueError(f"not a FLAC that can be read: {error}") from error


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the library itself does not load
        raise ValueError(
            f"FLAC needs the extra `flac`: pip install 'aigc[flac]' ({error})"
        ) from None
    return soundfile
