"""Style-based GAN (Karras et al. 2019 and 2020, arXiv:1812.04948 and 1912.04958), small.

A mapping network turns a latent into w, which scales the channels of every convolution; noise of
each pixel is an input that is drawn from the seed, so that a sample is a function of its seed.
Unlike in the papers the discriminator has no statistics of the batch, upsampling is by nearest
neighbours before a convolution, and there is no path-length penalty.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require, require_values
from aigc.config.schedule import Scheduled
from aigc.gan import GAN, GANConfig
from aigc.model import Batch, Export
from aigc.nn.layers import one_hot
from aigc.nn.residual import ResidualDiscriminator, ResidualDownsampler, doubled, levels
from aigc.nn.style import Mapping, ModulatedConv2d, activated
from aigc.nn.tensor_specs import label_spec, latent_spec, sample_spec, setting_spec
from aigc.rng import BatchRNG

MEAN_DECAY = 0.995
"""Decay per batch of the running mean of w."""


@dataclass(frozen=True, kw_only=True)
class Config(GANConfig):
    """Both networks; their depth and widths follow from the shape, see aigc/nn/residual.py."""

    shape: tuple[int, ...] = (3, 64, 64)
    latent: int = 128
    """Size of the latent, and of w."""
    mapping_layers: int = 2
    """Dense layers of the mapping network."""
    generator_width: int = 16
    """Channels of the generator at the picture's size; they double with each halving."""
    discriminator_width: int = 16
    """Channels of the discriminator at the picture's size; they double with each halving."""
    widest: int = 128
    """Most channels of either network."""
    mixing: Scheduled = 0.9
    """Share of the rows that take w of a second latent from a random layer on (Karras et al. 2019,
    section 3.1); may change during the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mapping_layers > 0, f"mapping_layers must be > 0, got {self.mapping_layers}")
        require_values("mixing", self.mixing, 0, 1 + 1e-9)
        for width in (self.generator_width, self.discriminator_width):
            sizes = levels(self.shape, width, self.widest)
            require(
                len(sizes) > 1,
                f"shape {self.shape} is not halved, and one layer has no styles to mix; take larger"
                " sides, such as 8, or resnet_gan",
            )


class StyledLayer(nn.Module):
    """Modulated convolution, noise of a learned strength, bias and activation."""

    def __init__(self, c_in: int, c_out: int, latent: int, up: bool) -> None:
        super().__init__()
        self.convolution = ModulatedConv2d(c_in, c_out, 3, latent, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(c_out, 1, 1))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """noise: (N, 1, H, W) of the output's size."""
        return activated(self.convolution(x, w) + self.strength * noise + self.bias)


