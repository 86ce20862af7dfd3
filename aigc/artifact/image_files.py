"""PNG, WebP and JPEG with provenance, animations, grids and npy: encoding and decoding."""

import html
import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

PROVENANCE_KEY = "aigc"
MAX_PIXELS = 64_000_000
SMALL_VALUES = 64 * 64 * 3
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The inputs that generated a file: enough to recreate it bit for bit."""

    artifact: str
    """`name@version`."""
    digest: str
    """Digest of the artifact's manifest."""
    signature: str
    seed: int
    index: int
    """Index of the sample within the seed; of the first one in a grid."""
    label: int | None = None
    """The requested class; None if it was drawn from the seed."""
    n: int = 1
    """Number of samples in a grid, of consecutive indices."""
    labels: tuple[int, ...] = ()
    """Classes of a grid's samples, taken in turn."""
    columns: int = 0
    """Columns of a grid; 0 for nearly square."""
    to_seed: int | None = None
    """Last seed of an interpolation of `n` frames that begins at `seed`; None for samples."""
    to_label: int | None = None
    """The requested class at `to_seed`."""
    given: tuple[str, ...] = ()
    """Inputs beside the seed, each as its name and the sha256 of its tensor: `image:ab12...`."""
    settings: dict[str, float] = field(default_factory=dict)
    """Requested settings; the others had the signature's defaults."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes of all free axes; empty for signatures of fixed shapes."""
    digital_source_type: str = SOURCE_TYPE

    def asked(self) -> int | list[int] | None:
        """The label argument: one class, one per sample, or None."""
        if not self.labels:
            return self.label
        return [self.labels[i % len(self.labels)] for i in range(self.n)]

    def text(self) -> str:
        """JSON, with the fields of grids and interpolations only where they apply.

        Numbers may be numpy's.
        """
        fields = ((k, _plain(v)) for k, v in vars(self).items())
        stated = {k: v for k, v in fields if v not in _UNSAID or k in _ALWAYS}
        return msgspec.json.encode(stated, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    """A numpy number as a Python number; other values unchanged."""
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


_ALWAYS = {"seed", "index", "label"}
_UNSAID: tuple[object, ...] = ((), 0, None, {})


def to_uint8(images: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """(N, C, H, W) float32 in [low, high] -> (N, H, W, C) uint8, rounded to the nearest level."""
    scaled = (images - np.float32(low)) * np.float32(255 / (high - low))
    # rint(clip(x)) and not clip(rint(x)): saves a pass, equal since the bounds are integers.
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))


def fits_png(channels: int) -> bool:
    """True for 1 (grey), 2 (grey, alpha), 3 (RGB) and 4 (RGBA) channels."""
    return channels in _COLOUR_TYPES


def _check_channels(image: NDArray[np.uint8]) -> None:
    if not fits_png(image.shape[-1]):
        raise ValueError(
            f"a picture has 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels, got"
            f" {image.shape[-1]}; take npy"
        )


def png(image: NDArray[np.uint8], provenance: Provenance | None = None) -> bytes:
    """(H, W, C) uint8 -> PNG, its provenance in an iTXt chunk.

    C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). Raises ValueError for any other.
    """
    _check_channels(image)
    if image.size <= SMALL_VALUES:
        return _small_png(image, provenance)
    return _save(_picture(image), "PNG", pnginfo=_png_info(provenance), compress_level=1)


def _small_png(image: NDArray[np.uint8], provenance: Provenance | None) -> bytes:
    """png() without Pillow, which takes five times as long for a small image, and without filters,
    which would make large images smaller."""
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
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)


