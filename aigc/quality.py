"""Quality during training: the judge of `aigc evaluate`, on fewer samples."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

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
        read = [data.read(self._source, int(row), "skip") for row in rows]
        samples = np.stack([sample for sample, _, _ in read])
        if samples.dtype == np.uint8:
            samples = samples.astype(np.float32) / np.float32(127.5) - 1
        return Dataset(
            name=self._source.name,
            samples=samples,
            labels=np.array([label for _, label, _ in read], np.int64),
            classes=self._source.classes,
        )

    def _generated(self, model: GenerativeModel, batch: int = 250) -> NDArray[np.float32]:
        module = model.exports()["sample"].module
        like = next(model.parameters())
        parts = []
        for start in range(0, SAMPLES, batch):
            z = latents.normal(0, range(start, start + batch), (model.config.latent,))
            inputs = [torch.from_numpy(z).to(like)]
            if model.config.num_classes:
                inputs.append(torch.arange(batch, device=like.device) % model.config.num_classes)
            with torch.no_grad():
                parts.append(module(*inputs).float().cpu().numpy())
        return np.concatenate(parts)
