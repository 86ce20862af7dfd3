"""A GAN loop as one writes it by hand: two discriminator passes, default Adam, DDP under torchrun.

    python -m tests.bench.peers.torch_loop PRESET BATCHES THREADS
    torchrun --nproc-per-node 2 -m tests.bench.peers.torch_loop PRESET BATCHES THREADS

Prints samples/s over the last half of the batches. The networks, the objective and the data are
those of the preset; so is the auxiliary classifier.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from aigc import data, models


def main(preset: str, batches: int, threads: int) -> float:
    """Samples/s of the whole group."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = models.preset(preset)
    model = models.build(config)
    generator, discriminator = model.generator, model.discriminator
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
        # Two forwards per step: broadcasting buffers in between would break the first one's graph.
        generator = DistributedDataParallel(
            generator, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        discriminator = DistributedDataParallel(
            discriminator, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    optimizer_g = _adam(generator, config.model.generator_optimizer)
    optimizer_d = _adam(discriminator, config.model.discriminator_optimizer)
    dataset = data.load(config.data, config.model)
    pairs = TensorDataset(torch.from_numpy(dataset.samples), torch.from_numpy(dataset.labels))
    sampler = DistributedSampler(pairs) if world > 1 else None
    loader = DataLoader(
        pairs, config.batch // world, shuffle=sampler is None, sampler=sampler, drop_last=True
    )
    done, begun = 0, 0.0
    while done < batches:
        for real, label in loader:
            z = torch.randn(len(real), config.model.latent)
            fake = generator(z, label)
            optimizer_d.zero_grad()
            on_real, classes = discriminator(real, label)
            on_fake, _ = discriminator(fake.detach(), label)
            loss_d = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
            loss_d = loss_d + _auxiliary(classes, label, config.model.auxiliary)
            loss_d.backward()
            optimizer_d.step()
            optimizer_g.zero_grad()
            # Past DDP: nobody needs the discriminator's gradients of this step averaged.
            judge = discriminator.module if world > 1 else discriminator
            on_fake, classes = judge(fake, label)
            loss_g = F.softplus(-on_fake).mean()
            loss_g = loss_g + _auxiliary(classes, label, config.model.auxiliary)
            loss_g.backward()
            optimizer_g.step()
            done += 1
            if done == batches // 2:
                begun = time.perf_counter()
            if done >= batches:
                break
    speed = (batches - batches // 2) * config.batch / (time.perf_counter() - begun)
    if world > 1:
        dist.destroy_process_group()
    return speed


def _adam(network: nn.Module, options: object) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), options.learning_rate, options.betas)


def _auxiliary(classes: Tensor | None, label: Tensor, weight: float) -> Tensor | float:
    return 0.0 if classes is None else weight * F.cross_entropy(classes, label)


if __name__ == "__main__":
    speed = main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    if int(os.environ.get("RANK", "0")) == 0:
        print(speed)
