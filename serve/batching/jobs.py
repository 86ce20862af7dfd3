"""Values of batching: runners, jobs, slices of jobs, outcomes, and the errors of a batcher."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.sampling_inputs import Arrays
from serve.sampling_params import SamplingParams


class Runner(ABC):
    """A graph that runs batches. Compared by identity."""

    max_batch: int
    """Most samples per run."""
    max_seconds: float = math.inf
    """Seconds after which a run in the thread is given up."""
    is_bounded: bool = True
    """True if a run's duration depends on its size alone; False keeps it off the event loop."""
    is_autoregressive: bool = False
    """True for a StepRunner."""

    @abstractmethod
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Inputs with a batch axis first -> outputs with the same batch axis. In a thread."""

    @abstractmethod
    def observe(self, batch: "BatchStats") -> None:
        """Count a batch that ran. On the event loop."""

    def observe_failure(self, job: "Job", error: Exception) -> None:  # noqa: B027 - optional
        """Count a job that failed by its own parameters or by this runner. On the event loop."""

    def stop(self) -> None:  # noqa: B027 - optional
        """Ask a run that was given up to end."""


class StepRunner(Runner):
    """A runner whose samples need several runs. It holds rows, each at its own step."""

    is_autoregressive = True

    @abstractmethod
    def keep(self, rows: "Sequence[BatchSlice]") -> None:
        """Drop all rows but these."""

    @abstractmethod
    def join(self, rows: "Sequence[BatchSlice]", inputs: Arrays) -> None:
        """Add rows, slices of one sample each. Raises for bad inputs and then changes nothing."""

    @abstractmethod
    def advance(self) -> "tuple[list[BatchSlice], list[Outcome], list[int]]":
        """Run one step of all rows: rows, their outcomes, and the steps of each that ended."""


def is_autoregressive(runner: Runner) -> TypeGuard[StepRunner]:
    """True if samples of the runner need several runs."""
    return runner.is_autoregressive


Group = Runner | tuple[Runner, Hashable]
"""Jobs that may share a batch: those of a runner, or those with the same runner and key."""


def runner_of(group: Group) -> Runner:
    """The runner of a group."""
    return group[0] if isinstance(group, tuple) else group


@dataclass(eq=False, kw_only=True)
class Job:
    """One request to the batcher: the samples of its parameters, from one runner."""

    runner: Runner
    params: SamplingParams
    key: Hashable = None
    """Names, types and row shapes of the inputs where they differ from the runner's usual ones: a
    batch holds jobs of one key."""
    request_id: str = ""
    """Request id for the log."""
    draw: Callable[[int, int], Arrays]
    """(start, stop) -> inputs of samples start .. stop - 1 of this job. Runs in the thread."""
    draw_together: "Callable[[Sequence[BatchSlice]], Arrays] | None" = None
    """Inputs of several slices in order, if their jobs all have this function: cheaper than one
    call each. If it raises, each slice is drawn alone to find the job at fault."""
    cost: float = 1.0
    """Time and memory of a sample beside those of one of the runner's usual size."""
    max_batch: int = 0
    """Most samples in a batch of its group; 0 for the runner's."""
    deadline_s: float | None = None
    """Monotonic time after which samples are not started; None for no deadline."""
    on_progress: "Callable[[int, Outcome], None] | None" = None
    """Called on the event loop with a sample's position and its new outcome."""
    taken: int = 0
    """Number of samples already put into batches."""
    waiting: int = 0
    """Number of samples counted as queued."""
    outputs: Arrays = field(default_factory=dict)
    """Outputs of the samples that ran, in place."""
    placed: int = 0
    """Number of samples in `outputs`."""
    queued_at_s: float = 0.0
    """Monotonic time of submission."""
    waited_s: float | None = None
    """Seconds from submission to the first batch; None before."""
    done: "asyncio.Future[Arrays] | None" = None

    def __post_init__(self) -> None:
        self.n = self.params.n
        self.max_batch = self.max_batch or self.runner.max_batch
        self.group: Group = self.runner if self.key is None else (self.runner, self.key)

    @property
    def is_done(self) -> bool:
        """True once it is answered or given up."""
        return self.done is None or self.done.done()

    def place(self, part: "BatchSlice", outputs: Arrays) -> None:
        """Store the outputs of a slice of this job.

        Copied unless the slice is the whole job: a view would keep the whole batch in memory for
        one sample. Raises ValueError if names, types or row shapes differ from earlier slices.
        """
        self.placed += len(part)
        if part.stop - part.start == self.n:
            self.outputs = outputs
            return
        if not self.outputs:
            self.outputs = {
                name: np.empty((self.n, *array.shape[1:]), array.dtype)
                for name, array in outputs.items()
            }
        before = {name: (array.dtype, array.shape[1:]) for name, array in self.outputs.items()}
        now = {name: (array.dtype, array.shape[1:]) for name, array in outputs.items()}
        if now != before:
            raise ValueError(f"outputs changed from run to run: {before}, then {now}")
        for name, array in outputs.items():
            self.outputs[name][part.start : part.stop] = array


