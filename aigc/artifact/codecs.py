"""Arrays <-> files: PNG, WebP and JPEG with their provenance inside, animations, grids, npy."""

import html
import io
import re
import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

PROVENANCE_KEY = "aigc"
MAX_PIXELS = 64_000_000
SMALL_VALUES = 64 * 64 * 3
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a file: enough to make it again, bit for bit."""

    artifact: str
    """`name@version`."""
    digest: str
    """Digest of the artifact's manifest."""
    signature: str
    seed: int
    index: int
    """Index of the sample within the seed; of the first one for a grid."""
    label: int | None = None
    """The class asked for; None where none was asked for (it is then drawn from the seed)."""
    n: int = 1
    """Samples in a grid, index upward."""
    labels: tuple[int, ...] = ()
    """Classes of a grid's samples, taken in turn."""
    columns: int = 0
    """Of a grid; 0 is nearly square."""
    to_seed: int | None = None
    """Where an interpolation of `n` frames ends; it begins at `seed`. None for samples."""
    to_label: int | None = None
    """The class asked for there."""
    given: tuple[str, ...] = ()
    """What it was made from beside the seed: the name of each input and the sha256 of its tensor,
    as `image:ab12...`."""
    settings: dict[str, float] = field(default_factory=dict)
    """That were asked for; the others had the signature's defaults."""
    digital_source_type: str = SOURCE_TYPE

    def asked(self) -> int | list[int] | None:
        """The label argument that made this: one class, one per sample, or None."""
        if not self.labels:
            return self.label
        return [self.labels[i % len(self.labels)] for i in range(self.n)]

    def text(self) -> str:
        """As JSON, without what only a grid or an interpolation has unless this is one."""
        fields = vars(self).items()
        said = {k: v for k, v in fields if v not in _UNSAID or k in _ALWAYS}
        return msgspec.json.encode(said).decode()


_ALWAYS = {"seed", "index", "label"}
_UNSAID: tuple[object, ...] = ((), 0, None, {})


def to_uint8(images: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """(N, C, H, W) float32 in [low, high] -> (N, H, W, C) uint8, rounded to the nearest level."""
    scaled = (images - np.float32(low)) * np.float32(255 / (high - low))
    # rint(clip(x)) and not clip(rint(x)): saves a pass, equal since the bounds are integers.
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))


def png(image: NDArray[np.uint8], provenance: Provenance | None = None) -> bytes:
    """(H, W, C) uint8 with C 1 or 3 -> PNG, its provenance in an iTXt chunk."""
    if image.size <= SMALL_VALUES:
        return _small_png(image, provenance)
    return _save(_picture(image), "PNG", pnginfo=_png_info(provenance), compress_level=1)


def _small_png(image: NDArray[np.uint8], provenance: Provenance | None) -> bytes:
    """The same without filters, which make large images smaller, and without Pillow, which takes
    five times as long for a small one.
    """
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = image.reshape(height, -1)
    parts = [_png_head(height, width, channels)]
    if provenance is not None:
        text = provenance.text().encode()
        parts.append(_chunk(b"iTXt", b"%s\0\0\0\0\0%s" % (PROVENANCE_KEY.encode(), text)))
    parts += (_chunk(b"IDAT", zlib.compress(rows.data, 1)), _PNG_END)
    return b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return b"%s%s%s%s" % (len(data).to_bytes(4), kind, data, check.to_bytes(4))


@lru_cache(64)
def _png_head(height: int, width: int, channels: int) -> bytes:
    colour = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)


_PNG_END = _chunk(b"IEND", b"")


def webp(
    image: NDArray[np.uint8], provenance: Provenance | None = None, quality: int | None = None
) -> bytes:
    """(H, W, C) uint8 with C 1 or 3 -> WebP, its provenance in XMP.

    Every pixel is kept without a `quality`; from 0 (smallest) to 100 it is lossy.
    """
    # Lossless, Pillow takes quality as the effort spent on the size.
    options = {"lossless": True, "quality": 0} if quality is None else {"quality": quality}
    return _save(_picture(image).convert("RGB"), "WEBP", xmp=_xmp(provenance), **options)


def jpeg(
    image: NDArray[np.uint8], provenance: Provenance | None = None, quality: int = 100
) -> bytes:
    """(H, W, C) uint8 with C 1 or 3 -> JPEG of quality 0 to 100, its provenance in XMP."""
    # Colours are kept at full resolution: these images are small, their edges a pixel wide.
    return _save(_picture(image), "JPEG", quality=quality, subsampling=0, xmp=_xmp(provenance))


