"""A model under test: a small run of a preset, with rows that are drawn."""

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc import models
from aigc.config import ModelConfig, TrainConfig
from aigc.data import Dataset
from aigc.data.sources.paired import MASK, record
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.rng import BatchRNG
from aigc.testing.contract import UnderTest
from aigc.training.dataloader import as_batch, to_model_input

ROWS = 4
"""Size of a batch here: more than one, so that rows can influence each other."""
TRAINED_ROWS = 6
"""Size of the batches that are trained on: more than one row in each of two parts."""
DATASET_ROWS = 24


class ModelUnderTest(UnderTest):
    """A preset of a model. Everything is made once; checks must copy the model to change it.

    subject = ModelUnderTest(models.preset("dcgan:digits"), "dcgan:digits")
    """

    def __init__(self, config: TrainConfig, name: str) -> None:
        super().__init__()
        self.config, self.name = config, name
        self.file = getattr(models.load(config.model_name), "__file__", None)

    @cached_property
    def run(self) -> TrainConfig:
        """A run of a few small batches: enough for the phase that is due most rarely."""
        batches = max([2, *(phase.every for phase in self.phases)]) + 1
        return replace(
            self.config,
            batch=TRAINED_ROWS,
            samples=TRAINED_ROWS * batches,
            micro_batch=0,
            precision="float32",
            compile=False,
            sync_batch_norm=False,
            init_from="",
        )

    @cached_property
    def model(self) -> GenerativeModel:
        """The model, freshly initialised, in training mode."""
        torch.manual_seed(0)
        return models.build(self.config)

    def copied(self) -> GenerativeModel:
        """A copy of the model that may be changed."""
        return copy.deepcopy(self.model)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Phases of the model."""
        return self.model.phases()

    @cached_property
    def due(self) -> list[tuple[str, ...]]:
        """Sets of phases that are due on one batch: all of them, and each alone."""
        names = [phase.name for phase in self.phases]
        return [tuple(names), *((name,) for name in names if len(names) > 1)]

    @cached_property
    def exports(self) -> dict[str, Export]:
        """Exports of a copy of the model in eval mode."""
        return self.copied().eval().exports()

    @cached_property
    def dataset(self) -> Dataset:
        """Rows to train on, drawn within the ranges of their modalities."""
        return drawn(self.config.model, DATASET_ROWS)

    @cached_property
    def batch(self) -> Batch:
        """Rows as the model gets them."""
        rows = self.dataset
        return model_batch(self.config, rows.samples[:ROWS], rows.labels[:ROWS], self.model)


@dataclass(frozen=True, kw_only=True)
class PhaseLoss:
    """Result of loss() of one phase, and the gradients of the phase's parameters."""

    phase: str
    loss: Tensor
    metrics: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    """By the parameters' names; None for parameters that the loss does not depend on."""


def model_batch(
    config: TrainConfig, samples: NDArray[Any], labels: NDArray[np.int64], model: GenerativeModel
) -> Batch:
    """Rows as the loop gives them to a model."""
    like = next(model.parameters())
    taken = as_batch(samples, labels, config.model.modality)
    return {name: to_model_input(value, like) for name, value in taken.items()}


def losses(
    model: GenerativeModel, batch: Batch, due: Collection[str], seed: int = 1
) -> list[PhaseLoss]:
    """The phases of one batch that are due, as the loop takes them, but without a step.

    `seed` is that of torch's global generator, which Dropout alone may draw from.
    """
    model.train()
    size = len(batch["label"])
    noise = BatchRNG(3, 0, size, 0, size, next(model.parameters()))
    torch.manual_seed(seed)
    shared = model.prepare(batch, noise, set(due))
    found = []
    for phase in model.phases():
        if phase.name not in due:
            continue
        torch.manual_seed(seed)
        loss, metrics = model.whole_loss(phase.name, batch, noise, shared)
        named = dict(phase.module.named_parameters())
        gradients: list[Tensor | None] = [None] * len(named)
        if isinstance(loss, Tensor) and loss.requires_grad:
            gradients = list(
                torch.autograd.grad(
                    loss.sum(), list(named.values()), allow_unused=True, retain_graph=True
                )
            )
        found.append(
            PhaseLoss(
                phase=phase.name,
                loss=loss,
                metrics=metrics,
                gradients=dict(zip(named, gradients, strict=True)),
            )
        )
    return found


def drawn(model: ModelConfig, n: int) -> Dataset:
    """A data set of n rows that a model can take: noise in its range, every class, whole texts."""
    random = np.random.default_rng(0)
    parts = {name: _drawn(name, shape, model, random, n) for name, shape in model.shapes.items()}
    samples = next(iter(parts.values()))
    if len(parts) > 1:
        samples = np.zeros(n, record(model.shapes))
        for number, (name, part) in enumerate(parts.items()):
            # One row in `len(parts) + 1` lacks it: each lacks one modality at most.
            there = np.arange(n) % (len(parts) + 1) != number
            samples[name][there] = part[there]
            samples[f"{MASK}{name}"] = there
    classes = model.num_classes
    return Dataset(
        name="drawn rows",
        samples=samples,
        labels=np.arange(n, dtype=np.int64) % max(1, classes),
        classes=tuple(str(i) for i in range(classes)),
        vocabulary=tuple(chr(0x100 + i) for i in range(model.num_tokens)),
    )


def _drawn(
    modality: str, shape: tuple[int, ...], model: ModelConfig, random: np.random.Generator, n: int
) -> NDArray[Any]:
    if modality == "text":
        tokens = random.integers(1, model.num_tokens, (n, *shape))
        length = random.integers(0, shape[-1], (n, 1))
        return np.where(np.arange(shape[-1]) < length, tokens, 0)
    if modality == "vector":
        return random.standard_normal((n, *shape)).astype(np.float32)
    return random.uniform(-1, 1, (n, *shape)).astype(np.float32)


def plain_attributes(model: nn.Module) -> dict[str, Any]:
    """Numbers, texts and the like that the modules of a model hold beside their tensors."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
    }
