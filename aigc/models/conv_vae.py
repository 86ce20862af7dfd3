"""Convolutional VAE (Kingma & Welling 2014, arXiv:1312.6114, with the networks of a DCGAN)."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require
from aigc.nn.layers import (
    Downsampler,
    Upsampler,
    Upsampling,
    condition,
    fitting_widths,
    upsampling_base,
)
from aigc.vae import VAE, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Config(VAEConfig):
    """Both networks; height and width must be multiples of 2 to the number of widths."""

    widths: tuple[int, ...] = (32, 64)
    """Channels that come out of each convolution of the encoder; the decoder mirrors them."""
    hidden: int = 128
    """Width of the encoder's dense layer; 0 for none."""
    upsampling: Upsampling = "transposed"
    """Convolutions of the decoder: transposed with kernel 4, or resize with kernel 3, which
    upsamples by nearest neighbours and then convolves, against checkerboards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden >= 0, f"hidden must be >= 0, got {self.hidden}")
        strides = (2,) * len(self.widths)
        upsampling_base(self.shape, self.widths, strides, self.kernel, self.upsampling)

    @property
    def kernel(self) -> int:
        """Kernel size of the decoder's convolutions."""
        return 4 if self.upsampling == "transposed" else 3

    def sizes_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """A layer per halving down to 4 to 7 pixels, where the layers do not fit the shape."""
        widths = fitting_widths(shape, 2 ** len(self.widths))
        return {"widths": widths} if widths else {}


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
            kernel=config.kernel,
            act="relu",
            batch_norm=False,
            upsampling=config.upsampling,
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


def pictures64() -> TrainConfig:
    """Colour pictures of 64 x 64 on one core in minutes: resize convolutions, and a flow that
    samples are drawn by."""
    return TrainConfig(
        preset="conv_vae:pictures64",
        model=Config(
            shape=(3, 64, 64),
            latent=64,
            widths=(32, 64, 128, 128),
            hidden=0,
            upsampling="resize",
            couplings=6,
            optimizer=OptimizerConfig(learning_rate="0:1.5e-3 100%:1e-4:cosine", betas=(0.9, 0.99)),
        ),
        data=DataConfig(source="folder"),
        batch=16,
        samples=40_000,
        report_interval=1_600,
        grid_interval=0,
        checkpoint_interval=10_000,
    )


def beta4() -> TrainConfig:
    """The KL term weighted by 4: fewer, more independent latent dimensions in use."""
    run = digits()
    return replace(run, preset="conv_vae:beta4", model=replace(run.model, beta=4.0))  # type: ignore[call-arg]


PRESETS = {"digits": digits, "pictures64": pictures64, "beta4": beta4}
