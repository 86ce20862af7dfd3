"""The family of image restoration: one phase, the mean absolute error of what was degraded."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig, require
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn.image_to_image import image_axes, image_spec
from aigc.nn.layers import check_image, check_positive
from aigc.rng import BatchRNG

SMALLEST = 4
"""Smallest height and width of an input, in places."""


@dataclass(frozen=True, kw_only=True)
class RestorationConfig(ModelConfig):
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
        require(self.num_classes == 0, "a restoration has no use for labels; set num_classes 0")

    @property
    def multiple(self) -> int:
        """Pixels of the pictures per place of the network, in height and in width."""
        raise TypeError(f"{type(self).__name__} must define multiple")


class Restoration(GenerativeModel):
    """A network; a subclass builds it, and degrades pictures in prepare().

    network(*given) -> (N, C, H, W), unbounded. prepare() returns the pictures, (N, C, H, W) in
    [-1, 1], and a tuple of what the network is given.
    """

    family: ClassVar[str] = "restoration"
    config: RestorationConfig

    def __init__(self, config: RestorationConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network

    def phases(self) -> tuple[Phase, ...]:
        """One phase."""
        return (Phase(name="restoration", module=self, optimizer=self.config.optimizer),)

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error of the pixels, in [-1, 1]."""
        real, given = shared
        error = self.network(*given).to(real.dtype) - real
        # The error of a mean over pixels is that of values 0 to 1 after division by 4.
        return error.abs().mean(), {"square_error": error.square().mean().detach() / 4}

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
