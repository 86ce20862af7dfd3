"""Recreates a file from its provenance and compares it with the original.

    file = read_file(data)                                  # ValueError for neither image nor sound
    output = file.output(artifact.signature("sample"))
    samples = recreate(artifact, file.provenance, output)
    file.compare(samples, artifact.manifest, artifact.reproducibility["sample"]).matches

The provenance is a claim that anybody can write into a file; equal samples prove it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import audio_files, image_files
from aigc.artifact.comparison import replay_loss, tolerance
from aigc.artifact.image_files import Provenance
from aigc.artifact.manifest import Manifest, Reproducibility, Signature, TensorSpec
from aigc.artifact.sampling_inputs import is_picture
from aigc.artifact.session import Artifact

MEASURED = 2
"""Most that a file may differ, in differences that this machine measured when it replayed the
references: two machines may be off them."""
MAX_LEVELS = 3
"""Most levels, of 255, that a pixel of a file may differ, whatever was measured."""
MAX_DIFFERENCE = 1 / 64
"""Most that other values may differ, as a share of the largest one, whatever was measured."""
MEAN_SHARE = 1 / 4
"""Largest mean difference, as a share of the largest difference that is allowed."""
MAX_VALUES = 4 * image_files.MAX_PIXELS
"""Most values of the samples of a file whose sizes are claimed by its provenance."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A file beside its recreation."""

    difference: int | None
    """Largest difference of two values, in levels; None if the sizes differ."""
    mean: float
    """Mean difference, in levels; 0 if the sizes differ."""
    allowed: int
    """Largest difference of a file that the artifact made, in levels."""
    unit: str
    """Name of one value: pixel or sample."""
    levels: int
    """Largest difference that two values can have."""

    @classmethod
    def of(
        cls, differences: NDArray[Any] | None, *, allowed: int, unit: str, levels: int
    ) -> "Comparison":
        """The comparison with these differences of values; None for other sizes."""
        return cls(
            difference=None if differences is None else int(differences.max(initial=0)),
            mean=0.0 if differences is None or not differences.size else float(differences.mean()),
            allowed=allowed,
            unit=unit,
            levels=levels,
        )

    @property
    def matches(self) -> bool:
        """The artifact made the file: it is equal, or within the tolerance of this machine."""
        if self.difference is None or self.difference > self.allowed:
            return False
        return self.mean <= MEAN_SHARE * self.allowed

    def describe(self) -> str:
        """The comparison in a few words, such as `every pixel is equal`."""
        if self.difference is None:
            return "its size differs"
        if self.difference == 0:
            return f"every {self.unit} is equal"
        if self.matches:
            return (
                f"every {self.unit} is within {self.difference} of {self.levels} levels, and the"
                f" tolerance here is {self.allowed}"
            )
        if self.difference <= self.allowed:
            return (
                f"{self.unit}s differ by {self.mean:.2g} of {self.levels} levels on average, and at"
                f" most {MEAN_SHARE * self.allowed:.2g} is within the tolerance here"
            )
        return f"a {self.unit} differs by {self.difference} of {self.levels} levels"


class ImageFile:
    """An image file and its provenance. Raises ValueError for data that is not an image.

    The pixels are decoded again for the comparison, since they may be thousands of times the file.
    """

    kind, unit, collection, levels = "image", "pixel", "grid", 255

    def __init__(self, data: bytes, max_pixels: int = image_files.MAX_PIXELS) -> None:
        self._data = data
        self._max_pixels = max_pixels
        _, self.provenance = image_files.read_image(data, max_pixels)

    def output(self, signature: Signature) -> TensorSpec:
        """The output of a signature that the file holds. Raises ValueError: `gives no image`."""
        spec = next(filter(is_picture, signature.outputs), None)
        if spec is None:
            raise ValueError("gives no image")
        return spec

    def compare(
        self, samples: NDArray[Any], manifest: Manifest, measured: Reproducibility
    ) -> Comparison:
        """Compare with (n, H, W, C) uint8, of the provenance's signature.

        Pixels must be equal; but those of reduced arithmetic may differ where this machine, as
        `measured`, makes other pixels of the references: by MEASURED times as much, and at most
        MAX_LEVELS.
        """
        assert self.provenance is not None
        name = self.provenance.signature
        low, high = self.output(manifest.signatures[name]).range or (-1.0, 1.0)
        allowed = 0
        if measured.level == "tolerance" and replay_loss(manifest, name):
            # max_abs is relative to 1 + the value
            share = MEASURED * measured.max_abs * (1 + max(abs(low), abs(high))) / (high - low)
            allowed = int(min(MAX_LEVELS, share * self.levels + 1))
        pixels, _ = image_files.read_image(self._data, self._max_pixels)
        differences = image_files.differences(image_files.tile(samples, self.provenance), pixels)
        return Comparison.of(differences, allowed=allowed, unit=self.unit, levels=self.levels)


