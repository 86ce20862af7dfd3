"""A synthetic voice of known pitch."""

import torch

RATE_HZ = 8000


def voice(hz: torch.Tensor) -> torch.Tensor:
    """(samples,) Hz -> (1, 1, samples): eleven harmonics of a pitch that may glide."""
    turn = 2 * torch.pi * (hz.double() / RATE_HZ).cumsum(0)
    return sum(0.3 / k * torch.sin(k * turn) for k in range(1, 12)).float()[None, None]  # type: ignore[union-attr]
