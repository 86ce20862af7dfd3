"""Random parts of sounds, chosen anew for every batch."""

import torch
from torch import Tensor

from aigc.rng import BatchRNG


def crops(x: Tensor, size: int, noise: BatchRNG) -> Tensor:
    """A part of each sound that begins anywhere: (N, C, T) -> (N, C, size), the channels together.

    Starts are uniform in [0, T - size] and a function of the noise alone. Sounds that are no longer
    than `size` are returned as they are.
    """
    longest = x.shape[-1]
    if longest <= size:
        return x
    start = noise.integers("crop", longest - size + 1)
    places = start[:, None, None] + torch.arange(size, device=x.device)
    return x.gather(-1, places.expand(-1, x.shape[1], -1))
