"""Quality measured beside the run, in a process of its own: training never waits for it."""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MAX_PENDING = 8
"""Checkpoints that may wait for their measurement: each keeps its files on the disk."""
MAX_DEATHS = 3
"""Deaths of the process in a row, without a measurement, after which it is not started again."""
SILENCE_S = 120.0
"""Silence after which the process counts as stuck and is killed."""
WAIT_S = 600.0
"""Longest wait for one measurement at the end of a run."""
SAY_S = 5.0
POLL_S = 0.05


@dataclass(frozen=True)
class Measurement:
    """The answer for one checkpoint."""

    samples: int
    quality: float | None
    """None if it could not be measured."""
    note: str = ""
    """Reason to doubt the quality, or for which there is none."""
    metric: str = ""
    """Name of the quality, such as frechet/cnn64."""


class Process:
    """A process that speaks as aigc/training/evaluation_process.py does, and the pipes to it."""

    def __init__(self, command: list[str]) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run, which ends this process itself
        )
        self.pid = self._process.pid
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.last_sign = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last_sign = time.monotonic()
            with suppress(ValueError):
                self.answers.put(json.loads(line))

    def send(self, samples: int) -> None:
        """Request a measurement; the pipe has room for more than may be pending."""
        assert self._process.stdin is not None
        with suppress(OSError):  # of a dead process, which `ended` says
            self._process.stdin.write(f"{samples}\n".encode())
            self._process.stdin.flush()

    @property
    def ended(self) -> str:
        """Words for its end; empty while it lives or answers are left."""
        status = self._process.poll()
        if status is None:
            return ""
        self._kill_group()
        if self._reader.is_alive() or not self.answers.empty():
            return ""
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"its process ended with {name}"

    def kill(self) -> None:
        """End it and what it started at once, also while it is stopped."""
        self._kill_group()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _kill_group(self) -> None:
        """End what it started too: a process that a metric forked would hold the pipe open."""
        with suppress(ProcessLookupError, PermissionError):  # the group is gone
            os.killpg(self.pid, signal.SIGKILL)


def start(run: Path) -> Process:
    """Start the process for a run."""
    return Process([sys.executable, "-P", "-m", "aigc.training.evaluation_process", str(run)])


class Evaluator:
    """Measures checkpoints one after the other, in the order in which they were put.

    evaluator = Evaluator(run.folder)
    evaluator.put(64_000)              # returns at once
    for found in evaluator.take(): ... # what was measured meanwhile

    A process that dies or hangs costs the measurement it was at, and is started again. All methods
    are for one thread.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._process: Process | None = None
        self._pending: deque[int] = deque()
        self._deaths = 0
        self._given_up = ""
        self._failing = False
        self._taken = time.monotonic()

    @property
    def pending(self) -> int:
        """Number of checkpoints that are still to be measured."""
        return len(self._pending)

    def put(self, samples: int) -> Measurement | None:
        """Request a measurement. Returns the failure if there will be none."""
        if self._given_up:
            return Measurement(samples, None, self._given_up)
        if len(self._pending) >= MAX_PENDING:
            reason = f"{MAX_PENDING} checkpoints are waiting already"
            self._warn(samples, f"{reason}; a larger --evaluate-interval avoids that")
            return Measurement(samples, None, reason)
        self._pending.append(samples)
        if self._process is not None:
            self._process.send(samples)
        elif reason := self._begin():
            self._pending.clear()
            self._warn(samples, reason)
            return Measurement(samples, None, reason)
        return None

    def take(self) -> list[Measurement]:
        """Measurements since the last call. Never waits."""
        process, now = self._process, time.monotonic()
        if process is None:
            return []
        if now - self._taken > SILENCE_S / 2:  # this process was stopped, not the other
            process.last_sign = now
        self._taken = now
        found = []
        while not process.answers.empty():
            found += self._understand(process.answers.get())
        if self._process is process and (reason := process.ended or self._stuck(process)):
            found += self._died(reason)
        return found

    def results(self, stop: Callable[[], bool]) -> Iterator[Measurement]:
        """Measurements as they come, until none is pending, `stop()` is true, or one takes more
        than WAIT_S."""
        begun, said = time.monotonic(), False
        while self._pending and not stop():
            for found in self.take():
                begun = time.monotonic()
                yield found
            waited = time.monotonic() - begun
            if waited > SAY_S and not said:
                said = True
                log.warning("training is done; waiting for %d measurements", self.pending)
            if waited > WAIT_S:
                yield from self.give_up(f"it took more than {WAIT_S:.0f} s")
            time.sleep(POLL_S)

    def give_up(self, reason: str) -> list[Measurement]:
        """End the process; whatever is pending will not be measured."""
        self._given_up = reason
        left = [Measurement(samples, None, reason) for samples in self._pending]
        log.warning("training goes on without the measurement of quality: %s", reason)
        self.close()
        return left

    def close(self) -> None:
        """End the process; what is pending stays for the next start of the run."""
        self._pending.clear()
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _begin(self) -> str:
        """Start the process, and send it what is pending. Returns the reason if that fails."""
        try:
            self._process = start(self._run)
        except OSError as error:  # no memory, or no process more is allowed
            return f"its process does not start: {error}"
        for samples in self._pending:
            self._process.send(samples)
        return ""

    def _stuck(self, process: Process) -> str:
        silent = time.monotonic() - process.last_sign
        return f"it was silent for {silent:.0f} s" if silent > SILENCE_S else ""

    def _understand(self, message: dict[str, Any]) -> list[Measurement]:
        if "warning" in message:
            log.warning("%s", message["warning"])
        if "samples" not in message:
            return []
        samples = message["samples"]
        self._deaths = 0
        if message.get("nothing"):
            self._given_up = "nothing measures this data"
            left = [Measurement(each, None, self._given_up) for each in self._pending]
            self.close()
            return left
        if self._pending and self._pending[0] == samples:
            self._pending.popleft()
        if "failed" in message:
            self._warn(samples, message["failed"])
            return [Measurement(samples, None, message["failed"])]
        self._failing = False
        quality, note, metric = (message[key] for key in ("quality", "note", "metric"))
        return [Measurement(samples, quality, note, metric)]

    def _died(self, reason: str) -> list[Measurement]:
        assert self._process is not None
        self._process.kill()
        self._process = None
        self._deaths += 1
        if not self._pending:  # it is started again when it is needed
            log.warning("the evaluator of quality is gone: %s; training goes on", reason)
            return []
        samples = self._pending.popleft()
        self._warn(samples, reason)
        lost = [Measurement(samples, None, reason)]
        if self._deaths >= MAX_DEATHS:
            return lost + self.give_up(f"{reason}, {self._deaths} times in a row")
        if self._pending and (failed := self._begin()):
            lost += [Measurement(each, None, failed) for each in self._pending]
            self._pending.clear()
        return lost

    def _warn(self, samples: int, reason: str) -> None:
        """Log a failure, once until a measurement succeeds again."""
        if not self._failing:
            log.warning(
                "training goes on without the measurement of quality: %s, of the state after %d"
                " samples",
                reason,
                samples,
            )
        self._failing = True
