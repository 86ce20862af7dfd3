"""Processes joined by gloo, without Ray: shared batch statistics make N workers one."""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from aigc import data
from aigc.config import TrainConfig
from aigc.training import checkpoint, gradient_buckets
from aigc.training.loop import TrainState, train
from aigc.training.object_store import NullStore
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext
from cluster import collectives
from cluster.collectives import ProcessGroup, SharedBatchNorm
from tests.test_own_models import shown
from tests.training import coupled_gan
from tests.training.small_runs import BLURRED, differing, finish, float64, small, worst

pytestmark = pytest.mark.process


def _worker(rank: int, world: int, folder: str, function: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _spawn(folder: Path, world: int, function: Any, *arguments: Any) -> Any:
    """Start a function on each of `world` processes, forked by one that has imported all."""
    folder.mkdir()
    multiprocessing.set_forkserver_preload([__name__, "torch._dynamo"])  # every optimizer's
    rest = (world, str(folder), function, arguments)
    return mp.start_processes(_worker, rest, world, join=False, start_method="forkserver")


def together(folder: Path, world: int, function: Any, *arguments: Any) -> list[Any]:
    """Results of a function on each of `world` processes."""
    context = _spawn(folder, world, function, *arguments)
    while not context.join():
        pass
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _train(config: TrainConfig) -> dict[str, Tensor]:
    state = TrainState(config)
    train(config, state, data.load(config.data, config.model), group=ProcessGroup())
    return checkpoint.tensors(state)


def test_sync_batch_norm_makes_two_workers_equal_one(tmp_path: Path) -> None:
    config = float64("dcgan:digits", batch=15, sync_batch_norm=True)  # shares of 7 and 8
    one = finish(config)
    shared = together(tmp_path / "shared", 2, _train, config)
    assert worst(one, shared[0]) < 1e-9
    # Without it each worker has statistics of its own, and another result.
    own = together(tmp_path / "own", 2, _train, replace(config, sync_batch_norm=False))
    assert worst(one, own[0]) > 1e-6


def test_recomputed_batch_norm_of_two_workers_changes_no_bit(tmp_path: Path) -> None:
    config = small("dcgan:digits", samples=16 * 2, sync_batch_norm=True)
    plain = together(tmp_path / "plain", 2, _train, config)
    less = together(tmp_path / "less", 2, _train, replace(config, activation_checkpointing=True))
    assert differing(plain[0], less[0]) == differing(plain[1], less[1]) == []


def test_micro_batches_of_two_workers_equal_one(tmp_path: Path) -> None:
    config = float64("fc_gan:mlp", samples=16 * 8)
    two = together(tmp_path / "two", 2, _train, replace(config, micro_batch=3))
    assert worst(finish(config), two[0]) < 1e-9
    assert worst(two[1], two[0]) == 0


def _train_own(paths: list[str]) -> list[dict[str, Tensor]]:
    """States of each model at whole shares, in micro-batches, and with gradients in buckets."""
    found = []
    for path in paths:
        for micro_batch, kind in ((0, ProcessGroup), (3, ProcessGroup), (3, _Overlapping)):
            config = float64(path, samples=16 * 4, micro_batch=micro_batch)
            state = TrainState(config)
            train(config, state, data.load(config.data, config.model), group=kind())
            found.append(checkpoint.tensors(state))
    return found


def test_losses_of_the_whole_batch_are_those_of_one_worker(tmp_path: Path) -> None:
    """One worker has the sums with their graph; others know their values and slopes."""
    paths = [str(shown(tmp_path) / "decorrelated.py"), coupled_gan.__file__]
    two = together(tmp_path / "two", 2, _train_own, paths)
    for number, path in enumerate(paths):
        whole = finish(float64(path, samples=16 * 4))
        parts = finish(float64(path, samples=16 * 4, micro_batch=5))
        assert 0 < worst(whole, parts) < 1e-9
        for kind in range(3 * number, 3 * number + 3):
            assert 0 < worst(whole, two[0][kind]) < 1e-9
            assert differing(two[0][kind], two[1][kind]) == []


class _Overlapping(ProcessGroup):
    """Sends gradients in buckets, as on GPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.overlaps = True


def _train_in_buckets(config: TrainConfig, bucket_bytes: int) -> dict[str, Tensor]:
    gradient_buckets.BUCKET_BYTES = bucket_bytes
    group, state = _Overlapping(), TrainState(config)
    train(config, state, data.load(config.data, config.model), group=group)
    return checkpoint.tensors(state)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_gradients_in_buckets_equal_the_flat_sum(tmp_path: Path, micro_batch: int) -> None:
    config = small("dcgan:digits", samples=16 * 4, micro_batch=micro_batch)
    flat = together(tmp_path / "flat", 2, _train, config)
    buckets = together(tmp_path / "buckets", 2, _train_in_buckets, config, 1 << 12)
    assert differing(flat[0], buckets[0]) == differing(flat[1], buckets[1]) == []


def test_gradients_in_buckets_of_four_workers_equal_the_flat_sum(tmp_path: Path) -> None:
    # Gloo adds four numbers in another order where another worker begins: float64 bounds it.
    config = float64("fc_gan:mlp", batch=10, samples=10 * 4)
    flat = together(tmp_path / "flat", 4, _train, config)
    first, *others = together(tmp_path / "buckets", 4, _train_in_buckets, config, 1 << 12)
    assert worst(flat[0], first) < 1e-9
    assert all(differing(first, other) == [] for other in others)
    again = together(tmp_path / "again", 4, _train_in_buckets, config, 1 << 12)
    assert differing(first, again[0]) == []


def _resumed(config: TrainConfig, folder: str) -> None:
    """A run to its end, and from a copy of its middle to the end."""
    group, source = ProcessGroup(), data.load(config.data, config.model)
    whole, again = Run(Path(folder, "whole")), Run(Path(folder, "again"))
    if group.rank == 0:
        whole.create(config)
    train_run(RunContext(store=NullStore(whole.folder)), config, source, group)
    if group.rank == 0:
        shutil.copytree(whole.folder, again.folder)
        shutil.rmtree(max(again.checkpoints.iterdir()))
    dist.barrier()
    train_run(RunContext(store=NullStore(again.folder)), config, source, group)


def test_texts_resume_bit_equal_on_two_workers(tmp_path: Path) -> None:
    """With all that is random in a text model: its noise is by row, whoever has the row."""
    config = small("text_vae:numbers", samples=16 * 8, checkpoint_interval=16 * 4, **BLURRED)
    together(tmp_path / "two", 2, _resumed, config, str(tmp_path))
    whole, again = Run(tmp_path / "whole"), Run(tmp_path / "again")
    assert [start["samples"] for start in again.starts()] == [0, 16 * 4]
    assert again.facts()["workers"] == 2
    states = [checkpoint.tensors(run.load_state()) for run in (whole, again)]
    assert differing(*states) == []


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


def test_shared_batch_norm_equals_batch_norm_of_the_whole_batch(tmp_path: Path) -> None:
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


def _sums(sizes: list[int], folder: str) -> list[Tensor]:
    """Sums of tensors that differ by rank, by ProcessGroup and by gloo alone."""
    collectives.FOLDER = Path(folder)
    group = ProcessGroup()
    found = []
    for call, size in enumerate(sizes):
        dtype = torch.float64 if call % 2 else torch.float32
        own = torch.randn(size, generator=torch.Generator().manual_seed(group.rank), dtype=dtype)
        ours, gloos = own.clone(), own.clone()
        group.all_reduce(ours)
        dist.all_reduce(gloos)
        assert torch.allclose(ours, gloos, atol=1e-5)
        assert group.world_size > 2 or torch.equal(ours, gloos)
        found.append(ours)
    used = group._shared._memory is not None
    return [*found, torch.tensor(used)]


SIZES = [40_001, 40_001, 7, 40_001, 300_003, 40_001, 90_000, 300_003]


@pytest.mark.parametrize("world", [2, 3])
def test_shared_memory_sums_equal_gloo_s(tmp_path: Path, world: int) -> None:
    before = set(collectives.FOLDER.glob("aigc-*"))
    first, *others = together(tmp_path / "sums", world, _sums, SIZES, str(collectives.FOLDER))
    assert first[-1], "shared memory was not used"
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert set(collectives.FOLDER.glob("aigc-*")) == before


def test_all_reduce_works_without_shared_memory(tmp_path: Path) -> None:
    folder = str(tmp_path / "there-is-none")
    first, other = together(tmp_path / "sums", 2, _sums, SIZES, folder)
    assert not first[-1]
    assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def _until_killed() -> str:
    group = ProcessGroup()
    flat = torch.ones(100_000)
    group.all_reduce(flat)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RuntimeError):
        group.all_reduce(flat)
    Path("survivor").write_text("saw it")
    return "saw it"


def test_all_reduce_fails_after_a_worker_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for process in _spawn(tmp_path / "killed", 2, _until_killed).processes:
        process.join(60)
    assert Path("survivor").read_text() == "saw it"