@dataclass(frozen=True, kw_only=True)
class BatchSlice:
    """Samples start .. stop - 1 of a job, in one batch."""

    job: Job
    start: int
    stop: int
    begun: bool = False
    """True if it continues from the previous batch."""

    def __len__(self) -> int:
        return self.stop - self.start

    def rows(self) -> "list[BatchSlice]":
        """One slice per sample, marked as begun."""
        return [
            BatchSlice(job=self.job, start=i, stop=i + 1, begun=True)
            for i in range(self.start, self.stop)
        ]

    def is_over(self, now_s: float) -> bool:
        """True if its job is done, or it has not begun and the deadline has passed."""
        job = self.job
        if job.is_done:
            return True
        return not self.begun and job.deadline_s is not None and job.deadline_s <= now_s


@dataclass(frozen=True, kw_only=True)
class PartialOutput:
    """The outcome of a run for a sample that needs further runs."""

    part: NDArray[Any]
    """Everything drawn of the sample so far."""


Outcome = Arrays | PartialOutput | Exception
"""The result of a run for one slice: outputs, a partial output, or the reason for none."""


@dataclass(frozen=True, kw_only=True)
class BatchStats:
    """Figures of a batch that ran."""

    size: int
    """Number of samples."""
    seconds: float
    """Duration in the thread."""
    waits_s: tuple[float, ...]
    """Queue waits of the jobs whose first batch this is."""
    ended: int | None = None
    """Number of samples completed by an autoregressive runner; None for others, which complete
    all."""


class OverloadedError(Exception):
    """The queue is full or too long. `retry_after_s`: when to try again."""

    def __init__(self, retry_after_s: int, reason: str = "the queue is full") -> None:
        super().__init__(f"{reason}, try again in {retry_after_s} s")
        self.reason = reason
        self.retry_after_s = retry_after_s


class TooLateError(OverloadedError):
    """The queue is too long for the job's deadline."""


class DeadlineError(Exception):
    """The deadline passed before all samples had started; the rest were not run."""

    def __init__(self, n: int) -> None:
        super().__init__(
            f"the deadline passed before all {n} samples were run; ask for fewer or allow more time"
        )


class ClosedError(Exception):
    """The batcher was closed before the job was done."""

    def __init__(self, message: str = "", job: Job | None = None) -> None:
        super().__init__(*([message] if message else []))
        self._job = job

    @property
    def begun(self) -> bool:
        """True if some samples of the job may have run."""
        return self._job is not None and self._job.waited_s is not None


class StuckError(ClosedError):
    """A batch does not end, so the batcher takes no more work; this job was not in that batch."""

    def __init__(self, job: Job | None = None) -> None:
        super().__init__(
            "a run of this replica does not end, so it is being replaced; try again", job
        )


class RunTooLongError(Exception):
    """The job was in a batch that ran for too long, possibly because of it."""


class UnavailableError(Exception):
    """No replica of a pool answered. One sentence."""


def as_exception(error: BaseException) -> Exception:
    """An error that a future accepts and that does not end a task or a process."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"the job raised {error!r}")
    wrapped.__cause__ = error
    return wrapped


def batch_error(error: BaseException) -> Exception:
    """A new error for one of several jobs that failed together."""
    wrapped = RuntimeError(f"the batch failed: {error!r}")
    wrapped.__cause__ = error
    return wrapped
