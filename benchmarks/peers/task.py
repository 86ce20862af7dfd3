"""The task of every peer: the networks, the data and the options of a preset, and no loop.

The networks are made of torch's own layers: what ours do for speed is part of what is compared.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from aigc import data, models
from aigc.config import TrainConfig


def start(preset: str, threads: int) -> tuple[TrainConfig, Any]:
    """Config and freshly initialised model of a preset, after the thread count is set."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = models.preset(preset)
    return config, plain(models.build(config).train())


def plain(model: nn.Module) -> nn.Module:
    """The same parameters and the same functions, each layer as torch has it."""
    for layer in model.modules():
        if not [*layer.children()]:
            kinds = (kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn"))
            layer.__class__ = next(kinds)
    return model


def tensors(config: TrainConfig) -> TensorDataset:
    """The training split in memory: (N, *shape) float32 in [-1, 1], labels (N,)."""
    dataset = data.whole(data.load(config.data, config.model))
    return TensorDataset(
        torch.from_numpy(data.scaled(dataset.samples)), torch.from_numpy(dataset.labels)
    )


def endless(pairs: TensorDataset, batch: int, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, epoch after epoch; each is read with one index, not row by row.

    torch's documentation calls it "loading from batched data"; row by row costs a peer more.
    """
    loader = bulk_loader(pairs, batch // world, world)
    while True:
        yield from loader


def bulk_loader(pairs: TensorDataset, batch: int, world: int = 1) -> Any:
    """A DataLoader over whole batches."""
    rows = DistributedSampler(pairs) if world > 1 else RandomSampler(pairs)
    return DataLoader(pairs, batch_size=None, sampler=BatchSampler(rows, batch, drop_last=True))


def adam(network: nn.Module, options: Any) -> torch.optim.Adam:
    """torch's Adam as it comes, with the learning rate and betas of the preset."""
    return torch.optim.Adam(network.parameters(), options.learning_rate, options.betas)
