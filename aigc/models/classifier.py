"""Classifier of pictures, for its features: of their labels or, without, of their rotations.

A network that learned the training data judges samples of them better than one of other pictures,
and its feature maps compare pictures in losses (Johnson et al. 2016, arXiv:1603.08155); see
aigc/feature_network. Without labels the class of a picture is the number of quarters by which it
was turned (Gidaris et al. 2018, arXiv:1803.07728).
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import ModelConfig, OptimizerConfig, TrainConfig, require
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn.augmentations import Augmentation, augmented
from aigc.nn.layers import check_image, check_positive
from aigc.nn.tensor_specs import vector_spec
from aigc.rng import BatchRNG

TURNS = 4


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """`latent` is the number of features; `num_classes` 0 predicts rotations."""

    latent: int = 64
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of the feature maps; each has half the height and width of the one before."""
    augmentation: tuple[Augmentation, ...] = ("translation",)
    """Random changes of the pictures, against learning them by heart; see
    aigc/nn/augmentations.py."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate="0:0 2k:1e-3 100%:0:cosine",
            betas=(0.9, 0.99),
            weight_decay=0.01,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image(self.shape)
        require(len(self.widths) > 0, "widths must have an entry per feature map, got none")
        check_positive("widths", self.widths)
        require(
            self.num_classes != 1,
            "num_classes must be 0, for rotations, or at least 2, got 1",
        )
        require(
            self.num_classes > 0 or self.shape[1] == self.shape[2],
            f"shape {self.shape}: rotations are of square pictures; give the data labels, or set"
            " height and width to the same",
        )

    @property
    def num_logits(self) -> int:
        """Number of labels, or of rotations."""
        return self.num_classes or TURNS


class Model(GenerativeModel):
    """Convolutions of stride 2, a mean over places, a layer of features, and logits."""

    family = "classifier"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList()
        width = config.shape[0]
        for index, out in enumerate(config.widths):
            layers: list[nn.Module] = [nn.Conv2d(width, out, 3, 2 if index else 1, 1), nn.ReLU()]
            if index:
                layers += [nn.Conv2d(out, out, 3, 1, 1), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers))
            width = out
        self.hidden = nn.Sequential(nn.Linear(width, config.latent), nn.ReLU())
        self.last = nn.Linear(config.latent, config.num_logits)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def phases(self) -> tuple[Phase, ...]:
        """One phase: the whole network."""
        return (Phase(name="classification", module=self, optimizer=self.config.optimizer),)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """x: (N, C, H, W) in [-1, 1] -> maps (N, widths[i], H / 2^i, W / 2^i), rounded up."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [-1, 1] -> (N, latent)."""
        return self.hidden(self.feature_maps(x)[-1].mean((2, 3)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [-1, 1] -> logits (N, num_logits)."""
        return self.last(self.features(x))  # type: ignore[no-any-return]

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy; `accuracy` is the share of the batch that is predicted right."""
        x = batch["image"]
        label = batch["label"]
        if not self.config.num_classes:
            label = noise.integers("rotation", TURNS)
            x = turned(x, label)
        changed = augmented(x, self.config.augmentation, 1.0, noise, "augmentation")
        logits = self(changed).to(x.dtype)
        accuracy = (logits.argmax(1) == label).to(x.dtype).mean()
        return F.cross_entropy(logits, label), {"accuracy": accuracy.detach()}

    def exports(self) -> dict[str, Export]:
        """`features` and `classify`, which gives probabilities."""
        config = self.config
        image = TensorSpec(
            name="image", kind="image", dtype="float32", shape=config.shape, range=(-1.0, 1.0)
        )
        likely = replace(vector_spec("probabilities", config.num_logits), range=(0.0, 1.0))

        def export(module: nn.Module, graph: str, made: TensorSpec) -> Export:
            signature = Signature(graph=graph, inputs=(image,), outputs=(made,))
            return Export(module=module, signature=signature)

        features = vector_spec("features", config.latent)
        return {
            "features": export(_Features(self), "features.onnx", features),
            "classify": export(_Classify(self), "classifier.onnx", likely),
        }


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Square pictures (N, C, S, S), each rotated by its number of quarters, (N,) int64."""
    every = torch.stack([torch.rot90(x, turn, (2, 3)) for turn in range(TURNS)])
    return every[turns, torch.arange(len(x), device=x.device)]


class _Features(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.features(image)


class _Classify(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image).softmax(1)  # type: ignore[no-any-return]


def labels() -> TrainConfig:
    """Classifier of the labels of the data, by default digits."""
    return TrainConfig(
        preset="classifier:labels",
        model=Config(num_classes=10),
        samples=60_000,
        ema_half_life=1_000,
        grid_interval=0,
        checkpoint_interval=20_000,
    )


def rotations() -> TrainConfig:
    """Classifier of rotations, for data without labels."""
    run = labels()
    return replace(run, preset="classifier:rotations", model=replace(run.model, num_classes=0))


PRESETS = {"labels": labels, "rotations": rotations}
