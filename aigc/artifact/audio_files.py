"""WAV, FLAC and raw PCM of 16 bits: encoding and decoding with provenance. AIFF: decoding."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from aigc.artifact.image_files import Provenance
from aigc.artifact.preprocessing import AUDIO
from aigc.artifact.sound_chunks import (
    MAX_CHUNKS,
    MAX_RATE_HZ,
    Layout,
    Overload,
    check,
    decoded,
    is_aiff,
    is_wav,
    layout,
)

MAX_SAMPLES = MAX_RATE_HZ * 600
"""Most values, over all channels, in a file: ten minutes at the highest rate."""
FULL_SCALE = 32767
SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".aifc")

_PCM = 1


class MissingLibrary(ValueError):
    """FLAC without the library that reads it: no fault of the file."""


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
    overload: Overload = AUDIO.overload,
) -> Sound:
    """Decode WAV, AIFF (integers of 8 to 32 bits, floats) or FLAC.

    `overload`: see AudioPreprocessing. Raises ValueError for other formats, truncated files, more
    than MAX_CHANNELS channels or MAX_RATE_HZ, and more than `max_samples` values, which are counted
    before decoding.
    """
    if data[:4] == b"fLaC":
        return _read_flac(data, max_samples)
    return _read_chunks(data, max_samples, overload)


def is_sound(head: bytes) -> bool:
    """True if a file's first 12 bytes are those of WAV, AIFF or FLAC."""
    return head[:4] == b"fLaC" or is_wav(head) or is_aiff(head)


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
        with flac_file(io.BytesIO(data)) as file:
            n, rate_hz = int(file.frames), int(file.samplerate)
    else:
        form = layout(io.BytesIO(data))
        n, rate_hz = form.length, form.rate_hz
    if n * to_hz > most * rate_hz:
        raise ValueError(
            f"its {n / rate_hz:.3g} s are too long; at most {most / to_hz:.3g} s are taken"
        )
    return -(-n * to_hz // rate_hz)


def _read_chunks(data: bytes, max_samples: int, overload: Overload) -> Sound:
    """Decode a WAV or AIFF."""
    form = layout(io.BytesIO(data))
    check_count(form.length * form.channels, max_samples)
    body = memoryview(data)[form.start : form.start + form.size]
    provenance = _wav_provenance(data, form) if is_wav(data[:12]) else None
    return Sound(decoded(body, form, overload), form.rate_hz, provenance)


def _wav_provenance(data: bytes, form: Layout) -> Provenance | None:
    """Read from the last LIST chunk before the samples, else from one right behind them."""
    found, position = None, 12
    for _ in range(MAX_CHUNKS):
        kind, size = data[position : position + 4], data[position + 4 : position + 8]
        if kind == b"data" or len(size) < 4:
            break
        length = int.from_bytes(size, "little")
        if kind == b"LIST":
            found = _comment(memoryview(data)[position : position + 8 + length])
        position += 8 + length + length % 2
    return found or _comment(memoryview(data)[form.after :])


def check_count(count: int, max_samples: int, where: str = "") -> None:
    """Raise ValueError for too many samples."""
    if count > max_samples:
        raise ValueError(f"{count} samples{where} are too many; at most {max_samples} are read")


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
    with flac_file(io.BytesIO(data)) as file:
        check(file.channels, file.samplerate)
        # What the head announces may be a lie: no more than is allowed is ever decoded.
        check_count(file.frames * file.channels, max_samples)
        rows = file.read(max_samples // file.channels + 1, dtype="int16", always_2d=True)
        check_count(rows.size, max_samples)
        samples = of_flac(rows)
        comment = _provenance(str(file.comment).encode())
        return Sound(samples, int(file.samplerate), comment)


def of_flac(rows: NDArray[np.int16]) -> NDArray[np.float32]:
    """(n, channels) int16 as the library decodes them -> (channels, n) in [-1, 1]."""
    scaled = (rows.T / np.float32(FULL_SCALE)).astype(np.float32).clip(-1, 1)
    return np.ascontiguousarray(scaled)


@contextmanager
def flac_file(content: BinaryIO) -> Iterator[Any]:
    """An opened FLAC. Raises ValueError for one that cannot be read, also within the context."""
    library = _soundfile()
    try:
        with library.SoundFile(content) as file:
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
        raise MissingLibrary(
            f"FLAC needs the extra `flac`: pip install 'aigc[flac]' ({error})"
        ) from None
    return soundfile
