"""What the loop and the exporter may ask of a model; everything else is the model's own affair."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from aigc.artifact.manifest import Signature
from aigc.config import ModelConfig, OptimizerConfig
from aigc.noise import Noise

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One optimizer step: the parameters of `module` descend `loss(name, ...)`."""

    name: str
    module: nn.Module
    optimizer: OptimizerConfig
    every: int = 1
    """Due on every n-th batch."""
    until: int = 0
    """Samples seen from which on it is not due any more; 0 for none."""
    decay: int = 0
    """Samples before `until` over which its learning rate falls linearly to nothing."""

    def due(self, batches: int, samples: int) -> bool:
        """Whether it takes part in the batch after so many, which were of so many samples."""
        return (batches + 1) % self.every == 0 and (samples < self.until or not self.until)

    def learning_rate(self, samples: int) -> float:
        """Of a step after so many samples."""
        left = 1.0 if not self.decay else min(1.0, (self.until - samples) / self.decay)
        return self.optimizer.learning_rate * max(0.0, left)


@dataclass(frozen=True, kw_only=True)
class Export:
    """One signature: a module whose forward takes and gives the signature's tensors in order.

    Exports that name the same graph share one file, so their modules must compute the same.
    """

    module: nn.Module
    signature: Signature


class GenerativeModel(nn.Module):
    """A GAN, a VAE or a mixture of both. Single-device code: no ranks, no devices, no logging."""

    family: ClassVar[str]
    config: ModelConfig

    def phases(self) -> tuple[Phase, ...]:
        """The optimizer steps of a batch, in order."""
        raise TypeError(f"{type(self).__name__} must define phases()")

    def prepare(self, batch: Batch, noise: Noise, due: Collection[str]) -> Any:
        """Computed once per batch and given to the loss of every phase that is due.

        A GAN generates its fakes here, with their graph only if its generator phase is due.
        """
        return None

    def loss(
        self, phase: str, batch: Batch, noise: Noise, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a phase, a mean over the batch: () and metrics to report, each () and detached.

        Pure: no backward, no step; all randomness comes from `noise`. `shared` is what prepare()
        returned for this batch.
        """
        raise TypeError(f"{type(self).__name__} must define loss()")

    def collapsed(self, values: dict[str, float]) -> str:
        """Why the figures of a batch (`phase/name`) mean that training goes nowhere, and the cure.

        "" if they do not.
        """
        return ""

    def distributions(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """What histograms are drawn of, in eval mode: {name: (N,)}; nothing unless overridden."""
        return {}

    def averaged(self) -> nn.Module:
        """The part whose moving average is exported; the whole model unless overridden."""
        return self

    def exports(self) -> dict[str, Export]:
        """Signatures by name; `sample` must be one of them."""
        raise TypeError(f"{type(self).__name__} must define exports()")
