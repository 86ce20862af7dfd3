"""Waveforms that leave a lane -> files that say what made them."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import TensorSpec, sound
from aigc.artifact.codecs import Provenance
from serve.batching import Arrays
from serve.lane import SignatureLane

Format = Literal["wav", "flac", "pcm"]

MEDIA_TYPES: Mapping[Format, bytes] = {
    "wav": b"audio/wav",
    "flac": b"audio/flac",
    "pcm": b"audio/pcm",
}

_FILES: Mapping[str, Callable[[NDArray[np.int16], int, Provenance | None], bytes]] = {
    "wav": sound.wav,
    "flac": sound.flac,
}


def sound_of(lane: SignatureLane) -> TensorSpec | None:
    """The output of a lane that is a sound; None if it gives none."""
    return next((spec for spec in lane.spec.outputs if spec.kind == "audio"), None)


def clips(spec: TensorSpec, outputs: Arrays) -> NDArray[np.int16]:
    """The sounds of a lane's outputs: (n, samples, channels) int16."""
    return sound.to_pcm16(outputs[spec.name])


def file(form: Format, clip: NDArray[np.int16], rate_hz: int, made_by: Provenance) -> bytes:
    """(samples, channels) int16 -> a file; raw PCM has no place for what made it."""
    return sound.pcm(clip) if form == "pcm" else _FILES[form](clip, rate_hz, made_by)