_PNG_END = _chunk(b"IEND", b"")
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Colour types of PNG by the number of channels (PNG specification, section 11.2.2)."""


def webp(
    image: NDArray[np.uint8], provenance: Provenance | None = None, quality: int | None = None
) -> bytes:
    """(H, W, C) uint8, C as for png() -> WebP with its provenance in XMP; grey becomes colour.

    Lossless without `quality`, lossy with 0 (smallest) to 100. Raises ValueError for other
    channels.
    """
    # Lossless, Pillow takes quality as the effort spent on the size; exact keeps the colours of
    # what is transparent.
    options: dict[str, Any] = {"quality": quality}
    if quality is None:
        options = {"lossless": True, "exact": True, "quality": 0}
    return _save(_in_colour(image), "WEBP", xmp=_xmp(provenance), **options)


def jpeg(
    image: NDArray[np.uint8], provenance: Provenance | None = None, quality: int = 100
) -> bytes:
    """(H, W, C) uint8 with C 1 or 3 -> JPEG of quality 0 to 100, its provenance in XMP.

    Raises ValueError for other channels: JPEG has no transparency.
    """
    if has_alpha(image.shape[-1]):
        raise ValueError("JPEG has no transparency, the image has an alpha channel; take png")
    # Colours are kept at full resolution: these images are small, their edges a pixel wide.
    return _save(_picture(image), "JPEG", quality=quality, subsampling=0, xmp=_xmp(provenance))


def animation(
    frames: NDArray[np.uint8],
    form: Literal["apng", "gif"],
    frame_duration_ms: int,
    provenance: Provenance | None = None,
) -> bytes:
    """(N, H, W, C) uint8, C as for png() -> an endless animation.

    GIF keeps 256 colours of each frame, and of alpha only full transparency. The provenance is in
    an iTXt chunk of PNG, in the comment of GIF. Raises ValueError for other channels.
    """
    transparent = has_alpha(frames.shape[-1])
    of_frame = _in_colour if form == "gif" and transparent else _picture
    first, *rest = [of_frame(frame) for frame in frames]
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}
    if form == "gif" and transparent:
        options["disposal"] = 2  # or the frame before would be seen through
    options["duration"] = frame_duration_ms
    if form == "apng":
        return _save(first, "PNG", pnginfo=_png_info(provenance), compress_level=1, **options)
    comment = provenance.text().encode() if provenance is not None else b""
    return _save(first, "GIF", comment=comment, **options)


def read_png(data: bytes) -> tuple[NDArray[np.uint8], Provenance | None]:
    """PNG -> (H, W, C) uint8 and its provenance, None if it has none of ours.

    Raises ValueError unless it is one PNG of at most 64 megapixels.
    """
    return _read(data, ("PNG",), MAX_PIXELS)


def read_image(
    data: bytes, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], Provenance | None]:
    """PNG, WebP or JPEG -> (H, W, C) uint8 and its provenance, None if it has none of ours.

    Raises ValueError for other formats, animations, and more than `max_pixels`, which are counted
    before decoding.
    """
    return _read(data, ("PNG", "WEBP", "JPEG"), max_pixels)


def tile(images: NDArray[np.uint8], provenance: Provenance) -> NDArray[np.uint8]:
    """(n, H, W, C) uint8 -> the one image that the provenance describes: a grid if n > 1."""
    return images[0] if provenance.n == 1 else grid(images, provenance.columns)


def difference(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> int | None:
    """Largest of differences(); None if the sizes differ."""
    found = differences(image, other)
    return None if found is None else int(found.max())


def differences(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int16] | None:
    """Differences of two (H, W, C) uint8 images in levels, 0 to 255; None if the sizes differ.

    Grey equals RGB of three equal channels, and no alpha an opaque one: WebP has no grey.
    """
    if image.shape[:2] != other.shape[:2]:
        return None
    if has_alpha(image.shape[-1]) or has_alpha(other.shape[-1]):
        image, other = _as_rgba(image), _as_rgba(other)
    found: NDArray[np.int16] = np.abs(image.astype(np.int16) - other)
    return found


def has_alpha(channels: int) -> bool:
    """True for 2 and 4 channels, the last of which is transparency."""
    return channels in (2, 4)


def _as_rgba(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 1 to 4) -> (H, W, 4)."""
    alpha = image[..., -1:] if has_alpha(image.shape[-1]) else np.full_like(image[..., :1], 255)
    colour = image[..., :3] if image.shape[-1] > 2 else image[..., :1].repeat(3, -1)
    return np.concatenate([colour, alpha], -1)


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    """A Pillow image of mode L, LA, RGB or RGBA. Raises ValueError for other channels."""
    _check_channels(image)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _in_colour(image: NDArray[np.uint8]) -> Image.Image:
    """A Pillow image of mode RGB or RGBA."""
    return _picture(image).convert("RGBA" if has_alpha(image.shape[-1]) else "RGB")


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
    """An XMP packet with IPTC's property and our own."""
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
    with decoding(data, formats):
        image = opened(data, formats, max_pixels)
        kept = image.mode in ("L", "LA", "RGB", "RGBA")
        pixels = np.asarray(image if kept else image.convert("RGB"))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels, _provenance(image)


def opened(
    data: bytes, formats: tuple[str, ...], max_pixels: int, animated: bool = False
) -> Image.Image:
    """Open a file of one of the formats: pixels are counted, not decoded yet.

    Call it, and use the image, within decoding(). Raises ValueError for more than `max_pixels`, and
    for an animation unless `animated`, which takes its first frame.
    """
    image = Image.open(io.BytesIO(data), formats=formats)
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels are too many")
    frames = 1 if animated else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"an animation of {frames} frames; take a single image")
    return image


@contextmanager
def decoding(data: bytes, formats: tuple[str, ...]) -> Iterator[None]:
    """Convert any error of Pillow about a damaged or other file to ValueError."""
    what = " or ".join(formats)
    try:
        yield
    except UnidentifiedImageError:  # whose message names an object of this program
        known = next((name for head, name in _OTHERS if data.startswith(head)), None)
        found = f"it is a {known}; save it as PNG" if known else _UNKNOWN
        raise ValueError(f"not a {what} that can be read: {found}") from None
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # decoders answer bad bytes with exceptions of every kind
        raise ValueError(f"not a {what} that can be read: {error}") from error


_UNKNOWN = "it begins like none of them, or is cut off"
_OTHERS = ((b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"))


def _provenance(image: Image.Image) -> Provenance | None:
    """The provenance of a decoded image; None if it has none, or none of ours."""
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
