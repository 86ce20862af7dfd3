"""pythae's BaseTrainer on the networks and the objective of a VAE preset.

    .venv-bench/bin/python -m benchmarks.peers.pythae_trainer PRESET BATCHES THREADS

Prints samples/s over the last half of the batches. Its trainer brings its own DataLoader, row by
row, and reads the loss in every batch; log lines and progress bars are off.
"""

import logging
import math
import os
import sys
import tempfile
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # read where pythae imports tqdm

from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from benchmarks.peers import task
from benchmarks.peers.steady import Steady
from benchmarks.peers.vae_loop import negative_elbo


class Encoder(BaseEncoder):  # type: ignore[misc]
    """The preset's encoder as pythae wants one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor) -> Any:
        mu, logvar = self.network(x, label).chunk(2, 1)
        return ModelOutput(embedding=mu, log_covariance=logvar)


class Decoder(BaseDecoder):  # type: ignore[misc]
    """The preset's decoder as pythae wants one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, label: Tensor) -> Any:
        return ModelOutput(reconstruction=self.network(z, label))


class ConditionalVAE(VAE):  # type: ignore[misc]
    """pythae's VAE, whose networks are given the label."""

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        x, label = inputs["data"], inputs["labels"].long()
        moments = self.encoder(x, label)
        mu, logvar = moments.embedding, moments.log_covariance
        z, _ = self._sample_gauss(mu, (0.5 * logvar).exp())
        logits = self.decoder(z, label).reconstruction
        return ModelOutput(loss=negative_elbo(logits, x, mu, logvar), recon_x=logits, z=z)


class Ticks(TrainingCallback):  # type: ignore[misc]
    """Ticks the clock after each batch."""

    def __init__(self, clock: Steady) -> None:
        self.clock = clock

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        self.clock.tick()


def main(preset: str, batches: int, threads: int) -> float:
    """Samples/s."""
    logging.disable(logging.INFO)
    config, model = task.start(preset, threads)
    samples, labels = task.tensors(config).tensors
    epoch = len(samples) // config.batch  # whole batches only: pythae drops no last one
    rows = epoch * config.batch
    options = VAEConfig(input_dim=config.model.shape, latent_dim=config.model.latent)
    clock = Steady(batches, config.batch)
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            ConditionalVAE(options, Encoder(model.encoder), Decoder(model.decoder)),
            BaseDataset(samples[:rows], labels[:rows]),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=config.batch,
                num_epochs=math.ceil(batches / epoch),
                learning_rate=config.model.optimizer.learning_rate,
                optimizer_params={"betas": config.model.optimizer.betas},
                no_cuda=True,
            ),
            callbacks=[Ticks(clock)],
        )
        trainer.train()
    return clock.samples_per_second


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
