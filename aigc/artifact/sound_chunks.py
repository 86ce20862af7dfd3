"""Samples of WAV and AIFF: where in the file they lie, how they are coded, and their values.

    found = layout(io.BytesIO(data))
    values = decoded(data[found.start : found.start + found.size], found)    # (channels, n)

A layout is read from the heads of the chunks, so a part of a long file can be decoded alone. AIFF
1.3 and AIFF-C (Apple, 1989 and 1991): big-endian, signed also at 8 bits, chunks in any order; of
AIFF-C the codings that hold integers or floats as they are (_AIFF_CODINGS).
"""

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

MAX_CHANNELS = 8
MAX_RATE_HZ = 192_000
MAX_CHUNKS = 1000

Coding = Literal["signed", "unsigned", "float"]
Overload = Literal["scaled", "clipped", "limited"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WAV_CODINGS: dict[tuple[int, int], Coding] = {
    (_PCM, 8): "unsigned",
    (_PCM, 16): "signed",
    (_PCM, 24): "signed",
    (_PCM, 32): "signed",
    (_FLOAT, 32): "float",
    (_FLOAT, 64): "float",
}
_AIFF_CODINGS: dict[bytes, tuple[Coding, Literal["<", ">"], tuple[int, ...]]] = {
    b"NONE": ("signed", ">", (8, 16, 24, 32)),
    b"twos": ("signed", ">", (8, 16, 24, 32)),
    b"sowt": ("signed", "<", (8, 16, 24, 32)),
    b"raw ": ("unsigned", ">", (8,)),
    b"in24": ("signed", ">", (24,)),
    b"in32": ("signed", ">", (32,)),
    b"42n1": ("signed", "<", (24,)),  # as libsndfile spells it
    b"42ni": ("signed", "<", (24,)),
    b"23ni": ("signed", "<", (32,)),
    b"fl32": ("float", ">", (32,)),
    b"FL32": ("float", ">", (32,)),
    b"fl64": ("float", ">", (64,)),
    b"FL64": ("float", ">", (64,)),
}
"""Coding, order of bytes and widths in bits by AIFF-C's name of the compression."""
_LARGEST_24, _DIVISOR_24 = (2**23 - 1) << 8, 2**31 - 1
"""Largest integer of 24 bits as the upper ones of 32, and what such are divided by."""
_COMMON = 18
"""Bytes of AIFF's COMM chunk before the name of the compression."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Samples of a file, interleaved and without compression."""

    coding: Coding
    bits: int
    order: Literal["<", ">"]
    """Little- or big-endian, as numpy spells it."""
    channels: int
    rate_hz: int
    start: int
    """Byte at which the samples begin."""
    length: int
    """Samples per channel, all of which are there."""
    after: int
    """Byte behind the samples."""

    @property
    def block(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * self.bits // 8

    @property
    def full_scale(self) -> float:
        """Largest value that decoded() gives: a little less than 1 at 24 bits."""
        if self.coding == "signed" and self.bits == 24:
            return float(np.float32(_LARGEST_24 / _DIVISOR_24))
        return 1.0

    @property
    def size(self) -> int:
        """Bytes of all samples."""
        return self.length * self.block


def is_wav(head: bytes) -> bool:
    """True if a file's first 12 bytes are those of a WAV."""
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def is_aiff(head: bytes) -> bool:
    """True if a file's first 12 bytes are those of an AIFF or AIFF-C."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def layout(file: BinaryIO) -> Layout:
    """Layout of a WAV or AIFF that is open and can be sought in.

    Raises ValueError for other files, those that are cut off, codings that are not read, and more
    than MAX_CHANNELS channels or MAX_RATE_HZ.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if is_wav(head):
        return _wav(file, size)
    if is_aiff(head):
        return _aiff(file, size, head[8:12])
    raise ValueError("not a WAV, AIFF or FLAC file that can be read: it begins like none of them")


def decoded(body: bytes | memoryview, form: Layout, overload: Overload) -> NDArray[np.float32]:
    """Samples of a layout, or some of them -> (channels, n) in [-1, 1].

    Integers are divided by their largest value; those of 24 bits, as the upper ones of 32, by the
    largest of 32 bits, so they end at Layout.full_scale. Floats beyond 1, and values that are not
    finite: see AudioPreprocessing.overload; ValueError where that refuses them.
    """
    width = form.bits // 8
    if form.coding == "float":
        values = _within_1(np.frombuffer(body, f"{form.order}f{width}"), overload)
    elif form.coding == "unsigned":
        values = (np.frombuffer(body, np.uint8).astype(np.float32) - 128) / 127
    elif form.bits == 24:
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        low_first = np.frombuffer(body, np.uint8).reshape(-1, 3)
        wide[:, 1:] = low_first if form.order == "<" else low_first[:, ::-1]
        values = wide.view("<i4")[:, 0] / _DIVISOR_24
    else:
        values = np.frombuffer(body, f"{form.order}i{width}") / (2.0 ** (form.bits - 1) - 1)
    rows = values.astype(np.float32).clip(-1, 1).reshape(-1, form.channels)
    return np.ascontiguousarray(rows.T)


def check(channels: int, rate_hz: int) -> None:
    """Raise ValueError for channels or rates that are out of bounds."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"channels must be in [1, {MAX_CHANNELS}], got {channels}")
    if not 1 <= rate_hz <= MAX_RATE_HZ:
        raise ValueError(f"the sample rate must be in [1, {MAX_RATE_HZ}] Hz, got {rate_hz}")


def _wav(file: BinaryIO, size: int) -> Layout:
    form: tuple[Coding, int, int, int] | None = None
    position = 12
    for _ in range(MAX_CHUNKS):
        kind, length = _head(file, position, "<")
        if not kind:
            break
        start = position + 8
        if kind == b"data":
            if form is None:
                raise ValueError("not a WAV that can be read: its samples come before their format")
            there = max(0, size - start)
            if there < length:
                raise ValueError(
                    f"the WAV is cut off: {length} bytes of samples announced, {there} there"
                )
            coding, channels, rate_hz, bits = form
            return Layout(
                coding=coding,
                bits=bits,
                order="<",
                channels=channels,
                rate_hz=rate_hz,
                start=start,
                length=length // (channels * bits // 8),
                after=start + length + length % 2,
            )
        if kind == b"fmt ":
            form = _wav_format(file.read(min(length, 26)))
        position = start + length + length % 2
    raise ValueError("not a WAV that can be read: it holds no samples")


def _wav_format(body: bytes) -> tuple[Coding, int, int, int]:
    """Coding, channels, rate in Hz and bits per sample."""
    if len(body) < 16:
        raise ValueError("not a WAV that can be read: its format is cut off")
    number, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if number == _EXTENSIBLE and len(body) >= 26:
        number = int.from_bytes(body[24:26], "little")
    coding = _WAV_CODINGS.get((number, bits))
    if coding is None:
        raise ValueError(
            f"a WAV of coding {number} and {bits} bits; integers of 8, 16, 24 or 32 bits and floats"
            " of 32 or 64 are read"
        )
    check(channels, rate_hz)
    return coding, channels, rate_hz, bits


def _aiff(file: BinaryIO, size: int, kind_of_file: bytes) -> Layout:
    """Layout of a file that says FORM AIFF or FORM AIFC."""
    common: bytes | None = None
    body: tuple[int, int] | None = None
    position = 12
    for _ in range(MAX_CHUNKS):
        kind, length = _head(file, position, ">")
        if not kind or (common is not None and body is not None):
            break
        start = position + 8
        if kind == b"COMM" and common is None:
            common = file.read(min(length, _COMMON + 4))
        elif kind == b"SSND" and body is None:
            offset = int.from_bytes(file.read(8)[:4], "big")
            there = size - start
            if there < length or length < 8 + offset:
                raise ValueError(
                    f"the AIFF is cut off: a chunk of {length} bytes announced, of which"
                    f" {8 + offset} precede the samples; {max(0, there)} there"
                )
            body = start + 8 + offset, start + length
        position = start + length + length % 2
    if common is None:
        raise ValueError("not an AIFF that can be read: it holds no format (COMM)")
    coding, order, channels, num_frames, bits, rate_hz = _aiff_format(common, kind_of_file)
    if body is None and num_frames:
        raise ValueError("not an AIFF that can be read: it holds no samples (SSND)")
    begin, end = body or (size, size)
    found = Layout(
        coding=coding,
        bits=bits,
        order=order,
        channels=channels,
        rate_hz=rate_hz,
        start=begin,
        length=num_frames,
        after=end,
    )
    if found.size > end - begin:
        raise ValueError(
            f"the AIFF is cut off: {found.size} bytes of samples announced, {end - begin} there"
        )
    return found


def _aiff_format(
    body: bytes, kind_of_file: bytes
) -> tuple[Coding, Literal["<", ">"], int, int, int, int]:
    """Coding, byte order, channels, samples of each, bits and rate in Hz."""
    compressed = kind_of_file == b"AIFC"
    if len(body) < _COMMON + 4 * compressed:
        raise ValueError("not an AIFF that can be read: its format is cut off")
    channels, num_frames, bits = struct.unpack(">HIH", body[:8])
    name = body[_COMMON : _COMMON + 4] if compressed else b"NONE"
    coding, order, widths = _AIFF_CODINGS.get(name, (None, None, ()))
    if coding == "float":  # writers differ in the width that they state
        bits = widths[0]
    if coding is None or order is None or bits not in widths:
        raise ValueError(
            f"an AIFF of coding {name.decode('ascii', 'backslashreplace')!r} and {bits} bits;"
            " integers of 8, 16, 24 or 32 bits and floats of 32 or 64 are read, without"
            f" compression: {', '.join(sorted(each.decode().strip() for each in _AIFF_CODINGS))}"
        )
    rate_hz = _extended(body[8:18])
    check(channels, rate_hz)
    return coding, order, channels, num_frames, bits, rate_hz


def _extended(body: bytes) -> int:
    """A number of 80 bits (IEEE 754 extended) as the nearest integer; 0 below a half, -1 for what
    is negative, infinite or larger than 2^32."""
    exponent, mantissa = struct.unpack(">HQ", body)
    shift = 16383 + 63 - exponent
    if exponent >= 16383 + 32:  # also negative ones, whose sign is the highest bit
        return -1
    return (mantissa + (1 << (shift - 1))) >> shift if shift <= 64 else 0


def _head(file: BinaryIO, position: int, order: Literal["<", ">"]) -> tuple[bytes, int]:
    """Name and length of the chunk at a position, behind which the file is left; b"" at the end."""
    file.seek(position)
    head = file.read(8)
    if len(head) < 8:
        return b"", 0
    return head[:4], int.from_bytes(head[4:], "little" if order == "<" else "big")


def _within_1(values: NDArray[np.floating[Any]], overload: Overload) -> NDArray[np.floating[Any]]:
    """Floats brought into [-1, 1]. Raises ValueError for values that are not finite, unless they
    are to be clipped as well."""
    if overload == "clipped":
        return np.asarray(np.nan_to_num(values).clip(-1, 1))
    peak = float(np.abs(values).max(initial=0))
    if not math.isfinite(peak):
        raise ValueError("it holds values that are not finite (NaN or infinity)")
    if overload == "limited":
        return values.clip(-1, 1)
    return values if peak <= 1 else values / np.float64(peak)
