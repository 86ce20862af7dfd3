"""Read the headers of pictures and sounds without decoding pixels or samples."""

import io
import struct
from dataclasses import dataclass

from PIL import ExifTags, Image

from aigc.artifact.sound_chunks import is_aiff, is_wav, layout

TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_TURNED = (5, 6, 7, 8)
"""Values of EXIF's orientation that swap width and height."""
_WAVE_HEAD = 8


@dataclass(frozen=True)
class PictureHeader:
    """Size and kind of a picture, after the rotation that its EXIF asks for."""

    width: int
    height: int
    mode: str
    """Pillow's mode; `P with transparency` where a palette has it."""
    animated: bool

    @property
    def transparent(self) -> bool:
        """True with an alpha channel or a transparent colour."""
        return self.mode in TRANSPARENT or self.mode.endswith("with transparency")

    @property
    def grey(self) -> bool:
        """True without colour channels."""
        return self.mode.partition(" ")[0] in GREY


@dataclass(frozen=True)
class SoundHeader:
    """Rate, channels and length of a recording."""

    rate_hz: int
    channels: int
    seconds: float


def picture_header(picture: bytes | Image.Image) -> PictureHeader:
    """Read from an encoded picture or an opened one. Raises ValueError for other bytes."""
    try:
        image = picture if isinstance(picture, Image.Image) else Image.open(io.BytesIO(picture))
        # Asked for only where there is one: without, Pillow decodes the whole of a PNG to look.
        turned = "exif" in image.info and (
            image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        )
    except Exception as error:  # decoders answer bad bytes with exceptions of every kind
        raise ValueError(f"its header cannot be read: {error or type(error).__name__}") from error
    width, height = reversed(image.size) if turned else image.size
    clear = "transparency" in image.info and image.mode not in TRANSPARENT
    return PictureHeader(
        width=width,
        height=height,
        mode=f"{image.mode} with transparency" if clear else image.mode,
        animated=getattr(image, "n_frames", 1) > 1,
    )


def sound_header(data: bytes) -> SoundHeader:
    """Read from the bytes of a WAV, AIFF or FLAC file. Raises ValueError for anything else."""
    found = None
    if is_wav(data[:12]):
        found = _wav(data)
    elif is_aiff(data[:12]):
        found = _aiff(data)
    elif data[:4] == b"fLaC" and len(data) >= 26:
        found = flac_facts(data)
    if found is None or found[0] < 1:
        raise ValueError("its header cannot be read: it is no WAV, AIFF or FLAC")
    rate_hz, channels, count = found
    return SoundHeader(rate_hz=rate_hz, channels=channels, seconds=count / rate_hz)


def flac_facts(head: bytes) -> tuple[int, int, int]:
    """Rate, channels, and samples of each, 0 where they are not stated, of a FLAC's first 26
    bytes."""
    # STREAMINFO comes first: 20 bits of rate, 3 of channels, 5 of width, 36 of samples.
    packed = int.from_bytes(head[18:26], "big")
    return packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1


def _aiff(data: bytes) -> tuple[int, int, int]:
    """Rate, channels and samples of each. Raises ValueError for one that cannot be decoded."""
    found = layout(io.BytesIO(data))
    return found.rate_hz, found.channels, found.length


def _wav(data: bytes) -> tuple[int, int, int] | None:
    """Rate, channels, and samples of each that are there."""
    position, form = 12, None
    while position + _WAVE_HEAD <= len(data):
        kind, size = struct.unpack("<4sI", data[position : position + _WAVE_HEAD])
        start = position + _WAVE_HEAD
        if kind == b"fmt " and start + 14 <= len(data):
            _, channels, rate_hz, _, block = struct.unpack("<HHIIH", data[start : start + 14])
            form = rate_hz, channels, block
        if kind == b"data":
            there = min(size, len(data) - start)
            return (form[0], form[1], there // form[2]) if form and form[2] else None
        position = start + size + size % 2
    return None
