"""Interface of a model to the training loop and the export."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from aigc.artifact.manifest import Signature
from aigc.config import ModelConfig, OptimizerConfig, require
from aigc.rng import BatchRNG

Batch = dict[str, Tensor]


def with_sums(batch: Batch, sums: dict[str, Tensor]) -> Batch:
    """The batch with `sum/NAME` for each of the sums."""
    return batch | {f"sum/{name}": value for name, value in sums.items()}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """An optimizer step: the parameters of `module` descend `loss(name, ...)`.

    Raises ValueError if the name is `quality`.
    """

    name: str
    module: nn.Module
    optimizer: OptimizerConfig
    every: int = 1
    """Due on every n-th batch."""
    until: int = 0
    """Samples seen after which the phase is no longer due; 0 for no end."""
    decay: int = 0
    """Samples before `until` over which the learning rate falls linearly to 0."""

    def __post_init__(self) -> None:
        require(
            self.name != "quality",
            "a phase must not be called 'quality': metrics.jsonl has `quality/NAME` for the quality"
            " during training; give it another name",
        )

    def due(self, batches: int, samples: int) -> bool:
        """True if the phase is due on the batch after `batches` batches, `samples` in total."""
        return (batches + 1) % self.every == 0 and (samples < self.until or not self.until)

    def rate_left(self, samples: int) -> float:
        """Factor of the learning rate of a step after `samples` samples, by `decay`."""
        return max(0.0, min(1.0, (self.until - samples) / self.decay)) if self.decay else 1.0


@dataclass(frozen=True, kw_only=True)
class Export:
    """A signature and the module whose forward takes and returns its tensors in order.

    Exports that name the same graph share one file, so their modules must compute the same.
    """

    module: nn.Module
    signature: Signature
    tile: bool = False
    """Make images beyond the bounds of the signature's free axes of tiles; refused if they do not
    equal the whole."""
    chunk: bool = False
    """Make sounds beyond the bound of the signature's only axis of chunks; refused likewise."""


class GenerativeModel(nn.Module):
    """A GAN, a VAE, or another network. Single-device code: no ranks, no devices, no logging."""

    family: ClassVar[str]
    """`gan`, `vae`, `restoration` or another word in lower case."""
    config: ModelConfig
    batch_statistics: ClassVar[bool] = False
    """True if a loss depends on statistics of the batch, BatchNorm's apart, that are not made of
    loss_sums(). Micro-batches and workers then take those of their own rows."""
    host_reads: ClassVar[dict[str, str]] = {}
    """Functions in which the host reads values of a batch, each with the reason. On a GPU it waits
    there; losses need none but these."""

    def phases(self) -> tuple[Phase, ...]:
        """The optimizer steps of a batch, in order."""
        raise TypeError(f"{type(self).__name__} must define phases()")

    def prepare(self, batch: Batch, noise: BatchRNG, due: Collection[str]) -> Any:
        """Compute values once per batch for the losses of all phases that are due.

        A GAN generates its fakes here, with their graph only if its generator phase is due. The
        weights are those from before the batch's steps. Micro-batches call it once for each phase,
        with the same weights.
        """
        return None

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a phase, a mean over the batch: () and metrics to report, each () and detached.

        Pure: no backward, no step; all randomness comes from `noise`. `shared` is what prepare()
        returned for this batch. `batch["sum/NAME"]` are the loss_sums() of all rows of the batch.
        """
        raise TypeError(f"{type(self).__name__} must define loss()")

    def loss_sums(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> dict[str, Tensor]:
        """Sums over the rows of `batch` that loss() needs of the whole batch; empty by default.

        Such as the products of latents, of which it makes their covariance: {name: any shape}. The
        loss finds the sums over all rows as `batch["sum/NAME"]`, and its gradient goes through them
        to every row. A batch in parts or of several workers is gone through three times for them:
        these sums, the slopes of the loss by the sums, and the gradients. Names and shapes are
        always the same. `shared` is what prepare() returned for these rows.
        """
        return {}

    @property
    def has_loss_sums(self) -> bool:
        """True if losses need loss_sums(); spectral norms then iterate once, before the batch."""
        return type(self).loss_sums is not GenerativeModel.loss_sums

    def whole_loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss() of a batch that is neither divided into parts nor among workers."""
        sums = self.loss_sums(phase, batch, noise, shared)
        return self.loss(phase, with_sums(batch, sums), noise, shared)

    def batch_sums(self, batch: Batch, noise: BatchRNG, shared: Any) -> dict[str, Tensor]:
        """Sums over the rows of `batch` that update() needs of the whole batch; empty by default.

        Such as how many rows chose each code of a codebook: {name: any shape}. Called once for each
        row, without gradients, with the weights before the batch's steps. A batch may be divided
        into parts and among workers: the loop adds their sums up. Names and shapes are always the
        same. `shared` is what prepare() returned for these rows.
        """
        return {}

    def update(self, sums: dict[str, Tensor]) -> None:
        """Change buffers after the steps of a batch, by the batch_sums() over all of its rows.

        Without gradients; on every worker with equal sums, so that their buffers stay equal. What
        it does is undone if the batch's losses are not finite.
        """

    def collapsed(self, values: dict[str, float]) -> str:
        """Reason and cure if the `phase/name` values of a batch mean a collapse; "" otherwise."""
        return ""

    def distributions(self, batch: Batch, noise: BatchRNG) -> dict[str, Tensor]:
        """Outputs for histograms, in eval mode: {name: (N,)}; empty unless overridden."""
        return {}

    def averaged(self) -> nn.Module:
        """Part whose moving average is exported; the whole model unless overridden."""
        return self

    def exports(self) -> dict[str, Export]:
        """Signatures by name: `sample` if any is drawn from a seed.

        A model may have others only, such as `upscale`, which makes an image of an image, or
        `encode`. See aigc/metrics/restoration.py for how images of images are judged.
        """
        raise TypeError(f"{type(self).__name__} must define exports()")
