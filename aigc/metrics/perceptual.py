"""Distances of pictures in feature maps, and the length of a generator's paths in them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, latents
from aigc.feature_network import FeatureNetwork
from aigc.metrics import TooFewRows, classes_in_turn, to_unit_range
from aigc.metrics.estimate import Estimate, of_mean

BLOCK = 64
EPSILON = 1e-3
"""Step of a path in the latent space; Karras et al. take 1e-4, too little for float32."""

Images = NDArray[np.float32]


def perceptual_distances(network: FeatureNetwork, a: Images, b: Images) -> NDArray[np.float64]:
    """(N,) distances of pictures a and b, (N, C, H, W) float32 in [-1, 1].

    The mean over feature maps of the mean over places of ‖â - b̂‖², with â the features at a place
    divided by their norm: LPIPS (Zhang et al. 2018, arXiv:1801.03924, eq. 1) with all weights 1, in
    [0, 4]. Raises ValueError if the network has no feature maps.
    """
    parts = []
    for start in range(0, len(a), BLOCK):
        pairs = zip(
            network.feature_maps(a[start : start + BLOCK]),
            network.feature_maps(b[start : start + BLOCK]),
            strict=True,
        )
        each = [np.square(_unit(x) - _unit(y)).sum(1).mean((1, 2)) for x, y in pairs]
        parts.append(np.mean(each, axis=0))
    return np.concatenate(parts) if parts else np.zeros(0)


def _unit(maps: Images) -> NDArray[np.float64]:
    x = maps.astype(np.float64)
    return np.asarray(x / (np.sqrt(np.square(x).sum(1, keepdims=True)) + 1e-10))


def has_paths(artifact: Artifact) -> bool:
    """True if the samples are pictures of one latent, and of a label at most."""
    signature = artifact.signature(artifact.manifest.default_signature())
    kinds = [spec.kind for spec in signature.inputs if spec.kind != "label"]
    return kinds == ["latent"] and signature.outputs[0].kind == "image"


def path_length(
    network: FeatureNetwork,
    artifact: Artifact,
    *,
    pairs: int,
    seed: int,
    epsilon: float = EPSILON,
) -> Estimate:
    """Perceptual path length (Karras et al. 2019, arXiv:1812.04948, section 4.1): the mean of
    d(G(slerp(z₁, z₂; t)), G(slerp(z₁, z₂; t + ε))) / ε², without the lowest and highest 1 %.

    z₁ and z₂ are the latents of samples i and i + `pairs` of a seed, with the class of i; t is
    uniform in [0, 1). For an artifact that has_paths().
    """
    name = artifact.manifest.default_signature()
    signature = artifact.signature(name)
    latent = next(spec.name for spec in signature.inputs if spec.kind == "latent")
    spec, num_classes = signature.outputs[0], classes_in_turn(artifact)
    t = np.random.default_rng(seed).uniform(size=pairs)
    distances = []
    for start in range(0, pairs, BLOCK):
        indices = range(start, min(start + BLOCK, pairs))
        labels = [i % num_classes for i in indices] if num_classes else None
        drawn = artifact.draw(name, seed, indices, labels)
        others = range(start + pairs, start + pairs + len(indices))
        end = artifact.draw(name, seed, others, labels)[latent]
        ends = [
            latents.slerp(a, b, np.array([t[i], t[i] + epsilon]))
            for a, b, i in zip(drawn[latent], end, indices, strict=True)
        ]
        made = [
            to_unit_range(artifact.run(name, {**drawn, latent: z})[spec.name], spec)
            for z in np.stack(ends, 1)
        ]
        distances.append(perceptual_distances(network, made[0], made[1]) / epsilon**2)
    found = np.concatenate(distances)
    low, high = np.quantile(found, (0.01, 0.99))
    return of_mean(found[(found >= low) & (found <= high)])


def of_pairs(
    network: FeatureNetwork, images: Images, labels: Sequence[int] | NDArray[np.int64] | None
) -> Estimate:
    """Mean perceptual distance of pairs of pictures, of the same class where there are labels.

    Row i is compared with the next row of its class; the mean is 0 for equal pictures. Raises
    TooFewRows without a pair.
    """
    own = np.zeros(len(images), np.int64) if labels is None else np.asarray(labels)
    firsts, seconds = [], []
    for label in np.unique(own):
        rows = np.flatnonzero(own == label)
        rows = rows[: len(rows) // 2 * 2]
        firsts.append(rows[0::2])
        seconds.append(rows[1::2])
    a, b = (np.concatenate(part) if part else np.zeros(0, np.int64) for part in (firsts, seconds))
    if not len(a):
        raise TooFewRows("there is no pair of rows of one class")
    return of_mean(perceptual_distances(network, images[a], images[b]))
