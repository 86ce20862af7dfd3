"""Memory of a worker's tensors, found by training small batches.

estimate_memory(config, source, rows_at_once(config)).peak_bytes
"""

import math
import time
import weakref
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aigc.config import TrainConfig
from aigc.data import Source, share
from aigc.training.dataloader import batch_of
from aigc.training.state import TrainState
from aigc.training.step import SingleProcess, Step

TRIAL_S = 1.0
"""Processor time for trying batches of growing size, but for the last of them."""

LIBRARIES = 1.2
"""Memory of a batch relative to that of its tensors. Measured on the CPU: 1.05 to 1.5, most where
tensors are below 32 MiB, whose memory glibc keeps (training/malloc.py)."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory of a worker's tensors, but for the data."""

    state_bytes: int
    """Weights, optimizers and the average, between batches."""
    peak_bytes: int
    """The most at any time of a batch, the state included."""
    tried_rows: int
    """Rows of the largest batch that was tried; the peak of more is extrapolated."""


def estimate_memory(config: TrainConfig, source: Source, rows: int) -> MemoryEstimate:
    """Train batches of the run with all phases due, and count the bytes of their tensors.

    `rows` go through the networks at once (`rows_at_once`). Their number grows from 2 to `rows`,
    or until time is short; a straight line through the last two peaks leads on. The tensors are
    counted on the CPU, whatever the run trains on, with LIBRARIES for what libraries take; cuDNN
    may take more. Compiled networks are counted as they are without.
    """
    size, (state, peak) = 2, _peak(config, source, 2)
    row, started_s = 0.0, time.process_time()
    while size < rows and time.process_time() - started_s < TRIAL_S:
        larger = min(rows, 2 * size)
        _, high = _peak(config, source, larger)
        row = max(0.0, (high - peak) / (larger - size))
        size, peak = larger, high
    batch = peak + row * (rows - size) - state
    return MemoryEstimate(
        state_bytes=state, peak_bytes=state + round(LIBRARIES * batch), tried_rows=size
    )


def rows_at_once(config: TrainConfig, workers: int = 1) -> int:
    """Rows in the largest forward pass of a worker."""
    first, last = share(config.batch, workers - 1, workers)  # the last has one more, if any
    return min(config.micro_batch or last - first, last - first)


def _peak(config: TrainConfig, source: Source, rows: int) -> tuple[int, int]:
    """Bytes of the state between batches, and at the peak of a batch of `rows` rows."""
    with torch.random.fork_rng(devices=[]), TensorBytes() as tensors:
        small = replace(config, batch=rows, micro_batch=0, compile=False)
        state = TrainState(small)
        like = next(state.model.parameters())
        step = Step(small, state, SingleProcess())
        numbers = [row % len(source) for row in range(rows)]
        make = partial(batch_of, source, numbers, small.model.modality, like, small.data.on_error)
        batch, following = make(), make()  # the loader holds one that waits
        state.batches = math.lcm(*(phase.every for phase in state.phases)) - 1
        state.model.train()
        step(batch, {})  # the optimizers' moments are there from now on
        state.update_ema(small.ema_half_life, small.ema_warmup, rows)
        between, tensors.peak = tensors.now, tensors.now
        step(batch, {})
        del following
        return between, tensors.peak


class TensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made inside that are still alive, and the most at any time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or not size:
            return
        self._storages.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.now -= size


def resident_bytes() -> int:
    """Memory of this process, libraries included."""
    return int(psutil.Process().memory_info().rss)
