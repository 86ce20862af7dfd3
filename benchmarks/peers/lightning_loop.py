"""A GAN in Lightning with manual optimization, in the shape that its documentation shows.

    .venv-bench/bin/python -m benchmarks.peers.lightning_loop PRESET BATCHES THREADS

Prints samples/s over the last half of the batches. Logger, checkpoints, progress bar and summary
are off; the networks, the objective and the data are those of the preset.
"""

import logging
import sys
import warnings
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import task
from benchmarks.peers.steady import Steady


class ConditionalGAN(L.LightningModule):
    """Discriminator, then generator, in one training step."""

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.generator, self.discriminator = model.generator, model.discriminator

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        optimizer_g, optimizer_d = self.optimizers()
        real, label = batch
        fake = self.generator(torch.randn(len(real), self.config.model.latent), label)

        on_real, classes = self.discriminator(real, label)
        on_fake, _ = self.discriminator(fake.detach(), label)
        loss_d = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        optimizer_d.zero_grad()
        self.manual_backward(loss_d + self._auxiliary(classes, label))
        optimizer_d.step()

        on_fake, classes = self.discriminator(fake, label)
        loss_g = F.softplus(-on_fake).mean()
        optimizer_g.zero_grad()
        self.manual_backward(loss_g + self._auxiliary(classes, label))
        optimizer_g.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        options = self.config.model
        return [
            task.adam(self.generator, options.generator_optimizer),
            task.adam(self.discriminator, options.discriminator_optimizer),
        ]

    def _auxiliary(self, classes: Tensor | None, label: Tensor) -> Tensor | float:
        weight = self.config.model.auxiliary
        return 0.0 if classes is None else weight * F.cross_entropy(classes, label)


class Ticks(L.Callback):
    """Ticks the clock after each batch and stops at the last."""

    def __init__(self, clock: Steady) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: L.Trainer, *unused: Any) -> None:
        if self.clock.tick():
            trainer.should_stop = True


def main(preset: str, batches: int, threads: int) -> float:
    """Samples/s."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    config, model = task.start(preset, threads)
    clock = Steady(batches, config.batch)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        callbacks=[Ticks(clock)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = task.bulk_loader(task.tensors(config), config.batch)
    trainer.fit(ConditionalGAN(config, model), loader)
    return clock.samples_per_second


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
