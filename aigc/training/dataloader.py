"""Batches of the loop: one worker's rows of every global batch, read ahead, on its device."""

import functools
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from aigc import data
from aigc.artifact.store import store_errors
from aigc.config import TrainConfig
from aigc.data import CorruptRow, Dataset, Read, Source, share
from aigc.model import Batch
from aigc.own_code import code_files

Stream = Callable[[int], Iterator[Read]]
"""From the samples seen at its start: one item per global batch, this worker's rows of it."""

PREFETCH = 4
"""Batches that each loader process keeps ready."""
DEVICE_SHARE = 0.25
"""Largest share of a GPU's free memory for a data set that is held there."""


class BatchLoader:
    """Endless batches of one worker, from `start` samples seen on.

    loader = BatchLoader(config, source, rank=0, world_size=1, start=0, like=weight)
    batch = next(loader)     # {"image": (rows, C, H, W) in [-1, 1], "label": (rows,) int64}

    Rows are a function of (seed, epoch, position) alone. Samples have the dtype and device of
    `like`; tokens stay int64. A field of records is a tensor of its own. Raises data.CorruptRow if
    a row cannot be read and none is to be skipped, OSError if its file or store cannot be reached.
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        *,
        rank: int,
        world_size: int,
        start: int,
        like: Tensor,
        stream: Stream | None = None,
    ) -> None:
        self.skipped: list[str] = []
        """A message for each row that could not be read."""
        self._waited_s, self._counted = 0.0, 0
        self._key, self._like, self._world_size = config.model.modality, like, world_size
        rows = functools.partial(shard_indices, config, source, rank, world_size, start)
        # __next__ takes items, not a map over self._to_batch: in a reference cycle with this object
        # the loader's processes would end only when garbage is collected, after seconds for each.
        self._items: Iterator[Any] = iter(())
        self._batches: Iterator[Batch] | None = None
        if stream is not None:
            self._items = stream(start)
        elif isinstance(source, Dataset):
            self.skipped = list(source.skipped) if rank == 0 else []
            self._batches = self._memory(source, rows())
        else:
            self._items = _loader(config, source, rows, world_size)

    def __iter__(self) -> "BatchLoader":
        return self

    def __next__(self) -> Batch:
        begun = time.perf_counter()
        taken = self._to_batch(next(self._items)) if self._batches is None else next(self._batches)
        batch = {name: to_model_input(value, self._like) for name, value in taken.items()}
        self._waited_s = time.perf_counter() - begun
        return batch

    def metrics(self) -> dict[str, float]:
        """Mean seconds waited and rows skipped in the last batch, to be summed over the workers."""
        new = len(self.skipped) - self._counted
        self._counted = len(self.skipped)
        return {"data/wait_s": self._waited_s / self._world_size, "data/skipped": float(new)}

    def _memory(self, source: Dataset, rows: Iterator[NDArray[np.int64]]) -> Iterator[Batch]:
        """The whole data set on the device where it fits there, on the host otherwise."""
        held = as_batch(source.samples, source.labels, self._key)
        for name, value in held.items():
            if value.is_floating_point():
                held[name] = value.to(self._like.dtype)
        device = self._like.device
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if sum(value.nbytes for value in held.values()) > DEVICE_SHARE * free:
                for chosen in rows:
                    index = torch.from_numpy(chosen)
                    yield self._to_device({k: v[index].pin_memory() for k, v in held.items()})
            held = {name: value.pin_memory() for name, value in held.items()}
        held = self._to_device(held)
        for chosen in rows:
            index = torch.from_numpy(chosen)
            if device.type == "cuda":
                index = index.pin_memory()
            index = index.to(device, non_blocking=True)
            yield {name: value[index] for name, value in held.items()}

    def _to_batch(self, item: Any) -> Batch:
        """The batch of an item of a stream, or of the loader, whose samples are tensors by name."""
        samples, labels, messages = item
        if samples is None:
            raise (OSError if int(labels[0]) == _OUT_OF_REACH else CorruptRow)(messages[0])
        self.skipped += messages
        if isinstance(samples, dict):
            return self._to_device({**samples, "label": labels})
        return self._to_device(as_batch(samples, labels, self._key))

    def _to_device(self, batch: Batch) -> Batch:
        device = self._like.device
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def batch_of(
    source: Source,
    rows: Sequence[int],
    modality: str,
    like: Tensor,
    on_error: Literal["stop", "skip"],
) -> Batch:
    """Rows of a source as a batch with the dtype and device of `like`.

    Raises CorruptRow as data.gather() does.
    """
    samples, labels = data.gather(source, rows, on_error)
    taken = as_batch(samples, labels, modality)
    return {name: to_model_input(value, like) for name, value in taken.items()}


def as_batch(samples: NDArray[Any], labels: NDArray[np.int64], key: str) -> Batch:
    """Samples (n, *shape) under `key`, or each field of records (n,) under its own name, and
    labels."""
    fields = samples.dtype.names
    named = {name: samples[name] for name in fields} if fields else {key: samples}
    batch = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in named.items()}
    return {**batch, "label": torch.from_numpy(labels)}


def to_model_input(samples: Tensor, like: Tensor) -> Tensor:
    """Samples as a model takes them: on the device of `like`, uint8 scaled to [-1, 1], floats in
    its dtype, int64 unchanged."""
    if samples.dtype == torch.int64:
        return samples.to(like.device)
    if samples.dtype == torch.uint8:
        samples = samples.to(like).div_(127.5).sub_(1)
    samples = samples.to(like)
    return samples.contiguous(memory_format=memory_format(samples))


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for images (N, C, H, W): convolutions are faster, on CPUs too."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def shard_indices(
    config: TrainConfig, source: Source, rank: int, world_size: int, start: int
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of this worker's share of every global batch, without end."""
    order = functools.lru_cache(2)(source.order)
    low, high = share(config.batch, rank, world_size)
    while True:
        yield data.rows(config.seed, start + low, start + high, len(source), order)
        start += config.batch