class Generator(nn.Module):
    """Latent and noise, labels -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        sizes = levels(config.shape, config.generator_width, config.widest)[::-1]
        self.mapping = Mapping(config.latent, config.num_classes, config.mapping_layers)
        self.register_buffer("mean_w", torch.zeros(config.latent))
        self.mean_w: Tensor
        self.constant = nn.Parameter(torch.randn(sizes[0]))
        self.layers, self.pictures = nn.ModuleList(), nn.ModuleList()
        self.planes: list[tuple[int, int]] = []
        """Height and width of each layer's noise."""
        channels = sizes[0][0]
        for i, (width, *plane) in enumerate(sizes):
            for up in (True, False) if i else (False,):
                self.layers.append(StyledLayer(channels, width, config.latent, up))
                self.planes.append((plane[0], plane[1]))
                channels = width
            picture = ModulatedConv2d(
                width, config.shape[0], 1, config.latent, up=False, demodulate=False
            )
            self.pictures.append(picture)
        self.bias = nn.Parameter(torch.zeros(config.shape[0], 1, 1))

    @property
    def num_noise(self) -> int:
        """Numbers of noise per row, of all layers."""
        return sum(high * wide for high, wide in self.planes)

    def map(self, z: Tensor, label: Tensor | None) -> Tensor:
        """z: (N, latent) -> w (N, latent)."""
        return self.mapping(z, one_hot(label, self.num_classes, z.dtype))  # type: ignore[no-any-return]

    def truncated(self, w: Tensor, truncation: Tensor) -> Tensor:
        """w moved to its mean: 1 leaves it, 0 is the mean. truncation: (N,)."""
        return torch.lerp(self.mean_w.to(w.dtype).expand_as(w), w, truncation[:, None])

    def synthesize(self, w: Tensor, noise: Tensor) -> Tensor:
        """w: (N, layers, latent), noise: (N, num_noise) -> (N, C, H, W) in [-1, 1]."""
        planes = torch.split(noise, [high * wide for high, wide in self.planes], 1)
        x = self.constant.expand(w.shape[0], *self.constant.shape)
        x = x.contiguous(memory_format=torch.channels_last)
        total: Tensor | None = None
        for i, (layer, plane) in enumerate(zip(self.layers, planes, strict=True)):
            x = layer(x, w[:, i], plane.reshape(-1, 1, *self.planes[i]))
            if i % 2 == 0:  # the last layer of its size
                picture = self.pictures[i // 2](x, w[:, i])
                total = picture if total is None else doubled(total) + picture
        assert total is not None
        return (total + self.bias).tanh()

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        return self.synthesize(w, noise)


def discriminator(config: Config) -> ResidualDiscriminator:
    """(N, C, H, W) in [-1, 1], labels (N,) -> logits (N,), class logits or None."""
    sizes = levels(config.shape, config.discriminator_width, config.widest)
    layers = ResidualDownsampler(config.shape, sizes, 1, "plain", spectral=False)
    return ResidualDiscriminator(layers, config.num_classes, config.auxiliary > 0, False)


class Model(GAN):
    """Style mixing in training; the mean of w is kept for truncation."""

    config: Config
    generator: Generator

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), discriminator(config))

    def generate(self, noise: BatchRNG, purpose: str, label: Tensor | None) -> Tensor:
        """See GAN.generate."""
        config, generator = self.config, self.generator
        first, second = (
            generator.map(noise.normal(name, config.latent), label)
            for name in (purpose, f"{purpose}/mixed")
        )
        layers = len(generator.layers)
        crossover = 1 + noise.integers(f"{purpose}/crossover", layers - 1)
        mixed = noise.uniform(f"{purpose}/mixing") < noise.at(config.mixing)
        crossover = torch.where(mixed, crossover, layers)
        planes = noise.normal(f"{purpose}/noise", generator.num_noise)
        return generator(mix(first, second, crossover, layers), planes)  # type: ignore[no-any-return]

    def batch_sums(
        self, batch: Batch, noise: BatchRNG, shared: tuple[Tensor, Tensor | None]
    ) -> dict[str, Tensor]:
        """Sum of w, and the rows, beside those of GAN.batch_sums."""
        z = noise.normal("latent", self.config.latent)
        w = self.generator.map(z, shared[1])
        own = {"w": w.to(z.dtype).sum(0), "rows": z.new_tensor(float(len(z)))}
        return super().batch_sums(batch, noise, shared) | own

    def update(self, sums: dict[str, Tensor]) -> None:
        """The running mean of w, beside GAN.update."""
        super().update(sums)
        self.generator.mean_w.lerp_(sums["w"] / sums["rows"], 1 - MEAN_DECAY)

    def exports(self) -> dict[str, Export]:
        """`sample`; `map` and `synthesize`, its two halves; and `mix`, of two latents.

        `truncation` moves w to its mean: 1 does not, less gives likelier and less various samples.
        `mix` takes w of the second latent from layer `crossover` on; layers go from coarse to fine,
        the first for the smallest size and two for each other.
        """
        config, generator = self.config, self.generator
        layers = len(generator.layers)
        latent, label, image = latent_spec(config), label_spec(config), sample_spec(config)
        noise = replace(latent, name="noise", shape=(generator.num_noise,))
        other = replace(latent, name="other")
        truncation = setting_spec("truncation", (0.0, 1.0), 1.0)
        crossover = setting_spec("crossover", (0.0, layers), layers // 2, "int64")
        w = replace(latent, name="w", kind="vector", shape=(layers, config.latent))

        def export(module: nn.Module, made: TensorSpec, *inputs: TensorSpec) -> Export:
            graph = f"{type(module).__name__.strip('_').lower()}.onnx"
            return Export(
                module=module,
                signature=Signature(graph=graph, inputs=inputs, outputs=(made,)),
            )

        return {
            "sample": export(_Generator(generator), image, latent, noise, truncation, *label),
            "map": export(_Mapping(generator), w, latent, truncation, *label),
            "synthesize": export(_Synthesis(generator), image, w, noise),
            "mix": export(
                _Mixer(generator), image, latent, other, noise, crossover, truncation, *label
            ),
        }


def mix(first: Tensor, second: Tensor, crossover: Tensor, layers: int) -> Tensor:
    """w of `first` before layer `crossover` (N,), and of `second` from it on: (N, layers, D)."""
    later = torch.arange(layers, device=first.device) >= crossover[:, None]
    return torch.where(later[:, :, None], second[:, None], first[:, None])


class _Mapping(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor, truncation: Tensor, label: Tensor | None = None) -> Tensor:
        w = self.generator.truncated(self.generator.map(latent, label), truncation)
        return w[:, None].repeat(1, len(self.generator.layers), 1)


class _Synthesis(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        return self.generator.synthesize(w, noise)


class _Generator(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.mapped, self.generator = _Mapping(generator), generator

    def forward(
        self, latent: Tensor, noise: Tensor, truncation: Tensor, label: Tensor | None = None
    ) -> Tensor:
        return self.generator.synthesize(self.mapped(latent, truncation, label), noise)


class _Mixer(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self,
        latent: Tensor,
        other: Tensor,
        noise: Tensor,
        crossover: Tensor,
        truncation: Tensor,
        label: Tensor | None = None,
    ) -> Tensor:
        generator = self.generator
        first, second = (
            generator.truncated(generator.map(z, label), truncation) for z in (latent, other)
        )
        w = mix(first, second, crossover, len(generator.layers))
        return generator.synthesize(w, noise)


def pictures64() -> TrainConfig:
    """64 x 64 pixels on one core in an hour, with augmentation for few pictures."""
    return _preset("pictures64", Config(penalty_weight=2.0, **_RECIPE))


def pictures256() -> TrainConfig:
    """256 x 256 pixels on GPUs: wider, and augmentation that adapts."""
    model = Config(
        shape=(3, 256, 256),
        latent=512,
        mapping_layers=8,
        generator_width=32,
        discriminator_width=32,
        widest=512,
        penalty_weight=1.0,
        augmentation_target=0.6,
        **_RECIPE,
    )
    return replace(_preset("pictures256", model), precision="bfloat16", samples=10_000_000)


_ADAM = OptimizerConfig(learning_rate=2e-3, betas=(0.0, 0.99))
_RECIPE: dict[str, Any] = {
    "penalty": "r1",
    "penalty_every": 16,
    "augmentation": ("flip", "colour", "translation", "cutout"),
    "generator_optimizer": _ADAM,
    "discriminator_optimizer": _ADAM,
}


def _preset(name: str, model: Config) -> TrainConfig:
    return TrainConfig(
        preset=f"style_gan:{name}",
        model=model,
        data=DataConfig(source="folder"),
        batch=32,
        samples=100_000,
    )


PRESETS = {"pictures64": pictures64, "pictures256": pictures256}
