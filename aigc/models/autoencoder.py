"""Convolutional autoencoder of pictures of any size, for latents that other models work in.

The latent is that of a VAE at each place (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and
appendix G). No layer mixes distant places or normalises over them, so pictures beyond the bounds of
its free axes are made of tiles that equal the whole.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.artifact.axes import Axis
from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    require,
    require_values,
)
from aigc.config.schedule import Scheduled
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn.layers import check_image, check_positive
from aigc.nn.losses import gaussian_kl
from aigc.rng import BatchRNG

SMALLEST = 2
"""Smallest height and width of the latent in an artifact."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Encoder and decoder; `latent` is the number of channels of the latent."""

    shape: tuple[int, ...] = (3, 64, 64)
    latent: int = 16
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels after each halving; 2, 3 and 4 of them divide height and width by 4, 8 and 16."""
    blocks: int = 1
    """Residual blocks per width, in the encoder and in the decoder."""
    kl_weight: Scheduled = 1e-4
    """Weight of the KL divergence per number of the latent, beside the mean absolute error; 0 for a
    plain autoencoder."""
    largest: int = 32
    """Largest height and width of the latent in one run of an artifact's graph; larger pictures are
    made of tiles of that size."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate="0:0 2k:1.5e-3 100%:0:cosine",
            betas=(0.9, 0.99),
            clip_norm=1.0,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image(self.shape)
        require(len(self.widths) > 0, "widths must have an entry per halving, got none")
        check_positive("widths", self.widths)
        for name, size in (("height", self.shape[1]), ("width", self.shape[2])):
            require(
                size % self.factor == 0 and size >= SMALLEST * self.factor,
                f"shape {self.shape}: {len(self.widths)} widths divide by {self.factor}, so the"
                f" {name} must be a multiple of {self.factor} from {SMALLEST * self.factor} on",
            )
        least = max(self.shape[1:]) // self.factor
        require(
            self.largest >= least,
            f"largest must be >= {least} for pictures of {self.shape}, got {self.largest}",
        )
        require(self.blocks >= 0, f"blocks must be >= 0, got {self.blocks}")
        require_values("kl_weight", self.kl_weight, 0)
        require(self.num_classes == 0, "an autoencoder has no use for labels; set num_classes 0")

    @property
    def factor(self) -> int:
        """Pixels per place of the latent, in height and in width."""
        return int(2 ** len(self.widths))


