"""Quality during training: how far samples are from real ones, by aigc/metrics/<modality>.py."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc import data
from aigc.artifact import latents
from aigc.artifact.contract import setting
from aigc.config import TrainConfig
from aigc.data import Dataset, Source
from aigc.metrics import Distance, distance_to
from aigc.model import GenerativeModel

SAMPLES = 1000
"""Generated for one measurement."""
REAL_ROWS = 10_000
"""Most real rows that samples are compared with."""

log = logging.getLogger(__name__)


class Quality:
    """Fréchet distance of samples to the training data, in features of their modality.

    quality = Quality(config, source)
    quality.measure(state.served())     # lower is better; None where there is no distance
    """

    def __init__(self, config: TrainConfig, source: Source) -> None:
        self._config, self._source = config, source
        self._found = self._records = False
        self._distance: Distance | None = None

    def measure(self, model: GenerativeModel) -> float | None:
        """Of a model in eval mode. What the distance has to learn it learns at the first call."""
        if not self._found:
            self._found, self._distance = True, self._find()
        return self._distance and self._distance(self._generated(model))

    def _find(self) -> Distance | None:
        modality = self._config.model.modality
        distance = distance_to(modality)
        found = distance and distance(self._real())
        if found is None:
            labels = "with" if self._source.classes else "without"
            log.warning("quality is not measured of data %s labels that are %s", labels, modality)
        return found

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
        """As the source has them: of several modalities records."""
        starts = range(0, SAMPLES, batch)
        parts = [generated(model, range(i, i + batch), torch.arange(batch)) for i in starts]
        made = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not self._records:
            return next(iter(made.values()))
        rows = np.zeros(
            SAMPLES, [(name, array.dtype, array.shape[1:]) for name, array in made.items()]
        )
        for name, array in made.items():
            rows[name] = array
        return rows


def generated(model: GenerativeModel, indices: range, turn: Tensor) -> dict[str, NDArray[Any]]:
    """Samples `indices` of seed 0 of a model in eval mode: (n, *shape) by output.

    Classes are `turn`, (n,) int64, modulo their number.
    """
    like = next(model.parameters())
    part = model.exports()["sample"]
    inputs = []
    for spec in part.signature.inputs:
        if spec.kind == "label":
            inputs.append(turn.to(like.device) % model.config.num_classes)
            continue
        if spec.kind == "setting":
            inputs.append(torch.from_numpy(setting(spec, spec.default, len(indices))))
            continue
        uniform = spec.kind == "uniform"
        drawn = (
            latents.uniform(0, indices, spec.shape, spec.name)
            if uniform
            else latents.normal(0, indices, spec.shape)
        )
        inputs.append(torch.from_numpy(drawn).to(like))
    with torch.no_grad():
        made = part.module(*inputs)
    outputs = made if isinstance(made, tuple) else (made,)
    return {
        spec.name: (value.float() if value.is_floating_point() else value).cpu().numpy()
        for spec, value in zip(part.signature.outputs, outputs, strict=True)
    }
