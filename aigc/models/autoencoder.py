"""Convolutional autoencoder of pictures of any size, for latents that other models work in.

Its bottleneck is that of a VAE at each place (`kl`; Rombach et al. 2022, arXiv:2112.10752, section
3.1 and appendix G), a code of a codebook (`vq`, `fsq`; aigc/nn/codebooks.py), or none. No layer
mixes distant places or normalises over them, so pictures beyond the bounds of its free axes are
made of tiles that equal the whole.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
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
from aigc.nn.codebooks import Codebook, ScalarCodebook, VectorCodebook
from aigc.nn.layers import check_image, check_positive
from aigc.nn.losses import gaussian_kl
from aigc.nn.patch_coder import Decoder, Encoder
from aigc.rng import BatchRNG

SMALLEST = 2
"""Smallest height and width of the latent in an artifact."""
COLLAPSED = 0.01
"""Share of the codes that a perplexity below means a collapse."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Encoder and decoder; `latent` is the number of channels of the latent."""

    shape: tuple[int, ...] = (3, 64, 64)
    latent: int = 16
    bottleneck: Literal["kl", "vq", "fsq", "none"] = "kl"
    """Latent at each place: kl, a normal distribution; vq, one of `codes` vectors; fsq, one of the
    combinations of `levels`; none, the encoder's values as they are."""
    codes: int = 512
    """Number of vectors of bottleneck vq."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels of each channel of bottleneck fsq (arXiv:2309.15505, section 4.1, from 5 on)."""
    commitment: float = 0.25
    """Weight of the distance of the encoder's values to their codes in bottleneck vq."""
    patch: int = 4
    """Pixels per place, in height and in width, of the first convolution and of the last."""
    widths: tuple[int, ...] = (64, 128)
    """Channels at the size that `patch` leaves, and after each further halving."""
    blocks: int = 1
    """Residual blocks per width, in the encoder and in the decoder."""
    kl_weight: Scheduled = 1e-4
    """Weight of the KL divergence per number of the latent, beside the mean absolute error, in
    bottleneck kl."""
    largest: int = 32
    """Largest height and width of the latent in one run of an artifact's graph; larger pictures are
    made of tiles of that size."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate="0:0 1k:2e-3 100%:0:cosine",
            betas=(0.9, 0.99),
            clip_norm=1.0,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image(self.shape)
        require(len(self.widths) > 0, "widths must have an entry per size, got none")
        check_positive("widths", self.widths)
        require(
            self.patch > 0 and self.patch % 2 == 0, f"patch must be 2, 4, ..., got {self.patch}"
        )
        for name, size in (("height", self.shape[1]), ("width", self.shape[2])):
            require(
                size % self.factor == 0 and size >= SMALLEST * self.factor,
                f"shape {self.shape}: patch {self.patch} and {len(self.widths)} widths divide by"
                f" {self.factor}, so the {name} must be a multiple of {self.factor} from"
                f" {SMALLEST * self.factor} on",
            )
        least = max(self.shape[1:]) // self.factor
        require(
            self.largest >= least,
            f"largest must be >= {least} for pictures of {self.shape}, got {self.largest}",
        )
        require(self.blocks >= 0, f"blocks must be >= 0, got {self.blocks}")
        require_values("kl_weight", self.kl_weight, 0)
        require(self.num_classes == 0, "an autoencoder has no use for labels; set num_classes 0")
        require(self.codes > 1, f"codes must be > 1, got {self.codes}")
        require(self.commitment > 0, f"commitment must be > 0, got {self.commitment}")
        require(
            len(self.levels) > 0 and all(level > 1 for level in self.levels),
            f"levels must all be > 1, got {self.levels}",
        )
        require(
            self.bottleneck != "fsq" or self.latent == len(self.levels),
            f"bottleneck fsq has a channel per level: set latent {len(self.levels)} for levels"
            f" {self.levels}, got {self.latent}",
        )

    @property
    def factor(self) -> int:
        """Pixels per place of the latent, in height and in width."""
        return self.patch << (len(self.widths) - 1)

    @property
    def is_discrete(self) -> bool:
        """True if latents are tokens."""
        return self.bottleneck in ("vq", "fsq")

    @property
    def num_codes(self) -> int:
        """Number of codes of a discrete bottleneck."""
        return self.codes if self.bottleneck == "vq" else math.prod(self.levels)


@dataclass(frozen=True)
class Latent:
    """Latents of a batch, each (N, latent, h, w)."""

    z: Tensor
    """Input of the decoder."""
    mean: Tensor
    """Values of the encoder; means of the posterior of bottleneck kl."""
    logvar: Tensor | None = None
    """Log variance of bottleneck kl."""
    tokens: Tensor | None = None
    """(N, h, w) of a discrete bottleneck."""


class Model(GenerativeModel):
    """Trained by the mean absolute error of pixels and the loss of its bottleneck."""

    family = "vae"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        size = config.shape[0], config.patch, config.widths, config.blocks
        moments = 2 if config.bottleneck == "kl" else 1
        self.encoder = Encoder(*size, moments * config.latent)
        self.decoder = Decoder(*size, config.latent)
        self.codebook: Codebook | None = None
        if config.bottleneck == "vq":
            self.codebook = VectorCodebook(config.codes, config.latent, config.commitment)
        elif config.bottleneck == "fsq":
            self.codebook = ScalarCodebook(config.levels)
        else:
            # Moments of the latent, which `sample` draws.
            self.register_buffer("mean", torch.zeros(config.latent))
            self.register_buffer("square", torch.ones(config.latent))
        self.mean: Tensor
        self.square: Tensor

    def phases(self) -> tuple[Phase, ...]:
        """One phase: encoder and decoder together."""
        return (Phase(name="reconstruction", module=self, optimizer=self.config.optimizer),)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x: (N, C, H, W) in [-1, 1] -> the encoder's values and, of bottleneck kl, the log
        variance of the posterior, each (N, latent, h, w)."""
        values: Tensor = self.encoder(x)
        if self.config.bottleneck != "kl":
            return values, None
        mu, logvar = values.chunk(2, 1)
        return mu, logvar.clamp(-30, 20)

    def prepare(self, batch: Batch, noise: BatchRNG, due: Collection[str]) -> Latent:
        """Latents in the precision of the data: a sample of the posterior, or codes."""
        x = batch["image"]
        mean, logvar = self.encode(x)
        mean = mean.to(x.dtype)
        if self.codebook is not None:
            z, tokens = self.codebook.quantise(mean)
            return Latent(z, mean, tokens=tokens)
        if logvar is None:
            return Latent(mean, mean)
        logvar = logvar.to(x.dtype)
        eps = noise.normal("posterior", *mean.shape[1:])
        return Latent(mean + (0.5 * logvar).exp() * eps, mean, logvar)

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Latent
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error of the pixels, in [-1, 1], and the bottleneck's weighted loss."""
        x = batch["image"]
        error = self.decoder(shared.z).to(x.dtype) - x
        loss = error.abs().mean()
        # The error of a mean over pixels is that of values 0 to 1 after division by 4.
        metrics = {"square_error": error.square().mean().detach() / 4}
        if shared.logvar is not None:
            mu, logvar = shared.mean, shared.logvar
            kl = gaussian_kl(mu.flatten(1), logvar.flatten(1)).mean() / mu[0].numel()
            loss = loss + noise.at(self.config.kl_weight) * kl
            metrics["kl"] = kl.detach()
        if isinstance(self.codebook, VectorCodebook):
            assert shared.tokens is not None
            commitment = self.codebook.loss(shared.mean, shared.tokens)
            loss = loss + commitment
            metrics["commitment"] = commitment.detach()
        if self.codebook is not None:
            metrics |= self.codebook.metrics()
        return loss, metrics

    def batch_sums(self, batch: Batch, noise: BatchRNG, shared: Latent) -> dict[str, Tensor]:
        """Sums of the codebook, else of the latents' values and of their squares, by channel, and
        their number."""
        if self.codebook is not None:
            assert shared.tokens is not None
            return self.codebook.sums(shared.mean.detach(), shared.tokens, noise)
        z = shared.z.detach()
        sums = {"values": z.sum((0, 2, 3)), "squares": z.square().sum((0, 2, 3))}
        return {**sums, "places": z.new_full((), z[:, 0].numel())}

    def update(self, sums: dict[str, Tensor]) -> None:
        """The codebook; else running means for `sample`."""
        if self.codebook is not None:
            self.codebook.update(sums)
            return
        self.mean.lerp_(sums["values"] / sums["places"], 0.01)
        self.square.lerp_(sums["squares"] / sums["places"], 0.01)

    def collapsed(self, values: dict[str, float]) -> str:
        """Message if hardly any code is taken."""
        perplexity = values.get("reconstruction/perplexity")
        if perplexity is None or perplexity >= max(1.5, COLLAPSED * self.config.num_codes):
            return ""
        return (
            f"the codebook has collapsed: as if {perplexity:.3g} of {self.config.num_codes} codes"
            " were taken alike often; lower the learning rate, take fewer codes or a smaller"
            " --model.latent, or take --model.bottleneck fsq, which has no codes to learn"
        )

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
        again: tuple[TensorSpec, ...] = (replace(image, name="reconstruction"),)
        if config.is_discrete:
            bounds = (0.0, config.num_codes - 1.0)
            latent = TensorSpec(
                name="tokens", kind="vector", dtype="int64", shape=("h", "w"), range=bounds
            )
            drawn = TensorSpec(name="drawn", kind="uniform", dtype="float32", shape=("h", "w"))
            again = (*again, latent)

        def export(module: nn.Module, graph: str, given: TensorSpec, *made: TensorSpec) -> Export:
            signature = Signature(graph=graph, inputs=(given,), outputs=made, axes=axes)
            tile = all(spec.kind == "image" or spec.is_codes for spec in made)
            return Export(module=module, signature=signature, tile=tile)

        return {
            "sample": export(_Sample(self), "sampler.onnx", drawn, image),
            "reconstruct": export(_Reconstruct(self), "autoencoder.onnx", image, *again),
            "encode": export(_Encode(self), "encoder.onnx", image, latent),
            "decode": export(_Decode(self), "decoder.onnx", latent, image),
        }


