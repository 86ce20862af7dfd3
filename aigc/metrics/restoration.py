"""Metrics of signatures that make images of images: real ones, reduced, and made whole again.

An upscaler gets each test image at the size of its input. Its peak signal-to-noise ratio stands
beside that of bicubic interpolation, which every upscaler has to beat. At equal sizes the image is
given as it is.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigc.artifact import Artifact
from aigc.artifact.axes import SizeError, solved
from aigc.artifact.manifest import Signature, TensorSpec
from aigc.data import Dataset, scaled
from aigc.metrics import Evaluation
from aigc.metrics.similarity import psnr

BATCH = 16


def restores(signature: Signature) -> bool:
    """True if a signature makes one image of one image of as many channels, and takes no more."""
    given, made = signature.inputs, signature.outputs
    return (
        (len(given), len(made)) == (1, 1)
        and given[0].kind == made[0].kind == "image"
        and given[0].shape[0] == made[0].shape[0]
    )


def evaluate(artifact: Artifact, name: str, test: Dataset, n: int) -> Evaluation:
    """PSNR in dB of the first n test images, given at the input's size, and of bicubic resizing."""
    real = scaled(test.samples[:n])
    signature = _sized(artifact.signature(name), real.shape[1:])
    given, made = signature.inputs[0], signature.outputs[0]
    small = resized(real, given.fixed_shape[1:])
    parts = [
        artifact.run(name, {given.name: to_range(small[i : i + BATCH], given)})[made.name]
        for i in range(0, len(small), BATCH)
    ]
    evaluation = Evaluation()
    large = from_range(np.concatenate(parts), made) if parts else real
    evaluation.add("psnr", partial(psnr, large, real), None, "higher")
    bicubic = resized(small, made.fixed_shape[1:])
    evaluation.add("psnr/bicubic", partial(psnr, bicubic, real), None, "")
    return evaluation


def _sized(signature: Signature, shape: tuple[int, ...]) -> Signature:
    """The signature at the sizes that give images of a shape; the default ones if none do."""
    try:
        sizes = solved(signature.reach, signature.outputs[0].shape, shape)
    except SizeError:
        sizes = {}
    return signature.at(signature.sizes(sizes))


def resized(images: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """(N, C, H, W) -> (N, C, height, width), bicubic and without aliases."""
    height, width = size
    if images.shape[2:] == (height, width) or not len(images):
        return images
    made = np.empty((*images.shape[:2], height, width), np.float32)
    for index in np.ndindex(images.shape[:2]):
        picture = Image.fromarray(images[index])
        made[index] = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    return made.clip(-1, 1)


def to_range(images: NDArray[np.float32], spec: TensorSpec) -> NDArray[np.float32]:
    """Values in [-1, 1] -> the range of a tensor."""
    low, high = spec.range or (-1.0, 1.0)
    return ((images + 1) * np.float32((high - low) / 2) + np.float32(low)).astype(np.float32)


def from_range(images: NDArray[np.float32], spec: TensorSpec) -> NDArray[np.float32]:
    """The inverse of to_range()."""
    low, high = spec.range or (-1.0, 1.0)
    return ((images - np.float32(low)) * np.float32(2 / (high - low)) - 1).astype(np.float32)
