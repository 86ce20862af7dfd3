"""A VAE loop as one writes it by hand: torch's own losses, default Adam.

    python -m benchmarks.peers.vae_loop PRESET BATCHES THREADS

Prints samples/s over the last half of the batches. Encoder, decoder and data are those of the
preset, and so is the objective: binary cross-entropy of the pixels and the Gaussian KL.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import task
from benchmarks.peers.steady import Steady


def main(preset: str, batches: int, threads: int) -> float:
    """Samples/s."""
    config, model = task.start(preset, threads)
    optimizer = task.adam(model, config.model.optimizer)
    clock = Steady(batches, config.batch)
    for x, label in task.endless(task.tensors(config), config.batch):
        optimizer.zero_grad()
        mu, logvar = model.encoder(x, label).chunk(2, 1)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        loss = negative_elbo(model.decoder(z, label), x, mu, logvar)
        loss.backward()
        optimizer.step()
        if clock.tick():
            break
    if not torch.isfinite(loss):
        raise ArithmeticError(f"not finite: {loss}")
    return clock.samples_per_second


def negative_elbo(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Nats per sample; logits and x: (N, C, H, W), x in [-1, 1]; mu and logvar: (N, latent)."""
    pixels = F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.square() - logvar.exp())
    return (pixels + kl) / len(x)


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
