"""How workers agree: one flat all-reduce per phase, state from rank 0."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cluster.shared_memory import SharedMemory


class ProcessGroup:
    """aigc.train.Sync over torch.distributed's default process group.

    The loop hands over one flat tensor of fixed layout, so sums do not depend on which bucket was
    ready first, and a restarted run adds in the same order as the one before.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self._shared = SharedMemory(self.rank, self.world)

    def sum(self, flat: Tensor) -> None:
        """Add up `flat` over all workers, in place."""
        if not self._shared.sum(flat):
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

    def share_batch_norm(self, model: nn.Module) -> None:
        """Have BatchNorm take its statistics over all workers; weights and buffers stay."""
        if self.world == 1:
            return
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm):
                    setattr(module, name, SharedBatchNorm(child))


class SharedBatchNorm(_BatchNorm):
    """BatchNorm over the global batch: each worker's share may differ in size.

    torch.nn.SyncBatchNorm does so on GPUs only. One all-reduce of count, sum and sum of squares
    per channel, and one more in the backward pass. Takes over the tensors of `like`.
    """

    def __init__(self, like: _BatchNorm) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine)
        self.__dict__["_parameters"] = like._parameters
        self.__dict__["_buffers"] = like._buffers
        self.train(like.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank goes: (N, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        """x: (N, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count = x.new_full((1,), x.numel() / x.shape[1])
        packed = torch.cat([x.sum(axes), x.square().sum(axes), count])
        total, squares, (n,) = torch.split(
            differentiable.all_reduce(packed),  # type: ignore[no-untyped-call]
            [self.num_features, self.num_features, 1],
        )
        mean = total / n
        variance = (squares / n - mean.square()).clamp_min(0)
        self._track(mean.detach(), variance.detach() * n.detach() / (n.detach() - 1))
        y = (x - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = y.to(input.dtype)
        return result

    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1
