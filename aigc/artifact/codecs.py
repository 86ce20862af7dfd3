"""Arrays <-> files: PNG with its provenance inside, grids of images, npy."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

PROVENANCE_KEY = "aigc"
MAX_PIXELS = 64_000_000
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
    digital_source_type: str = SOURCE_TYPE


_ALWAYS = {"seed", "index", "label"}


def to_uint8(images: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """(N, C, H, W) float32 in [low, high] -> (N, H, W, C) uint8, rounded to the nearest level."""
    scaled = (images - np.float32(low)) * np.float32(255 / (high - low))
    # rint(clip(x)) and not clip(rint(x)): saves a pass, equal since the bounds are integers.
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))


def png(image: NDArray[np.uint8], provenance: Provenance | None = None) -> bytes:
    """(H, W, C) uint8 with C 1 or 3 -> PNG, its provenance in an iTXt chunk."""
    info = PngImagePlugin.PngInfo()
    if provenance is not None:
        said = {k: v for k, v in asdict(provenance).items() if v not in ((), 0) or k in _ALWAYS}
        info.add_itxt(PROVENANCE_KEY, json.dumps(said, separators=(",", ":")))
    buffer = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def read_png(data: bytes) -> tuple[NDArray[np.uint8], Provenance | None]:
    """PNG -> ((H, W, C) uint8, its provenance, None if it carries none of ours).

    Raises ValueError for what is not a PNG of at most 64 megapixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise ValueError(f"not a PNG that can be read: {error}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    assert isinstance(image, PngImagePlugin.PngImageFile)
    text = image.text.get(PROVENANCE_KEY)
    if text is None:
        return pixels, None
    try:
        return pixels, msgspec.json.decode(str(text), type=Provenance)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return pixels, None  # somebody else's text under our key


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
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.rename(path)
