"""Random parts of sounds, chosen anew for every batch."""

import torch
from torch import Tensor

from aigc.rng import BatchRNG


def crops(x: Tensor, size: int, noise: BatchRNG, purpose: str = "crop") -> Tensor:
    """A part of each sound that begins anywhere: (N, C, T) -> (N, C, size), the channels together.

    Starts are uniform in [0, T - size] and a function of the noise alone; a second draw of a batch
    needs another `purpose`. Sounds that are no longer than `size` are returned as they are. Raises
    ValueError unless the noise is that of N rows.
    """
    if len(x) != noise.size:
        raise ValueError(
            f"{len(x)} sounds, but noise of {noise.size} rows; draw crops of all rows of the batch"
        )
    longest = x.shape[-1]
    if longest <= size:
        return x
    start = noise.integers(purpose, longest - size + 1)
    places = start[:, None, None] + torch.arange(size, device=x.device)
    return x.gather(-1, places.expand(-1, x.shape[1], -1))
