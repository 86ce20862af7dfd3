"""Quality during training: how far samples are from real ones, by aigc/metrics/<modality>.py."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc import data
from aigc.artifact import Signature, latents
from aigc.artifact.axes import free_positions
from aigc.artifact.sampling_inputs import Arrays, setting
from aigc.config import TrainConfig
from aigc.data import Dataset, Source
from aigc.metrics import Distance, distance_to
from aigc.model import GenerativeModel

SAMPLES = 1000
"""Samples generated for one measurement."""
REAL_ROWS = 10_000
"""Largest number of real rows that samples are compared with."""

log = logging.getLogger(__name__)


class Quality:
    """Fréchet distance of samples to the training data, in features of their modality.

    quality = Quality(config, source)
    quality.measure(state.ema_model())     # lower is better; None if the modality has no distance
    """

    def __init__(self, config: TrainConfig, source: Source) -> None:
        self._config, self._source = config, source
        self._prepared = self._records = False
        self._distance: Distance | None = None

    def measure(self, model: GenerativeModel) -> float | None:
        """Distance of the samples of a model, which must be in eval mode.

        The first call trains the feature extractor, which may take minutes; if that fails, later
        calls return None.
        """
        if not self._prepared:
            self._prepared = True
            self._distance = self._prepare()
        return None if self._distance is None else self._distance(self._generated(model))

    @property
    def note(self) -> str:
        """Reason to doubt the distances; empty if there is none, or before the first of them."""
        return self._distance.note if self._distance else ""

    def _prepare(self) -> Distance | None:
        modality = self._config.model.modality
        distance = distance_to(modality, self._config.quality)
        prepared = distance and distance(self._real())
        if prepared is None:
            labels = "with" if self._source.classes else "without"
            log.warning("quality is not measured of data %s labels that are %s", labels, modality)
        return prepared

    def _real(self) -> Dataset:
        rows = np.sort(self._source.order(0, 0)[:REAL_ROWS])
        samples, labels = data.gather(self._source, rows.tolist(), "skip")
        self._records = samples.dtype.names is not None
        return Dataset(
            name=self._source.name,
            samples=samples,
            labels=labels,
            classes=self._source.classes,
            sample_rate_hz=getattr(self._source, "sample_rate_hz", 0),
        )

    def _generated(self, model: GenerativeModel, batch: int = 250) -> NDArray[Any]:
        """Samples in the source's form: records if it has several modalities."""
        starts = range(0, SAMPLES, batch)
        parts = [generate(model, range(i, i + batch), torch.arange(batch)) for i in starts]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not self._records:
            return next(iter(arrays.values()))
        rows = np.zeros(
            SAMPLES, [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
        )
        for name, array in arrays.items():
            rows[name] = array
        return rows


def generate(model: GenerativeModel, indices: range, turn: Tensor) -> dict[str, NDArray[Any]]:
    """Samples `indices` of seed 0 of a model in eval mode: (n, *shape) by output.

    Classes are `turn`, (n,) int64, modulo their number. Free axes have their default sizes.
    """
    like = next(model.parameters())
    part = model.exports()["sample"]
    drawn = draw(part.signature, indices, turn.cpu().numpy() % max(1, model.config.num_classes))
    inputs = [
        torch.from_numpy(value).to(like)
        if spec.kind not in ("label", "setting")
        else torch.from_numpy(value).to(like.device)
        for spec, value in zip(part.signature.inputs, drawn.values(), strict=True)
    ]
    # exports() makes constants where torch makes tensors by default.
    module = part.module.to(like.device)
    with torch.no_grad():
        output = module(*inputs)
    outputs = output if isinstance(output, tuple) else (output,)
    return {
        spec.name: (value.float() if value.is_floating_point() else value).cpu().numpy()
        for spec, value in zip(part.signature.outputs, outputs, strict=True)
    }


def draw(named: Signature, indices: range, labels: NDArray[np.int64]) -> Arrays:
    """Inputs of samples `indices` of seed 0 by name, with `labels` (n,) for classes."""
    inputs: Arrays = {}
    signature = named.at(named.sizes({}))
    for spec, free in zip(signature.inputs, named.inputs, strict=True):
        if spec.kind == "label":
            inputs[spec.name] = labels
        elif spec.kind == "setting":
            inputs[spec.name] = setting(spec, spec.default, len(indices))
        elif spec.kind == "uniform":
            places = free_positions(free.shape)
            inputs[spec.name] = latents.uniform(0, indices, spec.fixed_shape, spec.name, places)
        else:
            places = free_positions(free.shape)
            inputs[spec.name] = latents.normal(0, indices, spec.fixed_shape, free=places)
    return inputs
