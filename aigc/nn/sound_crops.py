"""Pieces of sounds at random places."""

import torch
from torch import Tensor

from aigc.rng import BatchRNG


def sound_crops(sounds: Tensor, size: int, noise: BatchRNG) -> Tensor:
    """A piece of each sound, from a start that is drawn: (N, 1, T) -> (N, 1, size), size <= T."""
    starts = noise.integers("crop", sounds.shape[2] - size + 1)
    places = starts[:, None] + torch.arange(size, device=sounds.device)
    return sounds[:, 0].gather(1, places)[:, None]
