"""The steps of the DCGAN recipe that most tutorials teach, on any preset's networks.

    python -m tests.bench.peers.examples_loop PRESET BATCHES THREADS

Two discriminator passes with a backward each; the generator's step goes back through the
discriminator, whose gradients are thrown away; losses are read on the host after every batch.
Prints samples/s over the last half of the batches.
"""

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from aigc import data, models
from tests.bench.peers.torch_loop import _auxiliary


def steps(
    generator: nn.Module,
    discriminator: nn.Module,
    dataset: TensorDataset,
    *,
    latent: int,
    batch: int,
    auxiliary: float,
    rate: float,
    betas: tuple[float, float],
    after: Callable[[int], bool],
) -> list[float]:
    """Train until `after(batches done)` is true; returns the last losses."""
    optimizer_g = torch.optim.Adam(generator.parameters(), rate, betas)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), rate, betas)
    done = 0
    while True:
        for real, label in DataLoader(dataset, batch, shuffle=True, drop_last=True):
            discriminator.zero_grad()
            on_real, classes = discriminator(real, label)
            loss_real = F.softplus(-on_real).mean() + _auxiliary(classes, label, auxiliary)
            loss_real.backward()
            fake = generator(torch.randn(len(real), latent), label)
            on_fake, _ = discriminator(fake.detach(), label)
            loss_fake = F.softplus(on_fake).mean()
            loss_fake.backward()
            optimizer_d.step()
            generator.zero_grad()
            on_fake, classes = discriminator(fake, label)
            loss_g = F.softplus(-on_fake).mean() + _auxiliary(classes, label, auxiliary)
            loss_g.backward()
            optimizer_g.step()
            losses = [loss_real.item(), loss_fake.item(), loss_g.item()]
            done += 1
            if after(done):
                return losses


def tensors(preset: str, path: str = "") -> TensorDataset:
    """The preset's training data; with a path, MNIST-format files."""
    from dataclasses import replace

    from aigc.config import DataConfig

    config = models.preset(preset)
    if path:
        config = replace(config, data=DataConfig(source="idx", path=path))
    source = data.whole(data.load(config.data, config.model))
    return TensorDataset(
        torch.from_numpy(data.scaled(source.samples)), torch.from_numpy(source.labels)
    )


def main(preset: str, batches: int, threads: int) -> float:
    """Samples/s."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = models.preset(preset)
    model = models.build(config)
    begun: list[float] = []

    def after(done: int) -> bool:
        if done == batches // 2:
            begun.append(time.perf_counter())
        return done >= batches

    options = config.model.generator_optimizer
    steps(
        model.generator,
        model.discriminator,
        tensors(preset),
        latent=config.model.latent,
        batch=config.batch,
        auxiliary=config.model.auxiliary,
        rate=options.learning_rate,
        betas=options.betas,
        after=after,
    )
    return (batches - batches // 2) * config.batch / (time.perf_counter() - begun[0])


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
