"""Encoded pictures of any size -> the model's (C, H, W); what sources of them have in common."""

import hashlib
import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from aigc.artifact.picture import MODES, pixels
from aigc.artifact.preprocessing import IMAGE
from aigc.data import CorruptRow, permutation
from aigc.data.labels import Labels
from aigc.data.survey import Survey

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp"),  # other names of JPEG
)
MAX_PIXELS = 64_000_000
"""A picture that claims more is refused before it is decoded."""


@dataclass(frozen=True, kw_only=True)
class Pictures(ABC):
    """A Source that decodes each picture when it is read; samples are (C, H, W) uint8."""

    name: str
    shape: tuple[int, ...]
    sha256: str
    """Hash of the content, as far as the source says that it covers it."""
    labels: Labels
    survey: Survey

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.shape[0] not in MODES:
            raise ValueError(
                f"data {self.name!r} gives pictures of 1 to 4 channels, the model wants"
                f" {self.shape}; set --model.shape C H W"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """See Source.classes."""
        return self.labels.classes

    def __len__(self) -> int:
        return len(self.labels.indices)

    @abstractmethod
    def encoded(self, row: int) -> tuple[bytes | Image.Image, str]:
        """A picture, and where it is from."""

    def read(self, row: int) -> tuple[NDArray[np.uint8], int]:
        """See Source.read."""
        picture, where = self.encoded(row)
        return decode(picture, self.shape, where), self.labels.of(row, where)

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
    """A picture as artifact.preprocessing.IMAGE says: (C, H, W) uint8. Raises CorruptRow naming
    `where`."""
    try:
        image = picture if isinstance(picture, Image.Image) else Image.open(io.BytesIO(picture))
        if image.width * image.height > MAX_PIXELS:
            raise CorruptRow(
                f"{where} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
            )
        return pixels(image, shape, IMAGE)
    except CorruptRow:
        raise
    except UnidentifiedImageError as error:
        raise CorruptRow(f"{where} is no whole picture: its format is not known") from error
    except Exception as error:  # decoders answer bad bytes with exceptions of every kind
        raise CorruptRow(f"{where} is no whole picture: {error or type(error).__name__}") from error
