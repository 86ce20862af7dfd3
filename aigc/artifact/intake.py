"""Files, texts and numbers as people have them -> the inputs of a signature.

    tensor(spec, Path("seven.png").read_bytes())        # (C, H, W) float32 in the spec's range
    tensor(spec, "seven")                               # token ids

What comes from outside is counted before it is decoded, and never unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from aigc.artifact import codecs, sound
from aigc.artifact.manifest import Kind, TensorSpec
from aigc.artifact.vocabulary import Vocabulary

Given = bytes | str | Sequence[float]
"""An image or a sound as a file, a text, or numbers."""

MAX_PIXELS = 1 << 24
"""Most pixels of an image that is given, or of all that are given together."""
MAX_SAMPLES = 60 * sound.MAX_RATE_HZ
"""Most samples of a sound that is given, over all its channels; or of all sounds together."""


def fingerprints(given: Mapping[str, NDArray[Any]], position: int) -> tuple[str, ...]:
    """What stands in the provenance of the sample at `position`: one for each input, by name."""
    return tuple(
        f"{name}:{hashlib.sha256(np.ascontiguousarray(rows[position]).tobytes()).hexdigest()}"
        for name, rows in sorted(given.items())
    )


def tensor(spec: TensorSpec, value: Given, together: int = 1) -> NDArray[Any]:
    """One thing -> an input without its batch axis. Raises ValueError for what cannot be read.

    It is one of so many that are given `together`, and share what may be decoded for them: small
    files can hold many pixels.

    Images (PNG, WebP, JPEG) are brought to the spec's size, their shape kept, and its channels.
    Sounds (WAV, FLAC) are brought to its rate, as clips are for training.
    """
    try:
        return _READERS[spec.kind](spec, value, together)
    except ValueError as error:
        raise ValueError(f"{spec.kind} {spec.name!r} cannot be read: {error}") from None


def _image(spec: TensorSpec, value: Given, together: int) -> NDArray[np.float32]:
    pixels, _ = codecs.read_image(_bytes(value), MAX_PIXELS // together)
    channels, height, width = spec.shape
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = ImageOps.pad(picture, (width, height), Image.Resampling.LANCZOS, color=0)
    low, high = spec.range or (0.0, 1.0)
    levels = np.asarray(picture, np.float32).reshape(height, width, channels).transpose(2, 0, 1)
    return np.ascontiguousarray(low + levels * np.float32((high - low) / 255), np.float32)


def _sound(spec: TensorSpec, value: Given, together: int) -> NDArray[np.float32]:
    found = sound.read_sound(_bytes(value), MAX_SAMPLES // together)
    channels, length = spec.shape
    wave = found.samples.mean(0) if channels == 1 else found.samples
    if channels not in (1, len(found.samples)):
        raise ValueError(f"it has {len(found.samples)} channels, {channels} are wanted")
    to_hz = spec.sample_rate_hz
    parts = [sound.heard(row, found.rate_hz, to_hz, length) for row in np.atleast_2d(wave)]
    rows = [
        sound.fitted(sound.resampled(part, found.rate_hz, to_hz), to_hz, length) for part in parts
    ]
    return np.stack(rows).astype(np.float32)


def _text(spec: TensorSpec, value: Given, together: int) -> NDArray[np.int64]:
    if not isinstance(value, str):
        raise ValueError(f"a text is wanted, got {type(value).__name__}")
    rows = Vocabulary(spec.vocabulary).rows([value], spec.shape[0])
    return np.ascontiguousarray(rows[0])


def _numbers(spec: TensorSpec, value: Given, together: int) -> NDArray[np.float32]:
    if isinstance(value, str | bytes):
        raise ValueError(f"numbers are wanted, got {type(value).__name__}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        array = np.asarray(value, np.float32)
    if array.shape != spec.shape or not np.isfinite(array).all():
        raise ValueError(f"finite numbers of shape {spec.shape} are wanted, got {array.shape}")
    return array


def _bytes(value: Given) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"a file is wanted, got {type(value).__name__}")
    return value


_READERS: Mapping[Kind, Callable[[TensorSpec, Given, int], NDArray[Any]]] = {
    "image": _image,
    "audio": _sound,
    "text": _text,
    "vector": _numbers,
}

KINDS = tuple(_READERS)
"""Of inputs that can be given."""
