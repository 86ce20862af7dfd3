"""Files, texts and numbers of users -> the inputs of a signature.

    read_input(spec, Path("seven.png").read_bytes())    # (C, H, W) float32 in the spec's range
    read_input(spec, "seven")                           # token ids

Sizes of untrusted files are checked before decoding, and nothing is unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import audio_files, clips, image_files, picture
from aigc.artifact.axes import NO_AXES, Axis, solved
from aigc.artifact.latents import EXACT
from aigc.artifact.manifest import Kind, TensorSpec
from aigc.artifact.preprocessing import (
    LEGACY_AUDIO,
    LEGACY_IMAGE,
    LEGACY_TEXT,
    AudioPreprocessing,
    ImagePreprocessing,
    TextPreprocessing,
)
from aigc.artifact.sound_chunks import MAX_RATE_HZ
from aigc.artifact.vocabulary import Vocabulary, cleaned

Axes = Mapping[str, Axis]

UserInput = bytes | str | float | Sequence[Any]
"""An image or sound file, a text, or numbers of any axes."""

MAX_PIXELS = 1 << 24
"""Most pixels of an image, or of all images of a request together."""
MAX_SAMPLES = 60 * MAX_RATE_HZ
"""Most samples of a sound over all its channels, or of all sounds of a request together."""


def fingerprints(given: Mapping[str, NDArray[Any]], position: int) -> tuple[str, ...]:
    """Fingerprints of the inputs at `position` for its provenance: `name:sha256`, sorted by
    name."""
    return tuple(
        f"{name}:{hashlib.sha256(np.ascontiguousarray(rows[position]).tobytes()).hexdigest()}"
        for name, rows in sorted(given.items())
    )


def read_input(
    spec: TensorSpec,
    value: UserInput,
    together: int = 1,
    axes: Mapping[str, Axis] = NO_AXES,
) -> NDArray[Any]:
    """One value -> an input without its batch axis. Raises ValueError if it cannot be read.

    `axes` are those of the signature; with free ones an input of an allowed size keeps it, and
    others are brought to one as the preprocessing says. `together` values share the limits on
    decoded sizes, since small files can hold many pixels.

    Images (PNG, WebP, JPEG), sounds (WAV, AIFF, FLAC) and texts are converted by the spec's
    preprocessing, bit for bit as in training.
    """
    try:
        return _READERS[spec.kind](spec, value, together, axes if spec.is_free else NO_AXES)
    except ValueError as error:
        raise ValueError(f"{spec.kind} {spec.name!r} cannot be read: {error}") from None


def _image(spec: TensorSpec, value: UserInput, together: int, axes: Axes) -> NDArray[np.float32]:
    reading = spec.preprocessing or LEGACY_IMAGE
    assert isinstance(reading, ImagePreprocessing)
    levels = picture.read(_bytes(value), spec.shape, reading, MAX_PIXELS // together, axes)
    low, high = spec.range or (0.0, 1.0)
    if not spec.preprocessing:
        return low + levels.astype(np.float32) * np.float32((high - low) / 255)
    # Bit for bit x / 127.5 - 1 for the range of training, as its feed scales.
    return levels.astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)


def _sound(spec: TensorSpec, value: UserInput, together: int, axes: Axes) -> NDArray[np.float32]:
    reading = spec.preprocessing or LEGACY_AUDIO
    assert isinstance(reading, AudioPreprocessing)
    most = MAX_SAMPLES // together
    return clips.row(_bytes(value), spec.shape, spec.sample_rate_hz, reading, most, axes)


def num_places(spec: TensorSpec, data: bytes, most: int) -> int:
    """Pixels of an image, or samples per channel of a sound, that is not decoded yet.

    Raises ValueError for more than `most`.
    """
    try:
        if spec.kind == "audio":
            return audio_files.length_at(data, spec.sample_rate_hz, most)
        with image_files.decoding(data, picture.FORMATS):
            image = image_files.opened(data, picture.FORMATS, most, animated=True)
            return image.width * image.height
    except ValueError as error:
        raise ValueError(f"{spec.kind} {spec.name!r} cannot be read: {error}") from None


def text(spec: TensorSpec, value: str) -> str:
    """The text whose characters become tokens of an input."""
    reading = spec.preprocessing or LEGACY_TEXT
    assert isinstance(reading, TextPreprocessing)
    return cleaned(value, reading)


def _text(spec: TensorSpec, value: UserInput, together: int, axes: Axes) -> NDArray[np.int64]:
    if not isinstance(value, str):
        raise ValueError(f"a text is wanted, got {type(value).__name__}")
    rows = Vocabulary(spec.vocabulary).rows([text(spec, value)], spec.fixed_shape[0])
    return np.ascontiguousarray(rows[0])


def _numbers(spec: TensorSpec, value: UserInput, together: int, axes: Axes) -> NDArray[Any]:
    if isinstance(value, str | bytes):
        raise ValueError(f"numbers are wanted, got {type(value).__name__}")
    whole = spec.dtype == "int64"
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        array = np.asarray(value, np.float64 if whole else np.float32)
    if axes:
        solved(axes, spec.shape, array.shape)  # raises
    if (not axes and array.shape != spec.shape) or not np.isfinite(array).all():
        raise ValueError(f"finite numbers of shape {spec.shape} are wanted, got {array.shape}")
    if whole and not ((array == np.trunc(array)) & (np.abs(array) < EXACT)).all():
        raise ValueError("whole numbers below 2^53 are wanted")
    return array.astype(spec.dtype)


def _bytes(value: UserInput) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"a file is wanted, got {type(value).__name__}")
    return value


_READERS: Mapping[Kind, Callable[[TensorSpec, UserInput, int, Axes], NDArray[Any]]] = {
    "image": _image,
    "audio": _sound,
    "text": _text,
    "vector": _numbers,
}

KINDS = tuple(_READERS)
"""Kinds of inputs that users can give."""
