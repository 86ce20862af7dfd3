"""Collectives of the workers: one flat all-reduce per phase, state broadcast from rank 0."""

import mmap
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

FOLDER = Path("/dev/shm")
SMALLEST_BYTES = 1 << 16
"""Smallest tensor for shared memory; gloo is as fast for less."""
MOST_WORKERS = 8
"""Largest group for shared memory: every worker reads all parts, gloo's ring reads fewer."""


class ProcessGroup:
    """aigc.training.step.ProcessGroup over torch.distributed's default process group.

    Gradients are one flat tensor of fixed layout, summed at once on CPUs and in buckets of fixed
    order on GPUs, so a restarted run adds in the same order as the one before.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = torch.device(device)
        # On CPUs the sum would only take time from the backward pass.
        self.overlaps = self.world_size > 1 and self.device.type != "cpu"
        self._shared = SharedMemory(self.rank, self.world_size)

    def all_reduce(self, flat: Tensor) -> None:
        """Replace `flat` by its sum over all workers, in place."""
        if not self._shared.all_reduce(flat):
            dist.all_reduce(flat)

    def begin_all_reduce(self, flat: Tensor) -> Callable[[], None]:
        """Begin to sum `flat` over all workers; the function returned waits until it is done.

        On a GPU the wait is the stream's: the host goes on.
        """
        work = dist.all_reduce(flat, async_op=True)

        def wait() -> None:
            work.wait()

        return wait

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

    def convert_sync_batch_norm(self, model: nn.Module) -> None:
        """Have BatchNorm take its statistics over all workers; weights and buffers stay."""
        if self.world_size == 1:
            return
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm):
                    setattr(module, name, SharedBatchNorm(child))


class SharedMemory:
    """All-reduce for the workers of one machine through a segment of shared memory.

    Gloo sends every tensor through sockets, which for two CPU workers costs more than the addition.
    Here each worker writes its part into the segment. A small all-reduce then tells everybody that
    all parts are written (and fails if a worker died), and each adds up the parts in the order of
    ranks. A larger tensor gets a larger segment, on all workers at once.

    Its two halves are used in turn: before a half is written again, all workers have met in the
    all-reduce of the other half, so nobody still reads it.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._memory: mmap.mmap | None = None
        self._usable = 1 < world_size <= MOST_WORKERS
        self._half = 0
        self._barrier = torch.zeros(1)

    def all_reduce(self, flat: Tensor) -> bool:
        """Sum `flat`, one-dimensional, over all workers in place; False if that is not possible.

        The result is the same on all workers.
        """
        size = flat.numel() * flat.element_size()
        if not self._usable or size < SMALLEST_BYTES or flat.device.type != "cpu":
            return False
        if self._memory is None or len(self._memory) < 2 * self._world_size * size:
            # A multiple of all element sizes.
            self._memory = self._shared(2 * self._world_size * (-size // 64 * -64))
            self._usable = self._memory is not None
            if self._memory is None:
                return False
        self._half = 1 - self._half
        start = self._half * (len(self._memory) // 2)
        parts = torch.frombuffer(
            self._memory, dtype=flat.dtype, count=self._world_size * flat.numel(), offset=start
        ).view(self._world_size, -1)
        parts[self._rank].copy_(flat)
        dist.all_reduce(self._barrier)
        flat.copy_(parts[0])
        for part in parts[1:]:
            flat.add_(part)
        return True

    def _shared(self, size: int) -> mmap.mmap | None:
        """A segment that all workers have mapped; None on all of them if one cannot map it.

        Its name is deleted before it is used, so a killed worker leaves nothing behind.
        """
        name = torch.tensor([secrets.randbits(62)])
        dist.broadcast(name, 0)
        path = FOLDER / f"aigc-{int(name):016x}"
        memory = None
        if self._rank == 0:
            memory = _create(path, size)
        dist.all_reduce(self._barrier)
        if self._rank != 0:
            memory = _open(path, size)
        seen = torch.tensor([float(memory is not None)])
        dist.all_reduce(seen, op=dist.ReduceOp.MIN)
        if self._rank == 0:
            path.unlink(missing_ok=True)
        return memory if seen.item() else None


def _create(path: Path, size: int) -> mmap.mmap | None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Without reserved pages, writing to a full /dev/shm would kill the process (SIGBUS).
            os.posix_fallocate(descriptor, 0, size)
            return mmap.mmap(descriptor, size)
        except OSError:
            path.unlink()
        finally:
            os.close(descriptor)
    return None


def _open(path: Path, size: int) -> mmap.mmap | None:
    with suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
    return None


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
        """Accept any number of axes: (N, C, ...)."""

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
