"""Waveforms of a runner -> audio files with their provenance inside."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import TensorSpec, audio_files
from aigc.artifact.image_files import Provenance
from aigc.artifact.sampling_inputs import Arrays
from serve.hosting.runner import SignatureRunner

Format = Literal["wav", "flac", "pcm"]
STREAMED: tuple[Format, ...] = ("wav", "pcm")
"""Formats whose length follows from that of the sound, so that they can be sent as it is made."""

MEDIA_TYPES: Mapping[Format, bytes] = {
    "wav": b"audio/wav",
    "flac": b"audio/flac",
    "pcm": b"audio/pcm",
}

_FILES: Mapping[str, Callable[[NDArray[np.int16], int, Provenance | None], bytes]] = {
    "wav": audio_files.wav,
    "flac": audio_files.flac,
}


def audio_output(runner: SignatureRunner) -> TensorSpec | None:
    """The audio output of a runner; None if it has none."""
    return next((spec for spec in runner.spec.outputs if spec.kind == "audio"), None)


def clips(spec: TensorSpec, outputs: Arrays) -> NDArray[np.int16]:
    """The audio output as (n, samples, channels) int16."""
    return audio_files.to_pcm16(outputs[spec.name])


def head(format_name: Format, n: int, spec: TensorSpec, provenance: Provenance) -> bytes:
    """The file header before the raw samples of a sound of `n` samples per channel."""
    if format_name == "pcm":
        return b""
    assert isinstance(spec.shape[0], int)
    return audio_files.wav_head(n, spec.shape[0], spec.sample_rate_hz, provenance)


def raw(spec: TensorSpec, outputs: Arrays) -> bytes:
    """The raw samples of all clips of an audio output, one after another."""
    return b"".join(map(audio_files.pcm, clips(spec, outputs)))


def file(
    format_name: Format, clip: NDArray[np.int16], rate_hz: int, provenance: Provenance
) -> bytes:
    """(samples, channels) int16 -> a file; raw PCM has no place for the provenance."""
    return (
        audio_files.pcm(clip)
        if format_name == "pcm"
        else _FILES[format_name](clip, rate_hz, provenance)
    )
