"""Quality that reduced precision costs, by the distance that training measures."""

import math
from collections.abc import Callable

from torch import Tensor

from aigc import data
from aigc.artifact import Signature, autoregressive
from aigc.artifact.precision import QualityLoss, ReducedPrecision
from aigc.artifact.sampling_inputs import Arrays
from aigc.config import TrainConfig
from aigc.sealing.graph_runner import run_in_batches
from aigc.sealing.precision import Judge
from aigc.training.quality import Quality, draw


def judge(
    config: TrainConfig, sample: Signature | None, name: ReducedPrecision, most: float
) -> Judge:
    """Judge of a run's `sample` by its training data, which refuses a loss of more than `most`.

    It raises ValueError if the distance is larger than float32's by more than that share of it, or
    cannot be measured.
    """
    if sample is None:
        raise ValueError("--max-quality-loss judges signature 'sample', and the model has none")
    num_classes = config.model.num_classes

    def generated(run: autoregressive.Run) -> Callable[[range, Tensor], Arrays]:
        def generator(indices: range, turn: Tensor) -> Arrays:
            labels = turn.numpy() % max(1, num_classes)
            return run_in_batches(run, draw(sample, indices, labels))

        return generator

    def judged(float32: autoregressive.Run, reduced: autoregressive.Run) -> QualityLoss:
        quality = Quality(config, data.load(config.data, config.model))
        before, after = (quality.of_samples(generated(run)) for run in (float32, reduced))
        if before is None or after is None or not math.isfinite(before + after):
            raise ValueError(
                f"the quality of {config.model.modality} samples of these data cannot be measured;"
                " leave out --max-quality-loss"
            )
        loss = QualityLoss(float32=before, reduced=after)
        if loss.ratio > most:
            raise ValueError(
                f"{name} is further from the data than float32: {loss.reduced:.4g}, not"
                f" {loss.float32:.4g}, {loss.ratio:.1%} more (allowed {most:.1%}); take another"
                " precision or a larger --max-quality-loss"
            )
        return loss

    return judged
