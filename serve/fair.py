"""Which samples run next: lanes in turn, and in a lane who would be done first if all shared alike.

queue = Fair()
queue.push(Job(lane=lane, n=100, draw=draw))
pieces = queue.take()  # the next batch
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

Until = Callable[[NDArray[Any]], bool]
"""What was drawn of a sample that goes by steps, so far -> whether that is enough of it."""


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
    until: Until | None = None
    """Ends samples of a lane that goes by steps early. Runs in the thread."""
    hear: "Callable[[int, Outcome], None] | None" = None
    """Told of the sample at an index whenever something has come of it. On the event loop."""
    placed: int = 0
    """Samples whose outputs are there."""
    queued_at_s: float = 0.0
    waited_s: float | None = None
    """From submission to the first batch, by the monotonic clock."""
    done: "asyncio.Future[Arrays] | None" = None

    def place(self, piece: "Piece", outputs: Arrays) -> None:
        """Keep the outputs of a piece of this job.

        A part is copied: a view would keep the whole batch in memory, for one sample of it.
        """
        self.placed += len(piece)
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
    begun: bool = False
    """It was in the batch before, and goes on."""

    def __len__(self) -> int:
        return self.stop - self.start

    def rows(self) -> "list[Piece]":
        """Its samples one by one, as they go on."""
        return [
            Piece(job=self.job, start=i, stop=i + 1, begun=True)
            for i in range(self.start, self.stop)
        ]


@dataclass(frozen=True, kw_only=True)
class GoesOn:
    """What a run is for a sample that needs more of them."""

    part: NDArray[Any]
    """What has come of it so far."""


Outcome = Arrays | GoesOn | Exception
"""What came of a piece in a run: its outputs, a part of them, or why there are none."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch that ran: its size, how long the thread took, and the waits that ended with it."""

    size: int
    seconds: float
    waits_s: tuple[float, ...]
    ended: int | None = None
    """How many samples are there now, in a lane that goes by steps; all of them in another."""


Turn = tuple[float, int]
"""When a job would be done if all shared alike, and a number that no other turn of its lane has."""


class EqualShares:
    """How far a lane would be if each of its jobs got the same number of samples at any time.

    `each` is what a job there from the start would have got; a job of n samples that comes now is
    done when it has grown by n. (The virtual time of fair queueing: Demers, Keshav, Shenker 1989.)
    """

    def __init__(self) -> None:
        self.each = 0.0
        self._turns: list[Turn] = []
        self._gone: set[Turn] = set()
        self._number = 0

    def enter(self, n: float) -> Turn:
        """A job of n samples comes."""
        self._number += 1
        turn = self.each + n, self._number
        heappush(self._turns, turn)
        return turn

    def leave(self, turn: Turn, unused: int) -> None:
        """A job goes without its last samples; those that it got count as its share."""
        left = turn[0] - self.each
        if left > 0:
            self._gone.add(turn)
        if left > unused:
            self.enter(left - unused)

    def serve(self, samples: float) -> None:
        """So many samples were taken, by all alike."""
        while self._turns:
            first = self._turns[0]
            if first in self._gone:
                self._gone.remove(heappop(self._turns))
                continue
            jobs = len(self._turns) - len(self._gone)
            until_done = (first[0] - self.each) * jobs
            if until_done > samples:
                self.each += samples / jobs
                return
            samples -= until_done
            self.each = first[0]
            heappop(self._turns)


@dataclass(kw_only=True)
class Waiting:
    """What waits in one lane."""

    jobs: dict[Job, Turn] = field(default_factory=dict)
    """In the order in which they came."""
    samples: int = 0
    order: list[tuple[Turn, Job]] = field(default_factory=list)
    """A heap, in which jobs that wait no more may linger."""
    shares: EqualShares = field(default_factory=EqualShares)
    owed: float = 0.0
    """Samples that the eldest has still to get."""
    going_on: list[Piece] = field(default_factory=list)
    """Pieces that were in a batch before, and are in the next one."""

    def first(self) -> Job:
        """Who would be done first if all shared alike."""
        while self.order[0][1] not in self.jobs:
            heappop(self.order)
        return self.order[0][1]

    def grant(self, job: Job, room: int) -> int:
        """Take at most so many samples of a job; returns how many."""
        got = min(room, job.n - job.taken)
        job.taken += got
        self.samples -= got
        if job.taken == job.n:
            del self.jobs[job]
        return got