class Block(nn.Module):
    """Residual block of two convolutions that begins as the identity (Zhang et al. 2019, "Fixup",
    arXiv:1901.09321), since normalisation would tie distant places together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))  # type: ignore[no-any-return]


def encoder(config: Config) -> nn.Sequential:
    """(N, C, H, W) -> (N, 2 * latent, H / factor, W / factor): mean beside log variance."""
    layers: list[nn.Module] = []
    width = config.shape[0]
    for out in config.widths:
        layers += [nn.Conv2d(width, out, 4, stride=2, padding=1)]
        layers += [Block(out) for _ in range(config.blocks)]
        width = out
    last = nn.Conv2d(width, 2 * config.latent, 3, padding=1)
    return nn.Sequential(*layers, nn.SiLU(), last)


def decoder(config: Config) -> nn.Sequential:
    """(N, latent, h, w) -> (N, C, h * factor, w * factor)."""
    width = config.widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(config.latent, width, 3, padding=1)]
    for out in (*reversed(config.widths[:-1]), 0):
        layers += [Block(width) for _ in range(config.blocks)]
        if out:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, out, 3, padding=1)]
            width = out
    last = nn.Conv2d(width, 4 * config.shape[0], 3, padding=1)
    return nn.Sequential(*layers, nn.SiLU(), last, nn.PixelShuffle(2))


class Model(GenerativeModel):
    """Trained by the mean absolute error of pixels and the KL divergence."""

    family = "vae"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = encoder(config), decoder(config)
        # Moments of the latent, which `sample` draws.
        self.register_buffer("mean", torch.zeros(config.latent))
        self.register_buffer("square", torch.ones(config.latent))
        self.mean: Tensor
        self.square: Tensor

    def phases(self) -> tuple[Phase, ...]:
        """One phase: encoder and decoder together."""
        return (Phase(name="reconstruction", module=self, optimizer=self.config.optimizer),)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (N, C, H, W) in [-1, 1] -> mu, logvar of the posterior, each (N, latent, h, w)."""
        mu, logvar = self.encoder(x).chunk(2, 1)
        return mu, logvar.clamp(-30, 20)

    def prepare(
        self, batch: Batch, noise: BatchRNG, due: Collection[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moments of the posterior, and a sample of it, each (N, latent, h, w)."""
        x = batch["image"]
        mu, logvar = (moment.to(x.dtype) for moment in self.encode(x))
        eps = noise.normal("posterior", *mu.shape[1:])
        return mu, logvar, mu + (0.5 * logvar).exp() * eps

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error of the pixels, in [-1, 1], and the weighted divergence."""
        x, (mu, logvar, z) = batch["image"], shared
        error = self.decoder(z).to(x.dtype) - x
        kl = gaussian_kl(mu.flatten(1), logvar.flatten(1)).mean() / mu[0].numel()
        loss = error.abs().mean() + noise.at(self.config.kl_weight) * kl
        # The error of a mean over pixels is that of values 0 to 1 after division by 4.
        return loss, {"square_error": error.square().mean().detach() / 4, "kl": kl.detach()}

    def batch_sums(
        self, batch: Batch, noise: BatchRNG, shared: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Sums of the latents' values and of their squares, by channel, and their number."""
        z = shared[2].detach()
        sums = {"values": z.sum((0, 2, 3)), "squares": z.square().sum((0, 2, 3))}
        return {**sums, "places": z.new_full((), z[:, 0].numel())}

    def update(self, sums: dict[str, Tensor]) -> None:
        """Running means for `sample`."""
        self.mean.lerp_(sums["values"] / sums["places"], 0.01)
        self.square.lerp_(sums["squares"] / sums["places"], 0.01)

    def exports(self) -> dict[str, Export]:
        """`reconstruct`, `encode`, `decode` and `sample`, at any multiple of the factor.

        `sample` draws each place of the latent by itself, as if places were independent: it shows
        the decoder at work and is no generator of pictures.
        """
        config = self.config
        factor, (channels, height, width) = config.factor, config.shape
        axes = {
            name: Axis(min=SMALLEST, max=config.largest, default=size // factor)
            for name, size in (("h", height), ("w", width))
        }
        image = TensorSpec(
            name="image",
            kind="image",
            dtype="float32",
            shape=(channels, f"{factor}*h", f"{factor}*w"),
            range=(-1.0, 1.0),
        )
        latent = TensorSpec(
            name="latent", kind="vector", dtype="float32", shape=(config.latent, "h", "w")
        )
        drawn = replace(latent, kind="latent")
        again = replace(image, name="reconstruction")

        def export(module: nn.Module, graph: str, given: TensorSpec, made: TensorSpec) -> Export:
            signature = Signature(graph=graph, inputs=(given,), outputs=(made,), axes=axes)
            return Export(module=module, signature=signature, tile=made.kind == "image")

        return {
            "sample": export(_Sample(self), "sampler.onnx", drawn, image),
            "reconstruct": export(_Reconstruct(self), "autoencoder.onnx", image, again),
            "encode": export(_Encode(self), "encoder.onnx", image, latent),
            "decode": export(_Decode(self), "decoder.onnx", latent, image),
        }


class _Encode(nn.Module):
    """(N, C, H, W) -> the posterior's mean, (N, latent, h, w)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x)[0]


class _Decode(nn.Module):
    """Latent (N, C, h, w) -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.decoder(latent).clamp(-1, 1)  # type: ignore[no-any-return]


class _Reconstruct(nn.Module):
    """(N, C, H, W) -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encode, self.decode = _Encode(model), _Decode(model)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))  # type: ignore[no-any-return]


class _Sample(nn.Module):
    """A latent whose places are drawn apart, decoded."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decode = _Decode(model)
        deviation = (model.square - model.mean.square()).clamp_min(0).sqrt()
        self.register_buffer("mean", model.mean[:, None, None])
        self.register_buffer("deviation", deviation[:, None, None])
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, drawn: Tensor) -> Tensor:
        return self.decode(self.mean + self.deviation * drawn)  # type: ignore[no-any-return]


def kl8() -> TrainConfig:
    """Pictures of 64 x 64 on one core in minutes: 16 channels at an eighth of the size."""
    return TrainConfig(
        preset="autoencoder:kl8",
        model=Config(),
        data=DataConfig(source="folder"),
        batch=16,
        samples=30_000,
        ema_half_life=1_000,
        report_interval=1_600,
        grid_interval=0,
        checkpoint_interval=16_000,
    )


def kl4() -> TrainConfig:
    """Four channels at a quarter of the size."""
    run = kl8()
    model = Config(latent=4, widths=(32, 64))
    return replace(run, preset="autoencoder:kl4", model=model)


PRESETS = {"kl8": kl8, "kl4": kl4}
