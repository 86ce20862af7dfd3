"""Encoded pictures of any size -> the model's (C, H, W); what sources of them have in common."""

import hashlib
import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from aigc.artifact.latents import integers
from aigc.data import CorruptRow, permutation

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 64_000_000
"""A picture that claims more is refused before it is decoded."""
MAX_CLASSES = 65_536
"""Whole-number labels beyond are taken for damage, not for classes."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, kw_only=True)
class Pictures(ABC):
    """A Source that decodes each picture when it is read; samples are (C, H, W) uint8."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    sha256: str
    """Of the content, as far as the source says that it covers it."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.shape[0] not in _MODES:
            raise ValueError(
                f"data {self.name!r} gives pictures of 1, 3 or 4 channels, the model wants"
                f" {self.shape}; set --model.shape C H W"
            )

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def encoded(self, row: int) -> tuple[bytes | Image.Image, Any, str]:
        """A picture, its label (index, class name or None) and where it is from."""

    def read(self, row: int) -> tuple[NDArray[np.uint8], int]:
        """See Source.read."""
        picture, label, where = self.encoded(row)
        return decode(picture, self.shape, where), index_of(label, self.classes, where)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See Source.order."""
        return permutation(seed, epoch, len(self))

    def fingerprint(self) -> dict[str, Any]:
        """See Source.fingerprint; sha256 covers the shape that pictures are brought to."""
        content = hashlib.sha256(f"{self.sha256}/{self.shape}/{len(self)}".encode())
        content.update(json.dumps(self.classes).encode())
        return {
            "name": self.name,
            "samples": len(self),
            "classes": list(self.classes),
            "sha256": content.hexdigest(),
        }


def decode(picture: bytes | Image.Image, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """A picture turned as its EXIF says, on white where it is transparent, its centre at the
    model's size by bicubic resampling: (C, H, W) uint8. Raises CorruptRow naming `where`."""
    channels, height, width = shape
    try:
        image = picture if isinstance(picture, Image.Image) else Image.open(io.BytesIO(picture))
        if image.width * image.height > MAX_PIXELS:
            raise CorruptRow(
                f"{where} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
            )
        # A JPEG is decoded at a half, quarter or eighth where that is still twice what is wanted.
        image.draft(None, (2 * max(height, width), 2 * max(height, width)))
        image = _in_mode(ImageOps.exif_transpose(image), _MODES[channels])
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image, np.uint8)
    except CorruptRow:
        raise
    except UnidentifiedImageError as error:
        raise CorruptRow(f"{where} is no whole picture: its format is not known") from error
    except Exception as error:  # decoders answer bad bytes with exceptions of every kind
        raise CorruptRow(f"{where} is no whole picture: {error or type(error).__name__}") from error
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """To L, RGB or RGBA: 16-bit grey scaled, not cut off; transparency put on white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels are floating point, whose range is not known")
    if mode != "RGBA" and (image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def index_of(label: Any, classes: tuple[str, ...], where: str) -> int:
    """The index of a label, given as index or name; 0 if there are no classes.

    Raises CorruptRow for a label that is none of the classes."""
    if not classes:
        return 0
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    whole_number = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
    if not whole_number or not 0 <= label < len(classes):
        what = "no label" if label is None else f"label {label!r}"
        raise CorruptRow(f"{where} has {what}; labels are in [0, {len(classes)})")
    return int(label)


def classes_of(labels: NDArray[Any]) -> tuple[str, ...]:
    """Classes of labels that come without names: 0..max, or the sorted names themselves.

    Numbers outside [0, 65,536) make no classes: their rows are corrupt."""
    if labels.dtype.kind in "iu":
        valid = labels[(labels >= 0) & (labels < MAX_CLASSES)]
        return tuple(str(i) for i in range(int(valid.max()) + 1)) if valid.size else ()
    return in_order({str(label) for label in labels})


def in_order(names: set[str]) -> tuple[str, ...]:
    """Sorted by number where all are numbers, else by name."""
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def held_out(name: str, num_rows: int) -> NDArray[np.bool_]:
    """Which rows of what is called `name` are its test split: (num_rows,), about a tenth.

    For data without a split of its own. A row stays where it is when others are added behind it.
    """
    raw = integers(0, f"test split/{name}", [0], num_rows)[0]
    tenth = (raw >> np.uint64(32)) * np.uint64(10) >> np.uint64(32)
    return np.asarray(tenth == 0)
