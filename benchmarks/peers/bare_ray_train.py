"""As little Ray Train as trains a GAN: one worker, the hand-written step, nothing kept.

    python -m benchmarks.peers.bare_ray_train PRESET BATCHES FOLDER

Writes FOLDER/first after the first batch.
"""

import sys
from pathlib import Path
from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def train_worker(arguments: dict[str, Any]) -> None:
    """The whole training function."""
    import torch.nn.functional as F

    from benchmarks.peers import task

    config, model = task.start(arguments["preset"], 1)
    optimizer_g = task.adam(model.generator, config.model.generator_optimizer)
    optimizer_d = task.adam(model.discriminator, config.model.discriminator_optimizer)
    batches = task.endless(task.tensors(config), config.batch)
    for number in range(arguments["batches"]):
        real, label = next(batches)
        fake = model.generator(real.new_empty(len(real), config.model.latent).normal_(), label)
        on_real, classes = model.discriminator(real, label)
        on_fake, _ = model.discriminator(fake.detach(), label)
        loss_d = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        optimizer_d.zero_grad()
        (loss_d + F.cross_entropy(classes, label)).backward()
        optimizer_d.step()
        on_fake, classes = model.discriminator(fake, label)
        optimizer_g.zero_grad()
        (F.softplus(-on_fake).mean() + F.cross_entropy(classes, label)).backward()
        optimizer_g.step()
        if number == 0:
            (Path(arguments["folder"]) / "first").touch()


if __name__ == "__main__":
    preset, count, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    TorchTrainer(
        train_worker,
        train_loop_config={"preset": preset, "batches": count, "folder": folder},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=folder),
    ).fit()
