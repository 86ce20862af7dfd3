"""Files of every kind that people have: pictures of every mode, sounds of every coding."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112
"""The tag of EXIF."""


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int, high: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, high, shape).astype(dtype)


COLOURS = Image.fromarray(noise(40, 31, 3))
CLEAR = Image.fromarray(noise(40, 31, 4))
GREY_ALPHA = Image.fromarray(noise(40, 31, 2))
PALETTE = COLOURS.convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
DEEP = Image.fromarray(noise(40, 31, high=65536, dtype=np.uint16))


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(COLOURS, kind, exif=exif)


def two_frames(kind: str) -> bytes:
    return encoded(COLOURS, kind, save_all=True, append_images=[CLEAR.convert("RGB")])


def wide(kind: str) -> bytes:
    """Large enough for a JPEG to be decoded at a quarter."""
    return encoded(Image.fromarray(noise(300, 500, 3)), kind)


PICTURES: dict[str, bytes] = {
    "RGB": encoded(COLOURS),
    "RGBA": encoded(CLEAR),
    "LA": encoded(GREY_ALPHA),
    "P": encoded(PALETTE),
    "P with a clear colour": encoded(PALETTE, transparency=7),
    "P with alpha": encoded(PALETTE, transparency=bytes(range(200))),
    "1": encoded(COLOURS.convert("1")),
    "L": encoded(COLOURS.convert("L")),
    "L with a clear level": encoded(COLOURS.convert("L"), transparency=128),
    "RGB with a clear colour": encoded(COLOURS, transparency=COLOURS.getpixel((0, 0))),
    "I;16": encoded(DEEP),
    "CMYK": encoded(COLOURS.convert("CMYK"), "jpeg"),
    "JPEG": encoded(COLOURS, "jpeg"),
    "JPEG grey": encoded(COLOURS.convert("L"), "jpeg"),
    "JPEG wide": wide("jpeg"),
    "WebP": encoded(COLOURS, "webp"),
    "WebP RGBA": encoded(CLEAR, "webp", lossless=True),
    "animated PNG": two_frames("png"),
    "animated WebP": two_frames("webp"),
    "two pictures in a JPEG": two_frames("mpo"),
    **{f"JPEG turned {way}": turned(way, "jpeg") for way in range(1, 9)},
    **{f"PNG turned {way}": turned(way, "png") for way in (3, 6)},
    **{f"WebP turned {way}": turned(way, "webp") for way in (2, 8)},
}


def wav(values: NDArray[Any], rate_hz: int, bits: int, is_float: bool = False) -> bytes:
    """(n, channels) of what the file holds -> a WAV of that coding."""
    channels = values.shape[1]
    width = bits // 8
    form = struct.pack(
        "<HHIIHH", 3 if is_float else 1, channels, rate_hz, rate_hz * channels * width, 0, bits
    )
    raw = values.tobytes()
    if bits == 24:
        raw = values.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    chunks = b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for name, body in ((b"fmt ", form), (b"data", raw))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def waves(channels: int, n: int = 700) -> NDArray[np.float64]:
    """(n, channels) in [-1, 1]: a beat, and silence before it."""
    t = np.arange(n)[:, None] / n * (1 + np.arange(channels))
    made = 0.7 * np.sin(2 * np.pi * 30 * t) * np.sin(2 * np.pi * 2 * t)
    made[: n // 5] = 0
    return made


CODINGS: dict[str, Callable[[NDArray[np.float64], int], bytes]] = {
    "8 bits": lambda x, hz: wav((x * 127 + 128).astype(np.uint8), hz, 8),
    "16 bits": lambda x, hz: wav((x * 32767).astype("<i2"), hz, 16),
    "24 bits": lambda x, hz: wav((x * (2**23 - 1)).astype("<i4"), hz, 24),
    "32 bits": lambda x, hz: wav((x * (2**31 - 1)).astype("<i4"), hz, 32),
    "float": lambda x, hz: wav(x.astype("<f4"), hz, 32, True),
    "double": lambda x, hz: wav(x.astype("<f8"), hz, 64, True),
    "float of 16-bit values": lambda x, hz: wav((x * 32767).astype("<f4"), hz, 32, True),
}
