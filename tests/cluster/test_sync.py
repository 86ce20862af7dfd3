"""Processes joined by gloo, without Ray: shared batch statistics make N workers one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from aigc import checkpoint, data
from aigc.config import TrainConfig
from aigc.train import TrainState, train
from cluster.sync import ProcessGroup, SharedBatchNorm
from tests.test_step import float64, worst
from tests.test_train import finish


def _worker(rank: int, world: int, folder: str, function: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def together(folder: Path, world: int, function: Any, *arguments: Any) -> list[Any]:
    """What a function returns on each of `world` processes."""
    folder.mkdir()
    mp.spawn(_worker, (world, str(folder), function, arguments), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _train(config: TrainConfig) -> dict[str, Tensor]:
    state = TrainState(config)
    train(config, state, data.load(config.data, config.model), sync=ProcessGroup())
    return checkpoint.tensors(state)


def test_shared_batch_norm_makes_two_workers_one(tmp_path: Path) -> None:
    config = float64("dcgan:digits", batch=15, sync_batch_norm=True)  # shares of 7 and 8
    one = finish(config)
    shared = together(tmp_path / "shared", 2, _train, config)
    assert worst(one, shared[0]) < 1e-9
    # Without it each worker has statistics of its own, and another result.
    own = together(tmp_path / "own", 2, _train, replace(config, sync_batch_norm=False))
    assert worst(one, own[0]) > 1e-6


def test_parts_of_shares_are_the_whole(tmp_path: Path) -> None:
    config = float64("fc_gan:mlp", samples=16 * 8)
    two = together(tmp_path / "two", 2, _train, replace(config, micro_batch=3))
    assert worst(finish(config), two[0]) < 1e-9
    assert worst(two[1], two[0]) == 0


def _normalised(x: Tensor) -> tuple[Tensor, ...]:
    rank, world = dist.get_rank(), dist.get_world_size()
    norm = SharedBatchNorm(nn.BatchNorm2d(3).double())
    part = x.tensor_split([4])[rank] if world > 1 else x
    part = part.clone().requires_grad_()
    y = norm(part)
    (gradient,) = torch.autograd.grad((y.sin() * 2).sum(), part)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return y.detach(), gradient, norm.running_mean, norm.running_var


def test_statistics_and_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    x = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = nn.BatchNorm2d(3).double()
    whole = x.clone().requires_grad_()
    y = norm(whole)
    (gradient,) = torch.autograd.grad((y.sin() * 2).sum(), whole)
    a, b = together(tmp_path / "two", 2, _normalised, x)
    assert torch.allclose(torch.cat([a[0], b[0]]), y, atol=1e-12)
    assert torch.allclose(torch.cat([a[1], b[1]]), gradient, atol=1e-12)
    for found, expected in ((a[2], norm.running_mean), (a[3], norm.running_var)):
        assert torch.allclose(found, expected, atol=1e-12)
