"""The family of image restoration: losses of pictures that were degraded and made whole again."""

from abc import abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require
from aigc.model import Batch, Export, Phase
from aigc.nn.image_to_image import image_axes, image_spec
from aigc.nn.layers import check_image, check_positive
from aigc.picture_loss import PictureLossConfig, PictureModel
from aigc.rng import BatchRNG

SMALLEST = 4
"""Smallest height and width of an input, in places."""


@dataclass(frozen=True, kw_only=True)
class RestorationConfig(PictureLossConfig):
    """Fields of every restoration's Config; `shape` is that of the pictures of the data."""

    shape: tuple[int, ...] = (3, 64, 64)
    width: int = 48
    """Channels between the layers."""
    blocks: int = 5
    """Residual blocks of two convolutions each."""
    crop: int = 32
    """Side of the squares that are trained on."""
    largest: int = 64
    """Largest height and width in one run, in places of the network; larger pictures are made of
    tiles of it."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate="0:2e-3 100%:0:cosine", betas=(0.9, 0.99)
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image(self.shape)
        check_positive("width, blocks", (self.width, self.blocks))
        multiple = self.multiple
        for name, size in (("shape", self.shape[1]), ("shape", self.shape[2]), ("crop", self.crop)):
            require(
                size % multiple == 0 and size >= SMALLEST * multiple,
                f"{name}: heights and widths must be multiples of {multiple} from"
                f" {SMALLEST * multiple} on, got {size}",
            )
        least = max(self.shape[1:]) // multiple
        require(
            self.largest >= least,
            f"largest must be >= {least} for pictures of {self.shape}, got {self.largest}",
        )
        height, width = (min(self.crop, size) for size in self.shape[1:])
        self.check_losses((self.shape[0], height, width))
        require(self.num_classes == 0, "a restoration has no use for labels; set num_classes 0")

    @property
    def multiple(self) -> int:
        """Pixels of the pictures per place of the network, in height and in width."""
        raise TypeError(f"{type(self).__name__} must define multiple")


class Trunk(nn.Module):
    """Convolution, residual blocks around which its output is added, and a convolution that starts
    at 0 and makes what a picture lacks.

    network(*given) -> (N, C, H, W), unbounded.
    """

    def __init__(self, given: int, width: int, blocks: Iterable[nn.Module], made: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(given, width, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Conv2d(width, made, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @abstractmethod
    def prepared(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """Input of the first convolution, and the picture to which the network adds."""

    @abstractmethod
    def picture(self, detail: Tensor, base: Tensor, *given: Tensor) -> Tensor:
        """The picture, of the output of the last convolution and that of prepared()."""

    def features(self, places: Tensor) -> Tensor:
        """Input of the last convolution, of that of the first."""
        first: Tensor = self.first(places)
        return first + self.blocks(first)  # type: ignore[no-any-return]

    def made(self, features: Tensor, base: Tensor, *given: Tensor) -> Tensor:
        """The picture, of the outputs of features() and prepared()."""
        return self.picture(self.last(features), base, *given)

    def forward(self, *given: Tensor) -> Tensor:
        places, base = self.prepared(*given)
        return self.made(self.features(places), base, *given)


@dataclass(frozen=True)
class Degraded:
    """Pictures of a batch, and what the network is given of them."""

    real: Tensor
    """(N, C, H, W) in [-1, 1]."""
    given: tuple[Tensor, ...]
    features: Tensor | None = None
    """Input of the network's last convolution, while a discriminator has a weight."""
    base: Tensor | None = None
    """(N, C, H, W): the picture to which the network adds."""
    made: Tensor | None = None
    """(N, C, H, W): the pictures made of them."""


class Restoration(PictureModel):
    """A network; a subclass builds it, and degrades pictures in degraded()."""

    family: ClassVar[str] = "restoration"
    config: RestorationConfig

    def __init__(self, config: RestorationConfig, network: Trunk) -> None:
        super().__init__(config)
        self.network = network
        self.add_judge()

    @abstractmethod
    def degraded(self, images: Tensor, noise: BatchRNG) -> Degraded:
        """Pictures to train on, and what is given in their place, of images (N, C, H, W)."""

    def phases(self) -> tuple[Phase, ...]:
        """The discriminator, if there is one, then the network."""
        own = Phase(name="restoration", module=self.network, optimizer=self.config.optimizer)
        return (*self.discriminator_phases(), own)

    def prepare(self, batch: Batch, noise: BatchRNG, due: Collection[str]) -> Degraded:
        """Degraded pictures, and while a discriminator judges them, those made of them."""
        found = self.degraded(batch["image"], noise)
        if not self.is_judging(noise):
            return found
        places, base = self.network.prepared(*found.given)
        features = self.network.features(places)
        made = self.network.made(features, base, *found.given).to(found.real.dtype)
        return replace(found, features=features.detach(), base=base.detach(), made=made)

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Degraded
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of the pictures (aigc/picture_loss.py), or the discriminator's."""
        real, made = shared.real, shared.made
        if phase == "discriminator":
            assert self.judge is not None
            return self.judge.loss(real, made)
        if made is None:
            made = self.network(*shared.given).to(real.dtype)
        # The error of a mean over pixels is that of values 0 to 1 after division by 4.
        metrics = {"square_error": (made - real).square().mean().detach() / 4}
        loss = self.picture_loss(made, real, noise, metrics)
        if shared.made is not None:
            loss = loss + self.judgement(made, noise, metrics)
        return loss, metrics

    def batch_sums(self, batch: Batch, noise: BatchRNG, shared: Degraded) -> dict[str, Tensor]:
        """With a discriminator, gradients by the last convolution."""
        network = self.network

        def pixels(features: Tensor) -> Tensor:
            assert shared.base is not None
            return network.made(features, shared.base, *shared.given)

        return self.judge_sums(shared.features, pixels, network.last.weight, shared.real, noise)

    def update(self, sums: dict[str, Tensor]) -> None:
        """The balance of the losses, for the batches that follow."""
        self.update_judge(sums)

    def export(
        self, name: str, made: str, factor: int = 1, mask: bool = False
    ) -> dict[str, Export]:
        """A signature of pictures of any height and width, tiled, at which the network is clamped.

        `factor`: size of the output relative to the input. `mask`: it takes one beside the image.
        """
        multiple = self.config.multiple
        channels, height, width = self.config.shape
        given = multiple // factor
        image, largest = image_spec("image", channels, given), self.config.largest
        size = image.shape[1:]
        flag = TensorSpec(
            name="mask", kind="image", dtype="float32", shape=(1, *size), range=(0.0, 1.0)
        )
        signature = Signature(
            graph=f"{name}.onnx",
            inputs=(image, flag) if mask else (image,),
            outputs=(image_spec(made, channels, multiple),),
            axes=image_axes(height // multiple, width // multiple, SMALLEST, largest),
        )
        return {name: Export(module=_Clamped(self.network), signature=signature, tile=True)}


class _Clamped(nn.Module):
    """A network whose output is clamped to [-1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        made = self.network(image) if mask is None else self.network(image, mask)
        return made.clamp(-1, 1)  # type: ignore[no-any-return]


def one_core(preset: str, model: RestorationConfig, samples: int) -> TrainConfig:
    """A run on a folder of pictures, of minutes of one core; a grid and a checkpoint half-way."""
    return TrainConfig(
        preset=preset,
        model=model,
        data=DataConfig(source="folder"),
        batch=16,
        samples=samples,
        ema_half_life=1_000,
        report_interval=1_600,
        grid_interval=samples // 2,
        checkpoint_interval=samples // 2,
    )