class _Encode(nn.Module):
    """(N, C, H, W) -> tokens (N, h, w), or the posterior's mean (N, latent, h, w)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        values, codebook = self.model.encode(x)[0], self.model.codebook
        return values if codebook is None else codebook.tokens(values)


class _Decode(nn.Module):
    """Tokens (N, h, w) or latent (N, C, h, w) -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decoder, self.codebook = model.decoder, model.codebook

    def forward(self, latent: Tensor) -> Tensor:
        z = latent if self.codebook is None else self.codebook.vectors_of(latent)
        return self.decoder(z).clamp(-1, 1)  # type: ignore[no-any-return]


class _Reconstruct(nn.Module):
    """(N, C, H, W) -> (N, C, H, W) in [-1, 1], with the tokens between, if there are some."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encode, self.decode = _Encode(model), _Decode(model)
        self.is_discrete = model.config.is_discrete

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        latent = self.encode(x)
        made: Tensor = self.decode(latent)
        return (made, latent) if self.is_discrete else made


class _Sample(nn.Module):
    """A latent whose places are drawn apart, decoded."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decode, self.codebook = _Decode(model), model.codebook
        if self.codebook is None:
            deviation = (model.square - model.mean.square()).clamp_min(0).sqrt()
            self.register_buffer("mean", model.mean[:, None, None])
            self.register_buffer("deviation", deviation[:, None, None])
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, drawn: Tensor) -> Tensor:
        if self.codebook is not None:
            return self.decode(self.codebook.draw(drawn))  # type: ignore[no-any-return]
        return self.decode(self.mean + self.deviation * drawn)  # type: ignore[no-any-return]


