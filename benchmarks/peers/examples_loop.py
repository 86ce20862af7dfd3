"""The steps of the DCGAN recipe that the PyTorch examples made the field's habit, written anew.

    python -m benchmarks.peers.examples_loop PRESET BATCHES THREADS

Prints samples/s over the last half of the batches. The discriminator sees real and fake in passes
of their own, each with its backward; the generator's loss goes back through the discriminator,
whose gradients nobody uses; losses and verdicts are read with `.item()` in every batch. Here the
networks, optimizers and auxiliary head are those of the preset; the recipe's own networks, for
measuring quality, are in examples_networks.py.
"""

import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import task
from benchmarks.peers.steady import Steady


class Recipe:
    """One batch of training.

    generator(z: (N, latent), label: (N,)) -> (N, *shape) in [-1, 1]
    discriminator(x: (N, *shape), label) -> logits (N,), class logits (N, num_classes) or None
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        latent: int,
        auxiliary: float = 0.0,
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.optimizer_g, self.optimizer_d = optimizers
        self.latent, self.auxiliary = latent, auxiliary

    def step(self, real: Tensor, label: Tensor) -> dict[str, float]:
        """Train on one batch: losses and mean verdicts, as the recipe prints them."""
        self.discriminator.zero_grad()
        target = torch.full((len(real),), 1.0)
        verdict, classes = self.discriminator(real, label)
        loss_real = self._loss(verdict, target, classes, label)
        loss_real.backward()
        on_real = verdict.sigmoid().mean().item()

        fake = self.generator(torch.randn(len(real), self.latent), label)
        target.fill_(0.0)
        verdict, _ = self.discriminator(fake.detach(), label)
        loss_fake = self._loss(verdict, target, None, label)
        loss_fake.backward()
        on_fake_before = verdict.sigmoid().mean().item()
        self.optimizer_d.step()

        self.generator.zero_grad()
        target.fill_(1.0)
        verdict, classes = self.discriminator(fake, label)
        loss_g = self._loss(verdict, target, classes, label)
        loss_g.backward()
        on_fake_after = verdict.sigmoid().mean().item()
        self.optimizer_g.step()
        return {
            "discriminator": (loss_real + loss_fake).item(),
            "generator": loss_g.item(),
            "on_real": on_real,
            "on_fake_before": on_fake_before,
            "on_fake_after": on_fake_after,
        }

    def _loss(
        self, verdict: Tensor, target: Tensor, classes: Tensor | None, label: Tensor
    ) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(verdict, target)
        return loss if classes is None else loss + self.auxiliary * F.cross_entropy(classes, label)


def main(preset: str, batches: int, threads: int) -> float:
    """Samples/s with the networks of a preset."""
    config, model = task.start(preset, threads)
    options = config.model
    recipe = Recipe(
        model.generator,
        model.discriminator,
        (
            task.adam(model.generator, options.generator_optimizer),
            task.adam(model.discriminator, options.discriminator_optimizer),
        ),
        options.latent,
        options.auxiliary,
    )
    clock = Steady(batches, config.batch)
    for real, label in task.endless(task.tensors(config), config.batch):
        values = recipe.step(real, label)
        if clock.tick():
            break
    if not all(map(math.isfinite, values.values())):
        raise ArithmeticError(f"not finite: {values}")
    return clock.samples_per_second


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
