"""The process that measures the quality of a run's checkpoints while the run trains on.

    python -m aigc.training.evaluation_process RUN

Reads samples of checkpoints from standard input, one per line, and answers each with a line of
JSON: `samples` with `quality` and `note`, with `failed` and the reason, or with `nothing` if
nothing measures this modality. `alive` comes every second, `warning` when there is one. Runs on the
CPU with one thread and low priority, writes nothing into the run, and ends with its parent.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

NICENESS = 5
"""Added to the niceness of the training process: beside it on one core, a quarter of the time."""
BEAT_S = 1.0

Message = dict[str, Any]


def measurements(folder: Path, requests: Iterable[int]) -> Iterator[Message]:
    """Measure the checkpoints of `requests`; the first one prepares judge and data."""
    from aigc import data
    from aigc.training import checkpoint
    from aigc.training.quality import Quality, metric_name
    from aigc.training.quality_log import is_quality
    from aigc.training.run import Run
    from aigc.training.state import TrainState

    run, quality = Run(folder), None
    config = run.config()
    for samples in requests:
        try:
            state = TrainState(config)
            facts = checkpoint.load(run.checkpoints / f"{samples:012d}", state)
            if quality is None:
                # Read row by row: only the rows that the judge takes are held.
                source = data.load(replace(config.data, memory_mb=0), config.model)
                _check_same(facts["data"], source.fingerprint())
                quality = Quality(config, source)
            model = state.ema_model()
            value = quality.measure(model)
            if value is None:
                yield {"samples": samples, "nothing": True}
            elif is_quality(value):
                metric = metric_name(config, model, source.classes)
                yield {
                    "samples": samples,
                    "quality": value,
                    "note": quality.note,
                    "metric": metric,
                }
            else:
                yield {"samples": samples, "failed": f"it is {value}"}
        except Exception as error:
            yield {"samples": samples, "failed": _reason(error)}


def _check_same(trained: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError if the data are no longer those that the run is trained on."""
    changed = [key for key in now if key != "name" and trained.get(key) != now[key]]
    if changed:
        raise ValueError(f"the data changed since training began: {', '.join(changed)}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Warnings(logging.Handler):
    """Sends warnings to the parent."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send({"warning": record.getMessage()})


def main(folder: str) -> None:
    """Answer requests until standard input ends or the parent is gone."""
    parent = os.getppid()
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print must not mix with the answers
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            answers.write(json.dumps(message) + "\n")

    def beat() -> None:
        # A process that another one forked may hold the pipe open when the parent is gone.
        while os.getppid() == parent:
            try:
                send({"alive": True})
            except OSError:
                break
            threading.Event().wait(BEAT_S)
        os._exit(1)

    threading.Thread(target=beat, daemon=True).start()
    logging.getLogger("aigc").addHandler(_Warnings(send))
    import torch

    torch.set_num_threads(1)
    for message in measurements(Path(folder), (int(line) for line in sys.stdin)):
        send(message)


if __name__ == "__main__":
    main(sys.argv[1])
