"""WaveGAN (Donahue et al. 2019, arXiv:1802.04208): raw waveforms, by a GAN for GPUs.

Minutes of one core do not make it intelligible: there `audio_vae` and `spectrogram_gan` speak. Its
preset is the paper's WGAN-GP at a quarter of its length, conditional by projection.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require
from aigc.gan import GAN, GANConfig
from aigc.model import Batch
from aigc.nn.layers import DiscriminatorHead, activation, check_positive, condition
from aigc.nn.spectrogram import check_waveform
from aigc.rng import BatchRNG

KERNEL = 25
STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class Config(GANConfig):
    """Both networks: one-dimensional DCGANs with long filters and strides of four."""

    shape: tuple[int, ...] = (1, 4096)
    """(1, samples); samples must be a multiple of 4 to the number of widths."""
    latent: int = 100
    """Number of latent dimensions."""
    widths: tuple[int, ...] = (1024, 512, 256, 128)
    """Channels that go into each transposed convolution of the generator; the discriminator
    mirrors them."""
    shuffle: int = 2
    """Samples by which phase shuffle moves the discriminator's layers at most; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_waveform(self.shape)
        check_positive("widths", self.widths)
        factor = STRIDE ** len(self.widths)
        require(
            len(self.widths) > 0 and self.shape[1] % factor == 0,
            f"{self.shape[1]} samples cannot be reached by {len(self.widths)} widths; they must be"
            f" a multiple of {factor}",
        )
        require(
            0 <= self.shuffle < self.shape[1] // factor * STRIDE,
            f"shuffle must be >= 0 and less than the shortest layer that it moves, got"
            f" {self.shuffle}",
        )


class Generator(nn.Module):
    """(N, latent), labels (N,) -> waveforms (N, 1, samples) in [-1, 1]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        widths = config.widths
        length = config.shape[1] // STRIDE ** len(widths)
        layers: list[nn.Module] = [
            nn.Linear(config.latent + config.num_classes, widths[0] * length),
            nn.Unflatten(1, (widths[0], length)),
        ]
        for c_in, c_out in itertools.pairwise((*widths, 1)):
            # A kernel of 25 at stride 4: padding 11 and one more at the end keep lengths exact.
            layers += [
                nn.ReLU(),
                nn.ConvTranspose1d(c_in, c_out, KERNEL, STRIDE, padding=11, output_padding=1),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(condition(z, label, self.num_classes)).tanh()  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Waveforms (N, 1, samples), labels (N,) -> logits (N,), class logits or None."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = tuple(reversed(config.widths))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(c_in, c_out, KERNEL, STRIDE, padding=11)
            for c_in, c_out in itertools.pairwise((1, *widths))
        )
        self.activation = activation("leaky_relu")
        self.verdict = DiscriminatorHead(
            widths[-1] * (config.shape[1] // STRIDE ** len(widths)),
            config.num_classes,
            config.auxiliary > 0,
            False,
        )
        self.shuffle = config.shuffle
        self._noise: BatchRNG | None = None

    @contextmanager
    def shuffled(self, noise: BatchRNG) -> Iterator[None]:
        """Meanwhile layers are moved by what `noise` draws for every row; else by nothing."""
        self._noise = noise if self.shuffle else None
        try:
            yield
        finally:
            self._noise = None

    def forward(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for layer, convolution in enumerate(self.convolutions):
            x = self.activation(convolution(x))
            if self._noise is not None and layer < len(self.convolutions) - 1:
                x = phase_shuffle(x, self._moves(self._noise, layer, len(x)), self.shuffle)
        return self.verdict(x.flatten(1), label)  # type: ignore[no-any-return]

    def _moves(self, noise: BatchRNG, layer: int, rows: int) -> Tensor:
        """(rows,) in [-shuffle, shuffle]: real and fake rows each have their own."""
        parts = range(rows // noise.size)
        drawn = [noise.integers(f"shuffle/{layer}/{i}", 2 * self.shuffle + 1) for i in parts]
        return torch.cat(drawn) - self.shuffle


def phase_shuffle(x: Tensor, moves: Tensor, most: int) -> Tensor:
    """x: (N, C, T) moved along T by `moves` (N,) int64 in [-most, most], its ends mirrored.

    Donahue et al. 2019, section 3.3: what tells real from fake must not be the phase of the
    artefacts that strides leave.
    """
    padded = F.pad(x, (most, most), mode="reflect")
    places = torch.arange(x.shape[2], device=x.device) + most + moves[:, None]
    return padded.gather(2, places[:, None].expand(-1, x.shape[1], -1))


class Model(GAN):
    """WGAN-GP whose discriminator sees its layers shuffled in training."""

    config: Config
    discriminator: Discriminator

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), Discriminator(config))

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See GenerativeModel.loss."""
        with self.discriminator.shuffled(noise):
            return super().loss(phase, batch, noise, shared)

    def batch_sums(self, batch: Batch, noise: BatchRNG, shared: Any) -> dict[str, Tensor]:
        """See GAN.batch_sums."""
        with self.discriminator.shuffled(noise):
            return super().batch_sums(batch, noise, shared)


def spoken_digits() -> TrainConfig:
    """Ten spoken digits: for a GPU, where it wants hours."""
    optimizer = OptimizerConfig(learning_rate=1e-4, betas=(0.5, 0.9))
    return TrainConfig(
        preset="wavegan:spoken_digits",
        model=Config(
            num_classes=10,
            objective="wasserstein",
            penalty="gradient",
            discriminator_steps=5,
            generator_optimizer=optimizer,
            discriminator_optimizer=optimizer,
        ),
        data=DataConfig(source="spoken_digits"),
        samples=12_800_000,
        grid_interval=0,
    )


PRESETS = {"spoken_digits": spoken_digits}
