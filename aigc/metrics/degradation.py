"""Degraded images, which a signature makes whole again, and what classic methods make of them.

    for trial in trials("upscale", signature, real):
        trial.given                 # inputs of the signature by name
        trial.baseline()            # bicubic interpolation of them

The signature says which degradation is its own. One that makes larger or smaller images is given
bicubic reductions, without aliases, as Pillow makes them; one that takes a mask beside the image,
images with holes; the one called `denoise`, images with Gaussian noise; any other, the image as it
is. All are functions of the row's number, so two artifacts are given the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from aigc.artifact import latents
from aigc.artifact.manifest import Signature, TensorSpec
from aigc.artifact.sampling_inputs import Arrays
from aigc.metrics import classic_fill, non_local_means
from aigc.nn.masks import NUMBERS, masks

Images = NDArray[np.float32]

DENOISE = "denoise"
"""Signature that is given noise."""
NOISE_LEVELS = (25, 15, 50)
"""Standard deviations of the noise, of 255 levels; the first is that of training's quality."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Degraded images."""

    given: Arrays
    """Inputs of the signature that are not drawn, by name, in their ranges."""
    shown: Images
    """The degraded images in [-1, 1], of their own size."""
    baseline: Callable[[], Images] | None = None
    """Function that restores them by a classic method, in [-1, 1]; None where nothing is to be
    made."""
    baseline_name: str = ""
    name: str = ""
    """Name of the degradation if a signature has several."""
    mask: Images | None = None
    """Places (N, 1, H, W) that alone are judged, 1 for those."""


def restores(signature: Signature) -> bool:
    """True if a signature makes an image of an image of as many channels.

    Beside the image it may take `mask`, an image of one channel, and what needs not be given.
    """
    given, made = signature.given, signature.outputs
    rest = [(spec.kind, spec.name, spec.shape[:1]) for spec in given[1:]]
    return (
        bool(given)
        and len(made) == 1
        and given[0].kind == made[0].kind == "image"
        and given[0].shape[0] == made[0].shape[0]
        and rest in ([], [("image", "mask", (1,))])
        and not signature.optional
        and signature.label is None
    )


def trials(name: str, signature: Signature, real: Images) -> Iterator[Trial]:
    """The degradations of a signature without free axes, of images (N, C, H, W) in [-1, 1] of the
    size of its output, one at a time; the first is that of quality during training.

    Raises ValueError for images of another size.
    """
    image, *rest = signature.given
    size, made = image.fixed_shape[1:], signature.outputs[0].fixed_shape
    if made != real.shape[1:]:
        raise ValueError(
            f"signature {name!r} makes images of {made} and cannot be judged by those of"
            f" {real.shape[1:]}; give data of that shape"
        )
    if size != real.shape[2:]:
        yield _reduced(image, real)
    elif rest:
        yield _masked(image, rest[0], real)
    elif name == DENOISE:
        yield from (_noisy(image, real, sigma) for sigma in NOISE_LEVELS)
    else:
        yield Trial(given={image.name: to_range(real, image)}, shown=real)


def _reduced(image: TensorSpec, real: Images) -> Trial:
    small = resized(real, image.fixed_shape[1:])
    return Trial(
        given={image.name: to_range(small, image)},
        shown=small,
        baseline=partial(resized, small, real.shape[2:]),
        baseline_name="bicubic",
    )


def _masked(image: TensorSpec, mask: TensorSpec, real: Images) -> Trial:
    numbers = latents.uniform(0, range(len(real)), (NUMBERS,), "mask")
    holes = masks(torch.from_numpy(numbers), *real.shape[2:]).numpy()
    shown = real * (1 - holes)
    low, high = mask.range or (0.0, 1.0)
    return Trial(
        given={
            image.name: to_range(shown, image),
            mask.name: (low + holes * (high - low)).astype(np.float32),
        },
        shown=shown,
        baseline=partial(classic_fill.biharmonic, shown, holes),
        baseline_name="biharmonic",
        mask=holes,
    )


def _noisy(image: TensorSpec, real: Images, sigma: int) -> Trial:
    drawn = latents.normal(0, range(len(real)), real.shape[1:], "noise")
    noisy = (real + drawn * np.float32(sigma / 127.5)).clip(-1, 1).astype(np.float32)
    return Trial(
        given={image.name: to_range(noisy, image)},
        shown=noisy,
        baseline=partial(non_local_means.denoised, noisy, sigma / 127.5),
        baseline_name="non-local-means",
        name=f"sigma{sigma}",
    )


def resized(images: Images, size: Sequence[int]) -> Images:
    """(N, C, H, W) -> (N, C, height, width), bicubic and without aliases."""
    height, width = size
    if images.shape[2:] == (height, width) or not len(images):
        return images
    made = np.empty((*images.shape[:2], height, width), np.float32)
    for index in np.ndindex(images.shape[:2]):
        picture = Image.fromarray(images[index])
        made[index] = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    return made.clip(-1, 1)


def to_range(images: Images, spec: TensorSpec) -> Images:
    """Values in [-1, 1] -> the range of a tensor."""
    low, high = spec.range or (-1.0, 1.0)
    return ((images + 1) * np.float32((high - low) / 2) + np.float32(low)).astype(np.float32)


def from_range(images: Images, spec: TensorSpec) -> Images:
    """The inverse of to_range()."""
    low, high = spec.range or (-1.0, 1.0)
    return ((images - np.float32(low)) * np.float32(2 / (high - low)) - 1).astype(np.float32)
