"""All randomness of a batch: a function of (seed, purpose, samples seen, index in the batch)."""

import hashlib

import torch
from torch import Tensor

from aigc.config.schedule import Scheduled, value_at


class BatchRNG:
    """Random tensors for rows start..stop of a global batch.

    Every worker draws for the whole global batch and keeps its rows, so the values of a row depend
    neither on the number of workers nor on restarts. Each draw of a batch needs another purpose.
    """

    def __init__(
        self,
        seed: int,
        samples: int,
        batch: int,
        start: int,
        stop: int,
        like: Tensor,
        total: int = 1,
    ) -> None:
        self._key = f"{seed}/{samples}"
        self.samples = samples
        """Samples seen before this batch."""
        self._total = total
        self._batch, self._rows = batch, slice(start, stop)
        self._dtype, self._device = like.dtype, like.device
        self._generator = torch.Generator(like.device)
        self.size = stop - start

    @property
    def batches(self) -> int:
        """Batches before this one."""
        return self.samples // self._batch

    def at(self, number: Scheduled) -> float:
        """Value for this batch of a number that changes during the run."""
        return value_at(number, self.samples, self._total)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """(rows, *shape) standard normal."""
        return torch.randn(
            self._batch,
            *shape,
            generator=self._seeded(purpose),
            dtype=self._dtype,
            device=self._device,
        )[self._rows]

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """(rows, *shape) uniform in [0, 1)."""
        return torch.rand(
            self._batch,
            *shape,
            generator=self._seeded(purpose),
            dtype=self._dtype,
            device=self._device,
        )[self._rows]

    def integers(self, purpose: str, high: int) -> Tensor:
        """(rows,) int64 in [0, high)."""
        generator = self._seeded(purpose)
        return torch.randint(high, (self._batch,), generator=generator, device=self._device)[
            self._rows
        ]

    def one_row(self, purpose: str, n: int) -> Tensor:
        """(rows, n): 1 where a row is the one of the global batch that a draw chose, 0 elsewhere.

        Each of the n draws chooses a row of its own: products with it, summed over the rows of all
        workers, are values of single rows.
        """
        generator = self._seeded(purpose)
        chosen = torch.randint(self._batch, (n,), generator=generator, device=self._device)
        every = torch.arange(self._batch, device=self._device)
        return (every[:, None] == chosen).to(self._dtype)[self._rows]

    def _seeded(self, purpose: str) -> torch.Generator:
        return self._generator.manual_seed(derive_seed(f"{self._key}/{purpose}"))


def derive_seed(key: str) -> int:
    """A 63-bit seed from a text."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1


def reseed(key: str, device: torch.device) -> None:
    """Seed torch's default generators, which layers such as Dropout draw from.

    torch.manual_seed does the same for every kind of device, and formats a stack trace for each
    absent one, which takes over a millisecond per batch on a machine with a GPU.
    """
    seed = derive_seed(key)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
