"""Reading of sound for several sources: clips of the model's rate and length."""

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import clips
from aigc.data import CorruptRow


def decode(content: bytes, shape: tuple[int, ...], to_hz: int, where: str) -> NDArray[np.float32]:
    """A WAV, AIFF or FLAC -> (1, samples) float32, its channels averaged. Raises CorruptRow naming
    `where`."""
    try:
        return clips.row(content, shape, to_hz)
    except ValueError as error:
        raise CorruptRow(f"{where} is no whole sound: {error}") from error


def clip(wave: NDArray[np.float32], rate_hz: int, to_hz: int, length: int) -> NDArray[np.float32]:
    """(n,) float32 at one rate -> (1, length) at another, in [-1, 1], as sound.clip() makes it."""
    return clips.clip(wave, rate_hz, to_hz, length)[None]


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError unless `shape` is that of a sound of one channel."""
    if len(shape) != 2 or shape[0] != 1:
        raise ValueError(
            f"data {name!r} gives sound of shape (1, samples), the model wants {shape};"
            " take spectrogram_gan, or set --model.shape 1 4096"
        )
