"""A GAN loop as one writes it by hand: two discriminator passes, default Adam, DDP under torchrun.

    python -m benchmarks.peers.torch_loop PRESET BATCHES THREADS [BATCH]
    torchrun --nproc-per-node 2 -m benchmarks.peers.torch_loop PRESET BATCHES THREADS [BATCH]

Prints samples/s over the last half of the batches. The networks, the objective and the data are
those of the preset; so is the auxiliary classifier.
"""

import os
import sys
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers import task
from benchmarks.peers.steady import Steady


def main(preset: str, batches: int, threads: int, batch: int = 0) -> float:
    """Samples/s of the whole group."""
    config, model = task.start(preset, threads)
    if batch:
        config = replace(config, batch=batch)
    weight = config.model.auxiliary
    generator, discriminator = model.generator, model.discriminator
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
        generator, discriminator = _parallel(generator), _parallel(discriminator)
    optimizer_g = task.adam(generator, config.model.generator_optimizer)
    optimizer_d = task.adam(discriminator, config.model.discriminator_optimizer)
    # Past DDP: nobody needs the discriminator's gradients of a generator step averaged.
    judge = discriminator.module if world > 1 else discriminator
    clock = Steady(batches, config.batch)
    for real, label in task.endless(task.tensors(config), config.batch, world):
        z = torch.randn(len(real), config.model.latent)
        fake = generator(z, label)
        optimizer_d.zero_grad()
        on_real, classes = discriminator(real, label)
        on_fake, _ = discriminator(fake.detach(), label)
        loss_d = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        loss_d = loss_d + _auxiliary(classes, label, weight)
        loss_d.backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        on_fake, classes = judge(fake, label)
        loss_g = F.softplus(-on_fake).mean() + _auxiliary(classes, label, weight)
        loss_g.backward()
        optimizer_g.step()
        if clock.tick():
            break
    if world > 1:
        dist.destroy_process_group()
    if not torch.isfinite(loss_d + loss_g):
        raise ArithmeticError(f"not finite: {loss_d}, {loss_g}")
    return clock.samples_per_second


def _parallel(network: nn.Module) -> DistributedDataParallel:
    """Tuned as its documentation says.

    Gradients are views of the buckets, the graph never changes, and no buffer is synced: with
    two forwards per step that would break the first one's graph.
    """
    return DistributedDataParallel(
        network, forward_sync_buffers=False, gradient_as_bucket_view=True, static_graph=True
    )


def _auxiliary(classes: Tensor | None, label: Tensor, weight: float) -> Tensor | float:
    return 0.0 if classes is None else weight * F.cross_entropy(classes, label)


if __name__ == "__main__":
    speed = main(sys.argv[1], *map(int, sys.argv[2:]))
    if int(os.environ.get("RANK", "0")) == 0:
        print(speed)
