"""Trials of a search on Ray Tune: each an ordinary run, halved at its rungs by ASHA.

The truth is in the runs' folders, not in Ray's: a search that goes on hands Ray Tune the
measurements that there are already, and each run resumes from its own checkpoint.
"""

import operator
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from aigc import data
from aigc.files import read_json
from aigc.training.loop import SingleProcess
from aigc.training.object_store import NullStore
from aigc.training.quality import Quality, metric_name
from aigc.training.quality_log import append_quality, is_quality, read_quality
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext
from aigc.training.run_folder import RAY
from cluster.search import TRIAL, Ended, Search, at_rung, newest_samples

LOCK_S = 60
"""Longest wait for a trial's process of a killed search to end."""
STARTS = 3
"""Starts of a trial whose process dies."""


def train_trial(parameters: dict[str, Any]) -> None:
    """Ray Tune's function: train a trial to each rung in turn, and report its quality there.

    Rungs that were measured before are reported again. ASHA ends it within a report.
    """
    with suppress(OSError):
        os.chdir(parameters["directory"])
    search, number = Search(Path(parameters["folder"])), parameters["trial"]
    folder = search.trial_folder(number)
    try:
        with FileLock(folder / ".lock", timeout=LOCK_S):
            _train(search, number, parameters["device"])
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        kind = (
            "" if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: "
        )
        search.end(number, "failed", f"{kind}{message}"[:500])


def _train(search: Search, number: int, device: str) -> None:
    folder, plan = search.trial_folder(number), search.plan()
    run = Run(folder)
    config, over = run.config(), (folder / TRIAL).exists()
    torch.set_num_threads(config.threads)
    source = quality = None
    for rung in plan.rungs:
        samples = at_rung(folder, rung, config.batch)
        if samples is None:
            if over:
                return
            samples = -(-rung // config.batch) * config.batch
            if source is None or quality is None:
                source = data.load(config.data, config.model)
                quality = Quality(config, source)
            if newest_samples(folder) < samples:
                stop = partial(operator.le, samples - config.batch)  # the last batch begins there
                context = RunContext(store=NullStore(folder), stop=stop)
                train_run(context, config, source, SingleProcess(device))
            model = run.load_state().ema_model()
            value = quality.measure(model)
            if value is None or not is_quality(value):
                found = "cannot be measured" if value is None else f"is {value}"
                raise ValueError(f"the quality after {samples:,} samples {found}")
            metric = metric_name(config, model, source.classes)
            append_quality(folder, samples, value, quality.note, metric=metric)
        if rung == plan.samples and not over:
            search.end(number, "done")
        tune.report({"samples": rung, "quality": read_quality(folder)[samples]})


def _nothing(self: object) -> dict[str, Any]:
    """State for the copy that Ray Tune keeps on the disk, from which nothing is resumed."""
    return {}


class _Stopper(tune.Stopper):  # type: ignore[misc]
    """Ends all trials once an event is set."""

    __getstate__ = _nothing

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.is_set()


class _Events(tune.Callback):  # type: ignore[misc]
    """Notes how trials end, and calls `changed` with each event."""

    __getstate__ = _nothing

    def __init__(self, search: Search, stop: threading.Event, changed: Callable[[], None]) -> None:
        self._search, self._stop, self._changed = search, stop, changed

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
    ) -> None:
        self._changed()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._stop.is_set():
            return
        self._end(trial, "halved")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._end(trial, "failed", f"its process died, {STARTS} times")

    def _end(self, trial: Any, ended: Ended, reason: str = "") -> None:
        number = trial.config["trial"]
        if read_json(self._search.trial_folder(number) / TRIAL) is None:
            self._search.end(number, ended, reason)
        self._changed()


def fit(
    search: Search, parallel: int, device: str, stop: threading.Event, changed: Callable[[], None]
) -> None:
    """Run the trials of a search, `parallel` at a time, until all have ended or `stop` is set.

    `changed` is called with every measurement and every end. Raises RuntimeError if Ray Tune gives
    up.
    """
    plan = search.plan()
    trials = search.trials()
    numbers = [trial.number for trial in sorted(trials, key=lambda trial: trial.ended == "")]
    resources = {"cpu": 1, **({"gpu": 1} if device == "cuda" else {})}
    tuner = tune.Tuner(
        tune.with_resources(train_trial, resources),
        param_space={
            "trial": tune.grid_search(numbers),
            "folder": str(search.folder.absolute()),
            "directory": str(Path.cwd()),
            "device": device,
        },
        tune_config=tune.TuneConfig(
            metric="quality",
            mode="min",
            scheduler=ASHAScheduler(
                time_attr="samples",
                max_t=plan.samples,
                grace_period=plan.first_rung,
                reduction_factor=plan.reduction,
            ),
            max_concurrent_trials=parallel,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=datetime.now().strftime("%Y%m%d-%H%M%S-%f"),
            storage_path=str((search.folder / RAY).absolute()),
            callbacks=[_Events(search, stop, changed)],
            stop=_Stopper(stop),
            failure_config=tune.FailureConfig(max_failures=STARTS - 1),
            verbose=0,
        ),
    )
    errors: list[BaseException] = []

    def run() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)  # it would take over SIGINT
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    shutil.rmtree(search.folder / RAY, ignore_errors=True)
    if errors:
        text = " ".join(str(errors[0]).split())
        raise RuntimeError(f"Ray Tune gave up: {text[:500]}") from errors[0]


class Progress:
    """A line about the trials, at most one in `every_s` seconds."""

    def __init__(self, search: Search, write: Callable[[str], None], every_s: float = 2.0) -> None:
        self._search, self._write, self._every_s = search, write, every_s
        self._begun = time.monotonic()
        self._before = sum(trial.samples for trial in search.trials())
        self._last = 0.0

    def show(self, *, force: bool = False) -> None:
        """Write the line if it is due."""
        now = time.monotonic()
        if now - self._last < self._every_s and not force:
            return
        self._last = now
        self._write(self.line(now - self._begun))

    def line(self, elapsed_s: float) -> str:
        """Trials by how they ended, samples, the best quality, and the time left.

        The trials that have not ended are expected to take as many samples as those that have.
        """
        trials = self._search.trials()
        ended = [trial for trial in trials if trial.ended]
        counts = {
            kind: sum(t.ended == kind for t in ended) for kind in ("done", "halved", "failed")
        }
        samples = sum(trial.samples for trial in trials)
        text = f"{len(ended)} of {len(trials)} trials ended ("
        text += ", ".join(f"{count} {way}" for way, count in counts.items() if count) or "none"
        text += f"), {samples:,} samples"
        best = self._search.ranked()[0]
        if best.quality is not None:
            text += f", best {best.quality:.4g} (trial {best.number})"
        new = samples - self._before
        if ended and new and len(ended) < len(trials):
            each = sum(trial.samples for trial in ended) / len(ended)
            left = sum(max(each - trial.samples, 0) for trial in trials if not trial.ended)
            text += f", {left * elapsed_s / new:.0f} s left"
        return text
