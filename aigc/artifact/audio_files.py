"""WAV, FLAC and raw PCM of 16 bits: encoding and decoding with provenance."""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from aigc.artifact.image_files import Provenance
from aigc.artifact.preprocessing import AUDIO

MAX_SAMPLES = 192_000 * 600
"""Most values, over all channels, in a file: ten minutes at the highest rate."""
MAX_CHANNELS = 8
MAX_RATE_HZ = 192_000
MAX_CHUNKS = 1000
FULL_SCALE = 32767
SUFFIXES = (".wav", ".flac")

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
    if data[:4] == b"fLaC":
        return _read_flac(data, max_samples)
    return _read_wav(data, max_samples, overload)


def is_sound(head: bytes) -> bool:
    """True if a file's first 12 bytes are those of WAV or FLAC."""
    return head[:4] == b"fLaC" or (head[:4] == b"RIFF" and head[8:12] == b"WAVE")


def differences(samples: NDArray[np.int16], other: NDArray[np.int16]) -> NDArray[np.int32] | None:
    """Differences of two (n, channels) int16 arrays in levels; None if their shapes differ."""
    if samples.shape != other.shape:
        return None
    found: NDArray[np.int32] = np.abs(samples.astype(np.int32) - other)
    return found


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def length_at(data: bytes, to_hz: int, most: int) -> int:
    """Samples per channel of a sound at a rate, counted before any is decoded.

    Raises ValueError for more than `most`, and for what cannot be read.
    """
    if data[:4] == b"fLaC":
        with _flac_file(data) as file:
            n, rate_hz = int(file.frames), int(file.samplerate)
    else:
        (_, channels, rate_hz, bits), body, _ = _wav_parts(data)
        n = len(body) * 8 // (channels * bits)
    if n * to_hz > most * rate_hz:
        raise ValueError(
            f"its {n / rate_hz:.3g} s are too long; at most {most / to_hz:.3g} s are taken"
        )
    return -(-n * to_hz // rate_hz)


def _read_wav(data: bytes, max_samples: int, overload: Literal["scaled", "clipped"]) -> Sound:
    form, body, provenance = _wav_parts(data)
    return Sound(_decoded(body, form, max_samples, overload), form[2], provenance)


def _wav_parts(data: bytes) -> tuple[tuple[int, int, int, int], memoryview, Provenance | None]:
    """Format, samples and provenance of a WAV; nothing is decoded."""
    if not (data[:4] == b"RIFF" and data[8:12] == b"WAVE"):
        raise ValueError("not a WAV or FLAC file that can be read: it begins like neither")
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
            return form, body, provenance
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


def check_count(count: int, max_samples: int, where: str = "") -> None:
    """Raise ValueError for too many samples."""
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
    check_count(count, max_samples)
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
    with _flac_file(data) as file:
        _check(file.channels, file.samplerate)
        # What the head announces may be a lie: no more than is allowed is ever decoded.
        check_count(file.frames * file.channels, max_samples)
        rows = file.read(max_samples // file.channels + 1, dtype="int16", always_2d=True)
        check_count(rows.size, max_samples)
        samples = (rows.T / np.float32(FULL_SCALE)).astype(np.float32).clip(-1, 1)
        comment = _provenance(str(file.comment).encode())
        return Sound(np.ascontiguousarray(samples), int(file.samplerate), comment)


@contextmanager
def _flac_file(data: bytes) -> Iterator[Any]:
    """An opened FLAC. Raises ValueError for one that cannot be read, also within the context."""
    library = _soundfile()
    try:
        with library.SoundFile(io.BytesIO(data)) as file:
            yield file
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