def kl8() -> TrainConfig:
    """Pictures of 64 x 64 on one core in minutes: 16 channels at an eighth of the size."""
    return TrainConfig(
        preset="autoencoder:kl8",
        model=Config(),
        data=DataConfig(source="folder"),
        batch=4,
        samples=20_000,
        ema_half_life=500,
        report_interval=1_600,
        grid_interval=0,
        checkpoint_interval=10_000,
    )


def kl4() -> TrainConfig:
    """Four channels at a quarter of the size."""
    run = kl8()
    return replace(run, preset="autoencoder:kl4", model=Config(latent=4, widths=(64,), blocks=2))


def vq8() -> TrainConfig:
    """One of 512 codes at an eighth of the size: 72 bytes for a picture of 64 x 64."""
    model = Config(bottleneck="vq", latent=8)
    return replace(kl8(), preset="autoencoder:vq8", model=model, samples=8_000)


def fsq8() -> TrainConfig:
    """One of 1,000 codes of fixed levels at an eighth of the size: 80 bytes for 64 x 64."""
    model = Config(bottleneck="fsq", latent=4)
    return replace(kl8(), preset="autoencoder:fsq8", model=model, samples=8_000)


PRESETS = {"kl8": kl8, "kl4": kl4, "vq8": vq8, "fsq8": fsq8}
