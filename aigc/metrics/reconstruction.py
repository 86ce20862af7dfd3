"""Metrics of autoencoders of images: test images, encoded and decoded again.

PSNR and SSIM stand beside those of the best linear autoencoder of the same latent shape: principal
components of patches. An autoencoder of tokens stands beside the mean colour of each patch, which
takes at least three bytes a place.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.artifact.manifest import TensorSpec
from aigc.config import require
from aigc.data import Dataset, scaled
from aigc.feature_network import FeatureNetwork
from aigc.metrics import Evaluation
from aigc.metrics.codes import perplexity
from aigc.metrics.degradation import from_range, to_range
from aigc.metrics.likeness import Likeness
from aigc.metrics.similarity import psnr, ssim

RECONSTRUCT, ENCODE = "reconstruct", "encode"
BATCH = 16
FITTED_ON = 1000
"""Most images that components are fitted on."""
MAX_COMPONENTS = 2048
"""Most numbers in a patch of which components are computed."""

Images = NDArray[np.float32]


def reconstructs(artifact: Artifact) -> bool:
    """True if the artifact makes images of images of the same shape, and of nothing else."""
    one = artifact.manifest.signatures.get(RECONSTRUCT)
    if one is None or len(one.inputs) != 1:
        return False
    given, made = one.inputs[0], one.outputs[0]
    return given.kind == made.kind == "image" and given.shape == made.shape


def check(artifact: Artifact) -> None:
    """Raise ValueError unless the artifact reconstructs images."""
    require(
        reconstructs(artifact),
        f"{artifact.id} has no signature {RECONSTRUCT!r} that makes images of images of the same"
        " shape; leave out --metrics reconstruction",
    )


def evaluate(
    artifact: Artifact,
    train: Dataset,
    test: Dataset,
    n: int,
    seed: int = 0,
    networks: Sequence[FeatureNetwork] = (),
) -> Evaluation:
    """PSNR in dB and SSIM of the first n test images after `reconstruct`, and of a baseline.

    By the features of `networks` also their distances (metrics/likeness.py). Of codes also the
    share of them that the test images take, and their perplexity. Nothing is drawn from the seed.
    Raises ValueError for an artifact without such a signature.
    """
    check(artifact)
    signature = artifact.signature(RECONSTRUCT)
    real = scaled(test.samples[:n])
    given, made = signature.inputs[0], signature.outputs[0]
    found: list[dict[str, NDArray[np.generic]]] = [
        artifact.run(RECONSTRUCT, {given.name: to_range(real[i : i + BATCH], given)})
        for i in range(0, len(real), BATCH)
    ]
    parts = [from_range(one[made.name].astype(np.float32), made) for one in found]
    images = np.concatenate(parts) if parts else real
    evaluation, likeness = Evaluation(), Likeness(networks, real)
    _add(evaluation, "", images, likeness)
    if baseline := _baseline(artifact, scaled(train.samples[:FITTED_ON]), real):
        called, make = baseline
        _add(evaluation, f"/{called}", make(), likeness)
    for spec in signature.outputs:
        if spec.is_codes and found:
            codes = np.concatenate([one[spec.name] for one in found])
            evaluation.add("codes_used", partial(_used, codes, spec), None, "higher")
            evaluation.add("perplexity", partial(perplexity, codes), None, "higher")
    return evaluation


def _add(evaluation: Evaluation, at: str, images: Images, likeness: Likeness) -> None:
    """Metrics of images, of a baseline if they are called `at`."""
    real = likeness.real
    higher, lower = ("", "") if at else ("higher", "lower")
    evaluation.add(f"reconstruction/psnr{at}", partial(psnr, images, real), None, higher)
    evaluation.add(f"reconstruction/ssim{at}", partial(ssim, images, real), None, higher)
    likeness.add(evaluation, images, before="reconstruction/", after=at, better=lower)


def _used(codes: NDArray[np.generic], spec: TensorSpec) -> float:
    assert spec.range is not None
    return len(np.unique(codes)) / (spec.range[1] + 1)


def _baseline(
    artifact: Artifact, train: Images, real: Images
) -> tuple[str, Callable[[], Images]] | None:
    """Name and images of the baseline; None for a latent that is no map, and without images."""
    encode = artifact.manifest.signatures.get(ENCODE)
    if encode is None or not len(real) or not len(train):
        return None
    latent = encode.outputs[0]
    if not latent.is_free or len(latent.shape) != (2 if latent.is_codes else 3):
        return None
    shape = real.shape[1:]
    at = encode.at(encode.sizes_of({encode.inputs[0].name: shape})).outputs[0].fixed_shape
    factor = shape[1] // at[-2]
    if latent.is_codes:
        return "mean_colours", lambda: mean_colours(real, factor)
    channels = at[0]
    if factor**2 * real.shape[1] > MAX_COMPONENTS:
        return None
    return "linear", lambda: linear(train, real, factor, channels)


def mean_colours(images: Images, factor: int) -> Images:
    """Images (N, C, H, W) with the mean of each patch of factor x factor pixels in its place."""
    n, c, h, w = images.shape
    patches = images.reshape(n, c, h // factor, factor, w // factor, factor)
    return np.broadcast_to(patches.mean((3, 5), keepdims=True), patches.shape).reshape(n, c, h, w)


def linear(train: Images, images: Images, factor: int, channels: int) -> Images:
    """Images (N, C, H, W) from the first principal components of their patches, in [-1, 1].

    The components are those of the patches of `train`, `channels` of them for each patch of factor
    x factor pixels: no linear autoencoder of that latent has a smaller square error on `train`.
    """
    known = _patches(train, factor)
    mean = known.mean(0)
    known = known - mean
    _, vectors = np.linalg.eigh(known.T @ known)
    vectors = vectors[:, -channels:]
    patches = ((_patches(images, factor) - mean) @ vectors) @ vectors.T + mean
    n, c, h, w = images.shape
    rows = patches.reshape(n, h // factor, w // factor, c, factor, factor)
    made: Images = rows.transpose(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)
    return made.clip(-1, 1)


def _patches(images: Images, factor: int) -> Images:
    n, c, h, w = images.shape
    parts = images.reshape(n, c, h // factor, factor, w // factor, factor)
    return parts.transpose(0, 2, 4, 1, 3, 5).reshape(-1, c * factor**2)