class AudioFile:
    """A sound file and its provenance. Raises ValueError for data that is not a sound."""

    kind, unit, collection, levels = "sound", "sample", "sequence", 2 * audio_files.FULL_SCALE

    def __init__(self, data: bytes, max_samples: int = audio_files.MAX_SAMPLES) -> None:
        self._data = data
        self._max_samples = max_samples
        sound = audio_files.read_sound(data, max_samples)
        self.provenance, self._rate_hz = sound.provenance, sound.rate_hz

    def output(self, signature: Signature) -> TensorSpec:
        """The output of a signature that the file holds. Raises ValueError: `gives no sound`."""
        spec = next((spec for spec in signature.outputs if spec.kind == "audio"), None)
        if spec is None or spec.sample_rate_hz != self._rate_hz:
            raise ValueError("gives no sound" + (f" of {self._rate_hz} Hz" if spec else ""))
        return spec

    def compare(
        self, samples: NDArray[Any], manifest: Manifest, measured: Reproducibility
    ) -> Comparison:
        """Compare with (n, samples, channels) int16, of the provenance's signature, one clip after
        the other.

        Where this machine, as `measured`, is not equal to the references, samples may differ by
        MEASURED times as much, or times the tolerance of float32 if that is more; at most by
        MAX_DIFFERENCE.
        """
        assert self.provenance is not None
        name = self.provenance.signature
        allowed = 0
        if measured.level != "bit":
            most = max(tolerance(manifest.signatures[name]), measured.max_abs)
            allowed = int(min(MEASURED * most, MAX_DIFFERENCE) * audio_files.FULL_SCALE) + 1
        sound = audio_files.read_sound(self._data, self._max_samples)
        differences = audio_files.differences(
            np.concatenate([*samples]), audio_files.to_pcm16(sound.samples)
        )
        return Comparison.of(differences, allowed=allowed, unit=self.unit, levels=self.levels)


def read_file(
    data: bytes,
    max_pixels: int = image_files.MAX_PIXELS,
    max_samples: int = audio_files.MAX_SAMPLES,
) -> ImageFile | AudioFile:
    """A PNG, WebP, JPEG, WAV or FLAC, or an AIFF, in which no provenance is looked for.

    Raises ValueError for any other, and for a larger file.
    """
    if audio_files.is_sound(data[:12]):
        return AudioFile(data, max_samples)
    return ImageFile(data, max_pixels)


def check_columns(provenance: Provenance) -> None:
    """Raise ValueError unless a grid of its samples can have its columns."""
    if not 0 <= provenance.columns <= provenance.n:
        raise ValueError(f"a grid of {provenance.n} has no {provenance.columns} columns")


def check_values(signature: Signature, provenance: Provenance) -> None:
    """Raise ValueError unless its samples fit into a file, of whatever sizes it claims."""
    values = signature.at(signature.sizes(provenance.sizes)).num_values
    if signature.axes and values * provenance.n > MAX_VALUES:
        raise ValueError(
            f"{provenance.n} samples of {values:,} values are more than a file holds: at most"
            f" {MAX_VALUES:,}"
        )


def recreate(artifact: Artifact, provenance: Provenance, output: TensorSpec) -> NDArray[Any]:
    """Draw a file's samples again: (n, H, W, C) uint8, or (n, samples, channels) int16 of a sound.

    `output` is that of the provenance's signature. Raises ValueError for a provenance that the
    signature cannot have had.
    """
    name = provenance.signature
    check_values(artifact.signature(name), provenance)
    if provenance.to_seed is None:
        outputs = artifact.sample(
            name,
            seed=provenance.seed,
            n=provenance.n,
            first_index=provenance.index,
            label=provenance.asked(),
            settings=provenance.settings,
            sizes=provenance.sizes,
        )
    else:
        inputs = artifact.draw_between(
            name,
            provenance.seed,
            provenance.to_seed,
            provenance.n,
            index=provenance.index,
            label=provenance.label,
            to_label=provenance.to_label,
            settings=provenance.settings,
            sizes=provenance.sizes,
        )
        outputs = artifact.run(name, inputs)
    if output.kind == "image":
        return artifact.uint8(name, outputs)
    return audio_files.to_pcm16(outputs[output.name])
