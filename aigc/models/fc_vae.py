"""Fully connected VAE (Kingma & Welling 2014, arXiv:1312.6114)."""

import math
from dataclasses import dataclass, replace

from torch import Tensor, nn

from aigc.config import TrainConfig
from aigc.nn.layers import Dense, condition
from aigc.vae import VAE, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Config(VAEConfig):
    """Hidden layers; the decoder mirrors the encoder."""

    widths: tuple[int, ...] = (512, 256)
    """Widths of the encoder's hidden layers."""


class Encoder(nn.Module):
    """(N, *shape), labels -> (N, 2 · latent)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        features = math.prod(config.shape) + config.num_classes
        self.layers = Dense(features, *config.widths, 2 * config.latent)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(condition(x.flatten(1), label, self.num_classes))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(N, latent), labels -> (N, *shape), before any squashing."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.shape, self.num_classes = config.shape, config.num_classes
        features = config.latent + config.num_classes
        self.layers = Dense(features, *reversed(config.widths), math.prod(config.shape))

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(condition(z, label, self.num_classes)).reshape(-1, *self.shape)  # type: ignore[no-any-return]


class Model(VAE):
    """Fully connected encoder and decoder."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, Encoder(config), Decoder(config))


def digits() -> TrainConfig:
    """Class-conditional digits."""
    return TrainConfig(
        preset="fc_vae:digits", model=Config(latent=16, num_classes=10), samples=300_000
    )


def beta4() -> TrainConfig:
    """The KL term weighted by 4: fewer, more independent latent dimensions in use."""
    run = digits()
    return replace(run, preset="fc_vae:beta4", model=replace(run.model, beta=4.0))  # type: ignore[call-arg]


PRESETS = {"digits": digits, "beta4": beta4}
