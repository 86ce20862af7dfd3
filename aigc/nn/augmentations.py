"""Differentiable augmentation of pictures (Zhao et al. 2020, arXiv:2006.10738, section 3).

A discriminator that sees real and generated pictures through the same random changes cannot learn
the few real ones by heart, and the generator is taught through them. Pictures are (N, C, H, W) in
[-1, 1]; a row's draws come from the batch's randomness, so they depend on neither workers nor
micro-batches.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc.rng import BatchRNG

Augmentation = Literal["flip", "colour", "translation", "cutout"]

TRANSLATION = 1 / 8
"""Largest shift, as a share of height and width."""
CUTOUT = 1 / 2
"""Height and width of the square that is set to grey, as a share of the picture's."""


def augmented(
    x: Tensor,
    kinds: Sequence[Augmentation],
    probability: float | Tensor,
    noise: BatchRNG,
    purpose: str,
) -> Tensor:
    """Pictures, each changed by every one of `kinds` in order, each with a probability, () if it is
    a tensor.

    `purpose`: key of the draws; pictures that are to be changed alike need the same.
    """
    for kind in kinds:
        key = f"{purpose}/{kind}"
        changed = KINDS[kind](x, noise, key)
        if isinstance(probability, Tensor) or probability < 1:
            drawn = noise.uniform(f"{key}/probability", 1, 1, 1) < probability
            changed = torch.where(drawn, changed, x)
        x = changed
    return x


def flip(x: Tensor, noise: BatchRNG, key: str) -> Tensor:
    """Every second picture mirrored, left to right."""
    return torch.where(noise.uniform(key, 1, 1, 1) < 0.5, x.flip(3), x)


def colour(x: Tensor, noise: BatchRNG, key: str) -> Tensor:
    """Brightness moved by up to 0.5, saturation and contrast scaled by up to 2 and 1.5."""
    drawn = noise.uniform(key, 3, 1, 1, 1)
    brightness, saturation, contrast = drawn.unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


def translation(x: Tensor, noise: BatchRNG, key: str) -> Tensor:
    """Shifted by up to TRANSLATION of height and width, grey (0) beyond the edge."""
    drawn = noise.uniform(key, 2)
    for axis, share in zip((2, 3), drawn.unbind(1), strict=True):
        size = x.shape[axis]
        most = round(size * TRANSLATION)
        first = (share * (2 * most + 1)).long()  # of 0 .. 2 * most, in the padded picture
        padded = F.pad(x, (0, 0, most, most) if axis == 2 else (most, most, 0, 0))
        at = first[:, None] + torch.arange(size, device=x.device)
        at = at[:, None, :, None] if axis == 2 else at[:, None, None, :]
        x = padded.gather(axis, at.expand_as(x))
    return x


def cutout(x: Tensor, noise: BatchRNG, key: str) -> Tensor:
    """A rectangle of CUTOUT of height and width set to grey (0); its centre may be at the edge."""
    drawn = noise.uniform(key, 2)
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, share in zip((2, 3), drawn.unbind(1), strict=True):
        size = x.shape[axis]
        length = round(size * CUTOUT)
        first = (share * (size + 1 - length % 2)).long() - length // 2
        at = torch.arange(size, device=x.device) - first[:, None]
        within = (at >= 0) & (at < length)
        inside = inside & (within[:, None, :, None] if axis == 2 else within[:, None, None, :])
    return x.masked_fill(inside, 0)


KINDS: dict[Augmentation, Callable[[Tensor, BatchRNG, str], Tensor]] = {
    "flip": flip,
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
}