def animation(
    frames: NDArray[np.uint8],
    form: Literal["apng", "gif"],
    frame_duration_ms: int,
    provenance: Provenance | None = None,
) -> bytes:
    """(N, H, W, C) uint8 -> an endless animation; GIF keeps 256 colours of each frame.

    The provenance is in an iTXt chunk of the PNG, in the comment of the GIF.
    """
    first, *rest = [_picture(frame) for frame in frames]
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}
    options["duration"] = frame_duration_ms
    if form == "apng":
        return _save(first, "PNG", pnginfo=_png_info(provenance), compress_level=1, **options)
    comment = provenance.text().encode() if provenance is not None else b""
    return _save(first, "GIF", comment=comment, **options)


def read_png(data: bytes) -> tuple[NDArray[np.uint8], Provenance | None]:
    """PNG -> ((H, W, C) uint8, its provenance, None if it carries none of ours).

    Raises ValueError for what is not one PNG of at most 64 megapixels.
    """
    return _read(data, ("PNG",), MAX_PIXELS)


def read_image(
    data: bytes, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], Provenance | None]:
    """PNG, WebP or JPEG -> ((H, W, C) uint8, its provenance, None if it carries none of ours).

    Raises ValueError for anything else, for animations, and for more than `max_pixels`, which it
    counts before it decodes.
    """
    return _read(data, ("PNG", "WEBP", "JPEG"), max_pixels)


def arranged(images: NDArray[np.uint8], provenance: Provenance) -> NDArray[np.uint8]:
    """(n, H, W, C) uint8 -> the one image that the provenance speaks of: a grid if n > 1."""
    return images[0] if provenance.n == 1 else grid(images, provenance.columns)


def difference(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> int | None:
    """Largest difference of two (H, W, C) uint8 in levels, 0 to 255; None if the sizes differ.

    One channel equals three equal ones: WebP has no grey.
    """
    if image.shape[:2] != other.shape[:2]:
        return None
    return int(np.abs(image.astype(np.int16) - other).max())


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _save(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _png_info(provenance: Provenance | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if provenance is not None:
        info.add_itxt(PROVENANCE_KEY, provenance.text())
    return info


def _xmp(provenance: Provenance | None) -> bytes:
    """An XMP packet: IPTC's property for those who look for it, and all of ours beside it."""
    if provenance is None:
        return b""
    source, said = html.escape(provenance.digital_source_type), html.escape(provenance.text())
    packet = _XMP.format(source=source, said=said)
    return packet.encode()


_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:aigc="urn:aigc:1.0/"'
    ' Iptc4xmpExt:DigitalSourceType="{source}" aigc:provenance="{said}"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="r"?>'
)
_XMP_PROVENANCE = re.compile(r' aigc:provenance="([^"]*)"')


def _read(
    data: bytes, formats: tuple[str, ...], max_pixels: int
) -> tuple[NDArray[np.uint8], Provenance | None]:
    what = " or ".join(formats)
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise ValueError(f"an animation of {frames} frames; take a single image")
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise ValueError(f"not a {what} that can be read: {error}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels, _provenance(image)


def _provenance(image: Image.Image) -> Provenance | None:
    """What made an image that was decoded; None if it does not say, or in foreign words."""
    text: str | None
    if isinstance(image, PngImagePlugin.PngImageFile):
        text = image.text.get(PROVENANCE_KEY)
    else:
        # Searched and not parsed: an XML parser would be one more that strangers can feed.
        found = _XMP_PROVENANCE.search(image.info.get("xmp", b"").decode("utf-8", "replace"))
        text = html.unescape(found[1]) if found else None
    if text is None:
        return None
    try:
        return msgspec.json.decode(str(text), type=Provenance)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None  # somebody else's text under our key


def grid(images: NDArray[np.uint8], columns: int = 0) -> NDArray[np.uint8]:
    """(N, H, W, C) uint8 -> one image, row by row, 2 pixels apart, nearly square by default."""
    n, h, w, c = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    gap = 2
    canvas = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, c), np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        canvas[y : y + h, x : x + w] = image
    return canvas


def npy(array: NDArray[Any]) -> bytes:
    """Any array -> .npy bytes."""
    return b"".join((_npy_header(array.shape, array.dtype.str), np.ascontiguousarray(array).data))


@lru_cache(64)
def _npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.rename(path)
