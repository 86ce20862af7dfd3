"""Which samples run next: lanes in turn, and in a lane every waiting job an equal share.

queue = Fair()
queue.push(Job(lane=lane, n=100, draw=draw))
pieces = queue.take()  # the next batch
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class Lane(Protocol):
    """A graph that takes batches. Told apart by identity."""

    @property
    def max_batch(self) -> int:
        """Most samples per run."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Inputs with a batch axis first -> outputs with the same batch axis. In a thread."""

    def observe(self, batch: "Batch") -> None:
        """Told of every batch that ran, on the event loop: here metrics are counted."""


@dataclass(eq=False, kw_only=True)
class Job:
    """One request: `n` samples of a lane."""

    lane: Lane
    n: int
    draw: Callable[[int, int], Arrays]
    """(start, stop) -> the inputs of samples start .. stop - 1 of this job. Runs in the thread."""
    draw_together: "Callable[[Sequence[Piece]], Arrays] | None" = None
    """The inputs of several pieces, in order, whose jobs all have this same function: one call
    costs less than one for each. If it raises, each is drawn alone, to find whose fault it is."""
    deadline_s: float | None = None
    """Samples not taken by then are not run, by the monotonic clock; None to wait for ever."""
    taken: int = 0
    """Samples that went into a batch already."""
    outputs: Arrays = field(default_factory=dict)
    """Of the samples that ran, in their place."""
    queued_at_s: float = 0.0
    waited_s: float | None = None
    """From submission to the first batch, by the monotonic clock."""
    done: "asyncio.Future[Arrays] | None" = None

    def place(self, piece: "Piece", outputs: Arrays) -> None:
        """Keep the outputs of a piece of this job.

        A part is copied: a view would keep the whole batch in memory, for one sample of it.
        """
        if piece.stop - piece.start == self.n:
            self.outputs = outputs
            return
        if not self.outputs:
            self.outputs = {
                name: np.empty((self.n, *array.shape[1:]), array.dtype)
                for name, array in outputs.items()
            }
        for name, array in outputs.items():
            self.outputs[name][piece.start : piece.stop] = array


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Samples start .. stop - 1 of a job, in one batch."""

    job: Job
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch that ran: its size, how long the thread took, and the waits that ended with it."""

    size: int
    seconds: float
    waits_s: tuple[float, ...]


@dataclass(kw_only=True)
class Waiting:
    """What waits in one lane."""

    jobs: OrderedDict[Job, None] = field(default_factory=OrderedDict)
    """In the order of their turns."""
    samples: int = 0


class Queue(Protocol):
    """Which samples run next. Another order is another class with these four."""

    @property
    def waiting(self) -> Mapping[Lane, Waiting]:
        """The lanes that have jobs, and no others."""

    def push(self, job: Job) -> None:
        """Append a job."""

    def take(self) -> list[Piece]:
        """The next batch: pieces of one lane, at most its max_batch samples. Empty if none."""

    def discard(self, job: Job) -> None:
        """Forget the samples of a job that were not taken yet."""


class Fair:
    """Lanes take turns, a batch each; a batch is shared out equally among its lane's jobs.

    A batch has room for B samples. Of J <= B jobs each gets room for B / J; what a job does not
    need goes to the others, and what is left by rounding to those whose turn is first. Of J > B
    jobs the first B get one sample each. Whoever got some and needs more goes to the end, in
    order, behind those that came meanwhile. Nothing waits while a batch has room.

    Bound: a job of n samples is wholly taken after at most `most_batches(n, J, B)` batches of its
    lane, J the most jobs that waited in the lane at once during its wait, itself among them; and
    while L lanes have jobs, each has one of any L batches in a row. For J <= B each batch takes
    all that the job has left or at least B // J of it. For J > B nobody is ever put before it, and
    a batch that does not reach it takes B jobs from before it, of which there are less than J: it
    gets a sample from one of any ceil(J / B) batches in a row.

    A push or discard costs the same however many wait; a take costs what its own jobs do.
    """

    def __init__(self) -> None:
        self.waiting: OrderedDict[Lane, Waiting] = OrderedDict()
        """In the order of their turns."""

    def push(self, job: Job) -> None:
        waiting = self.waiting.get(job.lane)
        if waiting is None:
            waiting = self.waiting[job.lane] = Waiting()
        waiting.jobs[job] = None
        waiting.samples += job.n - job.taken

    def take(self) -> list[Piece]:
        if not self.waiting:
            return []
        lane, waiting = next(iter(self.waiting.items()))
        pieces = []
        for job, share in _shares(waiting, lane.max_batch):
            start, job.taken = job.taken, job.taken + share
            pieces.append(Piece(job=job, start=start, stop=job.taken))
            waiting.samples -= share
            if job.taken < job.n:
                waiting.jobs.move_to_end(job)
            else:
                del waiting.jobs[job]
        if waiting.jobs:
            self.waiting.move_to_end(lane)
        else:
            del self.waiting[lane]
        return pieces

    def discard(self, job: Job) -> None:
        waiting = self.waiting.get(job.lane)
        if waiting is None or job not in waiting.jobs:
            return
        del waiting.jobs[job]
        waiting.samples -= job.n - job.taken
        if not waiting.jobs:
            del self.waiting[job.lane]


def most_batches(n: int, jobs: int, max_batch: int) -> int:
    """Most batches of its lane until a job of `n` samples is wholly taken, one of `jobs` there."""
    return _ceil(n, max(1, max_batch // jobs)) * _ceil(jobs, max_batch)


def _shares(waiting: Waiting, room: int) -> list[tuple[Job, int]]:
    """Who gets how many samples of a batch: at least one each, so there are at most `room`."""
    jobs = list(islice(waiting.jobs, room))
    if len(waiting.jobs) >= room:
        return [(job, 1) for job in jobs]
    needs = [job.n - job.taken for job in jobs]
    if waiting.samples <= room:
        return list(zip(jobs, needs, strict=True))
    share, left = _equal_share(needs, room)
    shares = []
    for job, need in zip(jobs, needs, strict=True):
        extra = 1 if left and need > share else 0
        left -= extra
        shares.append((job, min(need, share) + extra))
    return shares


def _equal_share(needs: list[int], room: int) -> tuple[int, int]:
    """The most that each may have when those that need less take less, and what is then left.

    There must be less room than is needed; less is left than there are jobs that need more.
    """
    others = len(needs)
    for need in sorted(needs):
        if need * others > room:
            break
        room -= need
        others -= 1
    return divmod(room, others)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