class Queue(Protocol):
    """Which samples run next. Another order is another class with these five."""

    @property
    def waiting(self) -> Mapping[Lane, Waiting]:
        """The lanes that have jobs or pieces that go on, and no others."""

    def push(self, job: Job) -> None:
        """Append a job."""

    def take(self) -> list[Piece]:
        """The next batch: pieces of one lane, at most its max_batch samples. Empty if none."""

    def resume(self, lane: Lane, pieces: list[Piece]) -> None:
        """Pieces of the batch before are in the next one of their lane, before any others."""

    def discard(self, job: Job) -> None:
        """Forget the samples of a job that were not taken yet."""


class Fair:
    """Lanes take turns, a batch each; a lane's jobs run in the order in which equal shares end.

    Were each batch shared out equally among the jobs that wait, all of them would be fair, late,
    and in many pieces. Whoever would be done first that way goes first here, whole: nobody is done
    later than with equal shares, and most are done earlier (the Fair Sojourn Protocol: Friedman and
    Henderson 2003). So a job of 1 passes one of 500.

    `eldest_share` of the room goes before that to whoever came first, so that many small jobs, as
    many as there is room for, do not keep a large one waiting: when a job comes behind s samples,
    its own among them, it is done by the time that s / eldest_share were taken, and a batch more.

    While L lanes have jobs, each has one of any L batches in a row. Nothing waits while a batch has
    room. A push, and each piece of a take, costs the logarithm of how many wait.

    In a lane that goes by steps a batch is one step: samples that need more go on, and those that
    wait join them as others end (Orca: Yu et al. 2022).
    """

    def __init__(self, eldest_share: float = 0.25) -> None:
        self.waiting: OrderedDict[Lane, Waiting] = OrderedDict()
        """In the order of their turns."""
        self._eldest_share = eldest_share

    def push(self, job: Job) -> None:
        waiting = self.waiting.get(job.lane)
        if waiting is None:
            waiting = self.waiting[job.lane] = Waiting()
        turn = waiting.shares.enter(job.n - job.taken)
        waiting.jobs[job] = turn
        heappush(waiting.order, (turn, job))
        waiting.samples += job.n - job.taken

    def take(self) -> list[Piece]:
        if not self.waiting:
            return []
        lane, waiting = next(iter(self.waiting.items()))
        going_on, waiting.going_on = waiting.going_on, []
        free = room = lane.max_batch - len(going_on)
        waiting.owed += self._eldest_share * room
        got: dict[Job, int] = {}
        while room and waiting.jobs:
            of_eldest = min(room, int(waiting.owed))
            job = next(iter(waiting.jobs)) if of_eldest else waiting.first()
            granted = waiting.grant(job, of_eldest or room)
            got[job] = got.get(job, 0) + granted
            room -= granted
            waiting.owed -= granted if of_eldest else 0
        waiting.shares.serve(free - room)
        if waiting.jobs:
            self.waiting.move_to_end(lane)
        else:
            del self.waiting[lane]
        new = [Piece(job=job, start=job.taken - n, stop=job.taken) for job, n in got.items()]
        return going_on + new

    def resume(self, lane: Lane, pieces: list[Piece]) -> None:
        if pieces:
            self.waiting.setdefault(lane, Waiting()).going_on = pieces

    def discard(self, job: Job) -> None:
        waiting = self.waiting.get(job.lane)
        if waiting is None or job not in waiting.jobs:
            return
        waiting.shares.leave(waiting.jobs.pop(job), job.n - job.taken)
        waiting.samples -= job.n - job.taken
        if not waiting.jobs and not waiting.going_on:
            del self.waiting[job.lane]


def batches_before(n: int, jobs: int, max_batch: int) -> int:
    """About how many batches of its lane it takes until a job of `n` samples is done among `jobs`.

    As with equal shares, if no more come.
    """
    return -(-n * jobs // max_batch)
