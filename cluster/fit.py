"""TorchTrainer round cluster.worker, watched from the driver."""

import sys
import threading
from collections.abc import Callable
from datetime import datetime

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from aigc.run import Report, Run
from aigc.train import Outcome
from cluster.board import News, create
from cluster.worker import Task, train_worker

MAX_RESTARTS = 100


class TrainingFailed(ArithmeticError):
    """The run ended with an error that a restart would meet again."""


def fit(
    run: Run, workers: int, show: Callable[[Report], None], stop: Callable[[], bool]
) -> Outcome:
    """Train a run on Ray until it is done or stopped; dead workers are restarted.

    `show` receives every report, `stop` is asked twice a second. Raises TrainingFailed with the
    reason if the run cannot go on; the last good checkpoint stays.
    """
    board = create()
    # Ray's own bookkeeping; the truth for resume is run.checkpoints, so each attempt gets a name.
    attempt = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": Task(str(run.folder), board, workers)},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=torch.cuda.is_available()),
        run_config=RunConfig(
            name=attempt,
            storage_path=str(run.folder / "ray"),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )
    errors: list[BaseException] = []
    # fit() blocks, and in the main thread it would take over SIGINT.
    thread = threading.Thread(target=_fit, args=(trainer, errors), daemon=True)
    thread.start()
    end, asked, begun = None, False, 0
    while True:
        thread.join(0.5)
        over = not thread.is_alive()
        if stop() and not asked:
            asked = True
            board.stop.remote()
        news: News = ray.get(board.take.remote())
        for samples in news.starts[begun == 0 :]:
            print(f"workers restarted from {samples:,} samples", file=sys.stderr)
        begun += len(news.starts)
        for report in news.reports:
            show(report)
        end = news.end or end
        if over:
            break
    if end is None or end[0] == "failed":
        reason = end[1] if end else f"Ray Train gave up: {errors[0] if errors else 'no reason'}"
        raise TrainingFailed(reason)
    return end[0]


def _fit(trainer: TorchTrainer, errors: list[BaseException]) -> None:
    try:
        trainer.fit()
    except BaseException as error:
        errors.append(error)
