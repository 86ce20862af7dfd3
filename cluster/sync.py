"""How workers agree: one flat all-reduce per phase, state from rank 0."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroup:
    """aigc.train.Sync over torch.distributed's default process group.

    The loop hands over one flat tensor of fixed layout, so sums do not depend on which bucket was
    ready first, and a restarted run adds in the same order as the one before.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def sum(self, flat: Tensor) -> None:
        """Add up `flat` over all workers, in place."""
        dist.all_reduce(flat)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0, in place, one collective per dtype."""
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in same])
            dist.broadcast(flat, 0)
            for tensor, value in zip(
                same, torch.split(flat, [t.numel() for t in same]), strict=True
            ):
                tensor.copy_(value.view_as(tensor))
