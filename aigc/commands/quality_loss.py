"""Quality that reduced precision costs: metrics of `aigc evaluate` beside those in float32."""

import sys

from aigc.artifact import Artifact, Manifest
from aigc.commands.evaluate import evaluate_on, with_metrics
from aigc.commands.metrics_table import table
from aigc.commands.real_data import read_splits
from aigc.config import TrainConfig
from aigc.metrics import Evaluation
from aigc.sealing.precision import Judge

SAMPLES, SEED = 2000, 0
"""Samples that are evaluated: as many, and of the seed, that `aigc evaluate` takes."""
ADVICE = "put the run's data there, or leave out --max-quality-loss"


def judge(config: TrainConfig, most: float) -> Judge:
    """Judge of graphs by the data of a run, which refuses a loss of quality of more than `most`.

    It prints the table of metrics and puts them into the manifest. Raises ValueError if the data
    cannot be read, and the judge if no metric can be measured or one loses more.
    """
    real = read_splits(config, ADVICE)

    def judged(float32: Artifact, reduced: Artifact) -> Manifest:
        after, before = (evaluate_on(one, real, SAMPLES, SEED) for one in (reduced, float32))
        evaluation = after.beside(before)
        print(table(reduced.id, evaluation.metrics, evaluation.omitted), file=sys.stderr)
        check(evaluation, before, most)
        return with_metrics(reduced.manifest, evaluation.metrics)

    return judged


def check(evaluation: Evaluation, float32: Evaluation, most: float) -> None:
    """Raise ValueError if a metric loses more than `most`, or cannot be measured any more."""
    lost = {metric.name for metric in float32} - {metric.name for metric in evaluation}
    if lost:
        raise ValueError(
            f"{', '.join(sorted(lost))} can be measured in float32, but no more in this precision;"
            " take another"
        )
    losses = {m: m.quality_loss for m in evaluation if m.quality_loss is not None}
    if not losses:
        raise ValueError("no metric can be measured of so few data; leave out --max-quality-loss")
    metric = max(losses, key=losses.__getitem__)
    if losses[metric] > most:
        raise ValueError(
            f"{metric.name} is {metric.value:.4g}, in float32 {metric.float32:.4g}: worse by"
            f" {losses[metric]:.1%} (allowed {most:.1%}); take another precision or a larger"
            " --max-quality-loss"
        )
