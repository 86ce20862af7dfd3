"""A VAE loop as one writes it by hand, on the networks of a preset.

    python -m tests.bench.peers.vae_loop PRESET BATCHES THREADS

Prints samples/s over the last half of the batches.
"""

import sys
import time

import torch
from torch.utils.data import DataLoader

from aigc import losses, models
from tests.bench.peers.examples_loop import tensors


def main(preset: str, batches: int, threads: int) -> float:
    """Samples/s."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = models.preset(preset)
    model = models.build(config)
    options = config.model.optimizer
    optimizer = torch.optim.Adam(model.parameters(), options.learning_rate, options.betas)
    dataset, done, begun = tensors(preset), 0, 0.0
    while done < batches:
        for x, label in DataLoader(dataset, config.batch, shuffle=True, drop_last=True):
            mu, logvar = model.encoder(x, label).chunk(2, 1)
            z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
            likelihood = losses.bernoulli_log_likelihood(model.decoder(z, label), (x + 1) / 2)
            loss = (losses.gaussian_kl(mu, logvar) - likelihood).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == batches // 2:
                begun = time.perf_counter()
            if done >= batches:
                break
    return (batches - batches // 2) * config.batch / (time.perf_counter() - begun)


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