_OUT_OF_REACH = -2
"""Label of a row whose file or store cannot be read now, but perhaps at another start."""


class _Reading:
    """A map-style data set for DataLoader; runs in its processes."""

    def __init__(self, source: Source, path: str, on_error: Literal["stop", "skip"]) -> None:
        self._source, self._path, self._on_error = source, path, on_error

    def __getstate__(self) -> dict[str, Any]:
        """For processes that are not forked: the source as bytes, which need its code first."""
        state = {**self.__dict__, "_source": pickle.dumps(self._source)}
        return {"code": code_files.carried(), "state": state}

    def __setstate__(self, sent: dict[str, Any]) -> None:
        code_files.install(sent["code"])
        self.__dict__.update(sent["state"])
        self._source = pickle.loads(sent["state"]["_source"])

    def __getitem__(self, row: int) -> tuple[NDArray[Any] | None, int, str | None]:
        try:
            with store_errors(self._path):
                return data.read(self._source, int(row), self._on_error)
        except (CorruptRow, OSError) as error:
            # Raised by the BatchLoader, without a process's traceback.
            return None, -1 if isinstance(error, CorruptRow) else _OUT_OF_REACH, str(error)


class _Forever:
    """A batch sampler without an end."""

    def __init__(self, rows: Callable[[], Iterator[NDArray[np.int64]]]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        return (chosen.tolist() for chosen in self._rows())


def _loader(
    config: TrainConfig,
    source: Source,
    rows: Callable[[], Iterator[NDArray[np.int64]]],
    world_size: int,
) -> Iterator[Any]:
    """Loader processes that read and decode ahead; batches come in the order of their rows."""
    spare = (os.cpu_count() or 1) // world_size
    processes = config.data.loaders or min(8, max(1, spare))
    loader: Any = DataLoader
    return iter(
        loader(
            _Reading(source, config.data.path, config.data.on_error),
            batch_sampler=_Forever(rows),
            num_workers=processes,
            prefetch_factor=PREFETCH,
            collate_fn=functools.partial(_collate, config.model.modality),
            pin_memory=torch.cuda.is_available(),
            # A generator of its own: DataLoader draws a number from the default one, which would
            # change what is trained.
            generator=torch.Generator(),
        )
    )


def _collate(
    key: str, rows: list[tuple[NDArray[Any] | None, int, str | None]]
) -> tuple[Batch | None, Tensor, list[str]]:
    messages = [text for _, _, text in rows if text is not None]
    for sample, label, text in rows:
        if sample is None:
            return None, torch.tensor([label]), [str(text)]
    labels = np.array([label for _, label, _ in rows], np.int64)
    batch = as_batch(np.stack([s for s, _, _ in rows if s is not None]), labels, key)
    return batch, batch.pop("label"), messages
