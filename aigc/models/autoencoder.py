"""Convolutional autoencoder of pictures of any size, for latents that other models work in.

Its bottleneck is that of a VAE at each place (`kl`; Rombach et al. 2022, arXiv:2112.10752, section
3.1 and appendix G), a code of a codebook (`vq`, `fsq`; aigc/nn/codebooks.py), or none. No layer
mixes distant places or normalises over them, so pictures beyond the bounds of its free axes are
made of tiles that equal the whole.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require, require_values
from aigc.config.schedule import Scheduled
from aigc.model import Batch, Export, Phase
from aigc.nn.codebooks import Codebook, ScalarCodebook, VectorCodebook, check_codes
from aigc.nn.image_codec import ImageCodec, Moments
from aigc.nn.losses import gaussian_kl
from aigc.nn.map_flow import MapFlow, MapPriorConfig
from aigc.nn.patch_coder import Decoder, Encoder, check_sizes
from aigc.picture_loss import PictureLossConfig, PictureModel
from aigc.rng import BatchRNG

SMALLEST = 2
"""Smallest height and width of the latent in an artifact."""


@dataclass(frozen=True, kw_only=True)
class Config(MapPriorConfig, PictureLossConfig):
    """Encoder, decoder and prior; `latent` is the number of channels of the latent."""

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
    made of tiles of that size, but for those that `sample` draws by a prior, which are refused."""
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
        check_sizes(self.shape, self.patch, self.widths, SMALLEST)
        least = max(self.shape[1:]) // self.factor
        require(
            self.largest >= least,
            f"largest must be >= {least} for pictures of {self.shape}, got {self.largest}",
        )
        require(self.blocks >= 0, f"blocks must be >= 0, got {self.blocks}")
        require_values("kl_weight", self.kl_weight, 0)
        self.check_losses(self.shape)
        require(self.num_classes == 0, "an autoencoder has no use for labels; set num_classes 0")
        check_codes(self.codes, self.levels)
        require(self.commitment > 0, f"commitment must be > 0, got {self.commitment}")
        require(
            not self.has_prior or self.bottleneck in ("kl", "none"),
            f"bottleneck {self.bottleneck} makes tokens, and a prior is of the real numbers of"
            " bottlenecks kl and none; take one of them, or prior_weight 0",
        )
        require(
            self.bottleneck != "fsq" or self.latent == len(self.levels),
            f"bottleneck fsq has a channel per level: set latent {len(self.levels)} for levels"
            f" {self.levels}, got {self.latent}",
        )

    def without_effect(self) -> dict[str, str]:
        """See ModelConfig.without_effect."""
        needs = {"kl_weight": "kl", "codes": "vq", "commitment": "vq", "levels": "fsq"}
        reason = f"bottleneck is {self.bottleneck}"
        found = {name: reason for name, needed in needs.items() if needed != self.bottleneck}
        return super().without_effect() | found

    @property
    def factor(self) -> int:
        """Pixels per place of the latent, in height and in width."""
        return self.patch << (len(self.widths) - 1)


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
    features: Tensor | None = None
    """Input of the decoder's last convolution, while there is a discriminator's turn."""
    made: Tensor | None = None
    """(N, C, H, W): the pictures made of `features`."""


