"""Convolutional VAE (Kingma & Welling 2014, arXiv:1312.6114, with the networks of a DCGAN)."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from aigc.config import TrainConfig
from aigc.nn.layers import Downsampler, Upsampler, condition, upsampling_base
from aigc.vae import VAE, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Config(VAEConfig):
    """Both networks; height and width must be multiples of 2 to the number of widths."""

    widths: tuple[int, ...] = (32, 64)
    """Channels that come out of each convolution of the encoder; the decoder mirrors them."""
    hidden: int = 128
    """Width of the encoder's dense layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        upsampling_base(self.shape, self.widths, (2,) * len(self.widths), 4)


class Encoder(nn.Module):
    """(N, C, H, W), labels -> (N, 2 · latent)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.layers = Downsampler(config.shape, config.widths, 4, config.hidden, 0.0, False)
        self.moments = nn.Linear(self.layers.features + config.num_classes, 2 * config.latent)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        return self.moments(condition(self.layers(x), label, self.num_classes))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(N, latent), labels -> (N, C, H, W), before any squashing."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        widths = tuple(reversed(config.widths))
        self.layers = Upsampler(
            config.latent + config.num_classes,
            config.shape,
            widths,
            (2,) * len(widths),
            kernel=4,
            act="relu",
            batch_norm=False,
        )

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(condition(z, label, self.num_classes))  # type: ignore[no-any-return]


class Model(VAE):
    """Convolutional encoder and decoder."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, Encoder(config), Decoder(config))


def digits() -> TrainConfig:
    """Class-conditional digits."""
    return TrainConfig(
        preset="conv_vae:digits", model=Config(latent=16, num_classes=10), samples=200_000
    )


def beta4() -> TrainConfig:
    """The KL term weighted by 4: fewer, more independent latent dimensions in use."""
    run = digits()
    return replace(run, preset="conv_vae:beta4", model=replace(run.model, beta=4.0))  # type: ignore[call-arg]


PRESETS = {"digits": digits, "beta4": beta4}
