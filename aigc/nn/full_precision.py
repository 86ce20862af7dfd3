"""Computation in full precision where all else is in that of autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Context in which autocast changes nothing on the device of a tensor.

    Nothing is switched where autocast is off, as in an export, whose graph must not hold it.
    """
    device = like.device.type
    casts = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if casts else nullcontext()


def widened(x: Tensor) -> Tensor:
    """x in float32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
