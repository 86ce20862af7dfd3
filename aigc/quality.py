"""Quality during training: the judge of `aigc evaluate`, on fewer samples."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc import data
from aigc.artifact import latents
from aigc.config import TrainConfig
from aigc.data import Dataset, Source
from aigc.model import GenerativeModel

SAMPLES = 1000
"""Generated for one measurement."""
REAL_ROWS = 10_000
"""Most real rows that the judge is trained on."""

log = logging.getLogger(__name__)


class Quality:
    """Fréchet distance of samples to the training data, in features of a classifier trained on it.

    quality = Quality(config, source)
    quality.measure(state.served())     # lower is better; None where there is no judge
    """

    def __init__(self, config: TrainConfig, source: Source) -> None:
        self._config, self._source = config, source
        self._judge: object | None = None

    def measure(self, model: GenerativeModel) -> float | None:
        """Of a model in eval mode. The judge is trained at the first call, and cached."""
        from aigc.metrics.classifier import Classifier
        from aigc.metrics.frechet import frechet

        if self._config.model.modality != "image" or not self._source.classes:
            if self._judge is None:
                log.warning("quality is measured on labelled images; here it is not")
                self._judge = self
            return None
        if not isinstance(self._judge, tuple):
            real = self._real()
            judge = Classifier.trained_on(real)
            self._judge = judge, judge.judge(real.samples).features
        judge, features = self._judge
        return frechet(features, judge.judge(self._generated(model)).features)

    def _real(self) -> Dataset:
        rows = np.sort(self._source.order(0, 0)[:REAL_ROWS])
        samples, labels = data.gather(self._source, rows.tolist(), "skip")
        return Dataset(
            name=self._source.name,
            samples=samples,
            labels=labels,
            classes=self._source.classes,
        )

    def _generated(self, model: GenerativeModel, batch: int = 250) -> NDArray[np.float32]:
        starts = range(0, SAMPLES, batch)
        parts = (generated(model, range(i, i + batch), torch.arange(batch)) for i in starts)
        return np.concatenate([*parts])


def generated(model: GenerativeModel, indices: range, turn: Tensor) -> NDArray[np.float32]:
    """Samples `indices` of seed 0 of a model in eval mode, what is first of them: (n, *shape).

    Classes are `turn`, (n,) int64, modulo their number.
    """
    like = next(model.parameters())
    part = model.exports()["sample"]
    inputs = []
    for spec in part.signature.inputs:
        if spec.kind == "label":
            inputs.append(turn.to(like.device) % model.config.num_classes)
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
    first: Tensor = made[0] if isinstance(made, tuple) else made
    images: NDArray[np.float32] = first.float().cpu().numpy()
    return images
