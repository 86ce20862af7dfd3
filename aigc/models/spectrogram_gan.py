"""Class-conditional GAN of log-magnitude spectrograms, heard through Griffin-Lim.

Frequencies are channels and convolutions run over time alone: a harmonic voice is a comb over all
frequencies at once, which one frame's weights draw sharply and small two-dimensional filters blur.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from aigc.artifact.manifest import Signature
from aigc.config import DataConfig, TrainConfig, require
from aigc.gan import GAN, GANConfig
from aigc.model import Batch, Export
from aigc.nn.layers import DiscriminatorHead, activation, check_positive, condition
from aigc.nn.spectrogram import STFT, GriffinLim, check_griffin_lim, check_waveform
from aigc.nn.tensor_specs import label_spec, latent_spec, sample_spec
from aigc.rng import BatchRNG


@dataclass(frozen=True, kw_only=True)
class Config(GANConfig):
    """Both networks and the transform between them and the sound."""

    shape: tuple[int, ...] = (1, 4096)
    """(1, samples)."""
    window: int = 256
    """Samples of the transform's Hann window: half as many frequencies."""
    hop: int = 64
    """Samples between two frames."""
    floor: float = 1e-3
    """Magnitudes below, as a share of full scale, count as silence."""
    iterations: int = 2
    """Iterations of Griffin-Lim in the exported graph. Each one amplifies rounding errors: with
    two, a sample is the same within 1e-5 alone and in any batch."""
    momentum: float = 0.5
    """Momentum of Griffin-Lim."""
    generator_widths: tuple[int, ...] = (256, 256, 192, 128)
    """Channels at the fewest frames, and after each doubling of them."""
    style: int = 96
    """Channels that are the same in all frames, beside those of every layer: voice and pitch."""
    discriminator_widths: tuple[int, ...] = (128, 192, 192, 192)
    """Channels at all frames, and after each halving of them."""
    spectral_norm: bool = False
    """Spectral normalisation of the discriminator (Miyato et al. 2018, arXiv:1802.05957)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_waveform(self.shape)
        check_griffin_lim(self.iterations, self.momentum)
        for name in ("generator_widths", "discriminator_widths"):
            widths = getattr(self, name)
            check_positive(name, widths)
            require(len(widths) > 0, f"{name} must name at least one layer")
            frames, halvings = self.stft.frames, len(widths) - 1
            require(
                frames % 2**halvings == 0,
                f"{frames} frames cannot be halved {halvings} times ({name} {widths})",
            )

    @property
    def stft(self) -> STFT:
        """The transform."""
        return STFT(samples=self.shape[1], window=self.window, hop=self.hop, floor=self.floor)


class Generator(nn.Module):
    """(N, latent), labels (N,) -> log-magnitudes (N, bins, frames) in [-1, 1]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        widths, stft = config.generator_widths, config.stft
        self.frames = stft.frames // 2 ** (len(widths) - 1)
        given = config.latent + config.num_classes
        self.style = nn.Sequential(nn.Linear(given, config.style), nn.ReLU())
        self.first = nn.Sequential(
            nn.Linear(given, widths[0] * self.frames),
            nn.Unflatten(1, (widths[0], self.frames)),
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(c_in + config.style, c_out, 3, padding=1, bias=False),
                nn.BatchNorm1d(c_out),
                nn.ReLU(),
            )
            for c_in, c_out in itertools.pairwise(widths)
        )
        self.last = nn.Conv1d(widths[-1] + config.style, stft.bins, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        given = condition(z, label, self.num_classes)
        style = self.style(given)[:, :, None]
        h = self.first(given)
        frames = self.frames
        for block in self.blocks:
            frames *= 2
            # Enlarged, then convolved: transposed convolutions leave a pattern of their stride.
            h = nn.functional.interpolate(h, scale_factor=2)
            h = block(torch.cat([h, style.expand(-1, -1, frames)], 1))
        levels: Tensor = self.last(torch.cat([h, style.expand(-1, -1, frames)], 1))
        return levels.tanh()


class Discriminator(nn.Module):
    """Log-magnitudes (N, bins, frames), labels (N,) -> logits (N,), class logits or None."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, stft = config.discriminator_widths, config.stft
        wrap = spectral_norm if config.spectral_norm else _plain
        layers: list[nn.Module] = []
        channels = stft.bins
        for i, c_out in enumerate(widths):
            kernel, stride = (3, 1) if i == 0 else (4, 2)
            layers += [
                wrap(nn.Conv1d(channels, c_out, kernel, stride, padding=1)),
                activation("leaky_relu"),
            ]
            channels = c_out
        features = channels * stft.frames // 2 ** (len(widths) - 1)
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.verdict = DiscriminatorHead(
            features, config.num_classes, config.auxiliary > 0, config.spectral_norm
        )

    def forward(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.verdict(self.layers(x), label)  # type: ignore[no-any-return]


def _plain(module: nn.Module) -> nn.Module:
    return module


class Model(GAN):
    """The two networks see spectrograms; what is exported gives sound."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), Discriminator(config))

    def prepare(self, batch: Batch, noise: BatchRNG, due: Collection[str]) -> Any:
        """The batch's own spectrograms beside the fakes and their labels."""
        return self._seen(batch), super().prepare(batch, noise, due)

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See GenerativeModel.loss."""
        seen, fakes = shared
        return super().loss(phase, seen, noise, fakes)

    @property
    def has_loss_sums(self) -> bool:
        """See GAN.has_loss_sums."""
        return self.config.matches_features

    def loss_sums(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> dict[str, Tensor]:
        """See GAN.loss_sums."""
        seen, fakes = shared
        return super().loss_sums(phase, seen, noise, fakes)

    def batch_sums(self, batch: Batch, noise: BatchRNG, shared: Any) -> dict[str, Tensor]:
        """See GAN.batch_sums."""
        seen, fakes = shared
        return super().batch_sums(seen, noise, fakes)

    def distributions(self, batch: Batch, noise: BatchRNG) -> dict[str, Tensor]:
        """Logits of the discriminator on real and fake."""
        seen, (fake, label) = self.prepare(batch, noise, ())
        return {
            "discriminator/real": self.discriminator(seen[self.config.modality], label)[0],
            "discriminator/fake": self.discriminator(fake, label)[0],
        }

    def exports(self) -> dict[str, Export]:
        """`sample`: latent (and label) to a waveform."""
        inputs = (latent_spec(self.config), *label_spec(self.config))
        signature = Signature(
            graph="generator.onnx", inputs=inputs, outputs=(sample_spec(self.config),)
        )
        return {"sample": Export(module=_Sample(self), signature=signature)}

    def _seen(self, batch: Batch) -> Batch:
        key = self.config.modality
        with torch.no_grad():
            return {**batch, key: self.config.stft.log_magnitude(batch[key])}


class _Sample(nn.Module):
    """Generator, then Griffin-Lim, with a label that may be left out of the call."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        config = model.config
        self.generator = model.generator
        self.heard = GriffinLim(config.stft, config.iterations, config.momentum)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.heard(self.generator(latent, label))  # type: ignore[no-any-return]


def spoken_digits() -> TrainConfig:
    """Ten spoken digits in three synthetic voices: five minutes on one core.

    The words are clear; voices are hoarser than real ones, about 0.6 of their harmonicity:
    `audio_vae` draws them better (docs/models.md).
    """
    return TrainConfig(
        preset="spectrogram_gan:spoken_digits",
        model=Config(num_classes=10, spectral_norm=True),
        data=DataConfig(source="spoken_digits"),
        samples=128_000,
        grid_interval=0,
    )


PRESETS = {"spoken_digits": spoken_digits}