class Model(PictureModel):
    """Trained by the mean absolute error of pixels and the loss of its bottleneck."""

    family = "vae"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        size = config.shape[0], config.patch, config.widths, config.blocks
        moments = 2 if config.bottleneck == "kl" else 1
        self.encoder = Encoder(*size, moments * config.latent)
        self.decoder = Decoder(*size, config.latent)
        self.codebook: Codebook | None = None
        self.moments: Moments | None = None
        if config.bottleneck == "vq":
            self.codebook = VectorCodebook(config.codes, config.latent, config.commitment)
        elif config.bottleneck == "fsq":
            self.codebook = ScalarCodebook(config.levels)
        else:
            self.moments = Moments(config.latent)
        self.prior: MapFlow | None = None
        if config.has_prior:
            self.prior = MapFlow(config.latent, config.prior_width)
        self.add_judge()

    def phases(self) -> tuple[Phase, ...]:
        """Encoder and decoder together, after the discriminator and before the prior, if any."""
        c = self.config
        coder = nn.ModuleList([self.encoder, self.decoder])
        own = Phase(name="reconstruction", module=coder, optimizer=c.optimizer)
        if self.prior is None:
            return (*self.discriminator_phases(), own)
        prior = Phase(name="prior", module=self.prior, optimizer=c.prior_optimizer)
        return (*self.discriminator_phases(), own, prior)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x: (N, C, H, W) in [-1, 1] -> the encoder's values and, of bottleneck kl, the log
        variance of the posterior, each (N, latent, h, w)."""
        found: Tensor = self.encoder(x)
        if self.config.bottleneck != "kl":
            return found, None
        mu, logvar = found.chunk(2, 1)
        return mu, logvar.clamp(-30, 20)

    def prepare(self, batch: Batch, noise: BatchRNG, due: Collection[str]) -> Latent:
        """Latents in the precision of the data, and while a discriminator judges them, pictures."""
        latent = self._latent(batch, noise)
        if not self.is_judging(noise):
            return latent
        features = self.decoder.network(latent.z)
        made = self.decoder.pixels(features).to(batch["image"].dtype)
        return replace(latent, features=features.detach(), made=made)

    def _latent(self, batch: Batch, noise: BatchRNG) -> Latent:
        """A sample of the posterior, or codes."""
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
        """Mean absolute error of the pixels, in [-1, 1], the bottleneck's weighted loss, and those
        of the networks that judge pictures; or the hinge loss of the discriminator, or the prior's
        negative log density."""
        x = batch["image"]
        if phase == "discriminator":
            assert self.judge is not None
            return self.judge.loss(x, shared.made)
        if phase == "prior":
            assert self.prior is not None
            assert self.moments is not None
            constants = self.moments.normalised(shared.z.detach())
            return self.prior.loss(constants, noise.at(self.config.prior_weight))
        made = self.decoder(shared.z).to(x.dtype) if shared.made is None else shared.made
        # The error of a mean over pixels is that of values 0 to 1 after division by 4.
        metrics = {"square_error": (made - x).square().mean().detach() / 4}
        loss = self.picture_loss(made, x, noise, metrics)
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
        if shared.made is not None:
            loss = loss + self.judgement(made, noise, metrics)
        return loss, metrics

    def batch_sums(self, batch: Batch, noise: BatchRNG, shared: Latent) -> dict[str, Tensor]:
        """Sums of the codebook, else of the latents' values and of their squares, by channel, and
        their number; with a discriminator gradients by the last convolution."""
        judged = shared.features, self.decoder.pixels, self.decoder.last.weight
        sums = self.judge_sums(*judged, batch["image"], noise)
        return self._latent_sums(noise, shared) | sums

    def _latent_sums(self, noise: BatchRNG, shared: Latent) -> dict[str, Tensor]:
        if self.codebook is not None:
            assert shared.tokens is not None
            return self.codebook.sums(shared.mean.detach(), shared.tokens, noise)
        assert self.moments is not None
        return self.moments.sums(shared.z.detach())

    def update(self, sums: dict[str, Tensor]) -> None:
        """The codebook, else running means for `sample`; the balance of the losses of pictures, for
        the batches that follow."""
        self.update_judge(sums)
        kept = self.moments if self.codebook is None else self.codebook
        assert kept is not None
        kept.update(sums)

    def collapsed(self, values: dict[str, float]) -> str:
        """Message if hardly any code is taken."""
        perplexity = values.get("reconstruction/perplexity")
        if self.codebook is None or perplexity is None:
            return ""
        return self.codebook.collapsed(perplexity)

    def exports(self) -> dict[str, Export]:
        """`reconstruct`, `encode`, `decode` and `sample`, at any multiple of the factor.

        `sample` draws the latent by the prior. Without one it draws each place by itself, as if
        places were independent: it then shows the decoder at work and is no generator of pictures.
        """
        config = self.config
        parts = self.codebook, self.moments, self.prior
        codec = ImageCodec(self.encoder, self.decoder, config.latent, *parts)
        return codec.exports(config.shape, config.factor, (SMALLEST, config.largest))


def kl8() -> TrainConfig:
    """Pictures of 64 x 64 on one core in minutes: 16 channels at an eighth of the size."""
    return TrainConfig(
        preset="autoencoder:kl8",
        model=Config(),
        data=DataConfig(source="folder"),
        batch=4,
        samples=32_000,
        ema_half_life=500,
        report_interval=1_600,
        grid_interval=0,
        checkpoint_interval=10_000,
    )


def kl4() -> TrainConfig:
    """Four channels at a quarter of the size."""
    run = kl8()
    model = Config(latent=4, widths=(64,), blocks=2, largest=64)
    return replace(run, preset="autoencoder:kl4", model=model, samples=20_000)


def vq8() -> TrainConfig:
    """One of 512 codes at an eighth of the size: 72 bytes for a picture of 64 x 64."""
    model = Config(bottleneck="vq", latent=8)
    return replace(kl8(), preset="autoencoder:vq8", model=model, samples=16_000)


def fsq8() -> TrainConfig:
    """One of 1,000 codes of fixed levels at an eighth of the size: 80 bytes for 64 x 64."""
    model = Config(bottleneck="fsq", latent=4)
    return replace(kl8(), preset="autoencoder:fsq8", model=model, samples=16_000)


def kl8_gan() -> TrainConfig:
    """kl8 with a discriminator of patches in the second half of the run: sharper, less exact."""
    model = Config(adversarial_weight="0:0 50%:0.5:step")
    return replace(kl8(), preset="autoencoder:kl8_gan", model=model)


def kl8_prior() -> TrainConfig:
    """kl8 with a prior of its latents in the second half of the run, by which `sample` draws."""
    model = Config(prior_weight="0:0 50%:1:step")
    return replace(kl8(), preset="autoencoder:kl8_prior", model=model)


def kl8_256() -> TrainConfig:
    """Pictures of 256 x 256 on a GPU: 4 channels at an eighth of the size, 28 million weights."""
    model = Config(
        shape=(3, 256, 256),
        latent=4,
        patch=2,
        widths=(128, 256, 512),
        blocks=2,
        kl_weight=1e-6,
        adversarial_weight="0:0 25%:0.5:step",
        discriminator_widths=(64, 128, 256, 512),
        largest=64,
        optimizer=replace(Config().optimizer, learning_rate="0:0 20k:3e-4 100%:0:cosine"),
    )
    return replace(
        kl8(),
        preset="autoencoder:kl8_256",
        model=model,
        batch=32,
        samples=4_000_000,
        precision="bfloat16",
        ema_half_life=20_000,
        report_interval=3_200,
        checkpoint_interval=100_000,
    )


PRESETS = {
    "kl8": kl8,
    "kl4": kl4,
    "vq8": vq8,
    "fsq8": fsq8,
    "kl8_gan": kl8_gan,
    "kl8_prior": kl8_prior,
    "kl8_256": kl8_256,
}
