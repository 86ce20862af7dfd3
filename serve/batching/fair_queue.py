"""The order of samples: runners take turns, and the jobs of a runner share it fairly.

queue = FairQueue()
queue.push(Job(runner=runner, params=SamplingParams(n=100), draw=draw))
slices = queue.take()  # the next batch
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

from serve.batching.jobs import BatchSlice, Group, Job, Runner, runner_of

T = TypeVar("T")

Turn = tuple[float, int]
"""Virtual time at which a job ends, and a number that is unique within its group."""


class VirtualTime:
    """Progress of a group if all of its jobs were served at the same rate.

    `each` counts the samples that a job present from the start would have received; a job of n
    samples that arrives now ends when `each` has grown by n. (Virtual time of fair queueing:
    Demers, Keshav, Shenker 1989.)
    """

    def __init__(self) -> None:
        self.each = 0.0
        self._turns: list[Turn] = []
        self._gone: set[Turn] = set()
        self._number = 0

    def enter(self, n: float) -> Turn:
        """Add a job of n samples."""
        self._number += 1
        turn = self.each + n, self._number
        heappush(self._turns, turn)
        return turn

    def leave(self, turn: Turn, unused: int) -> None:
        """Remove a job `unused` samples before its end; what it received counts as its share."""
        left = turn[0] - self.each
        if left > 0:
            self._gone.add(turn)
        if left > unused:
            self.enter(left - unused)

    def serve(self, samples: float) -> None:
        """Advance by `samples` served, shared equally."""
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
    """Jobs waiting in one group."""

    jobs: dict[Job, Turn] = field(default_factory=dict)
    """Turns by job, in order of arrival."""
    samples: int = 0
    """Number of samples waiting."""
    order: list[tuple[Turn, Job]] = field(default_factory=list)
    """Heap of turns; may still hold jobs that no longer wait."""
    shares: VirtualTime = field(default_factory=VirtualTime)
    owed: float = 0.0
    """Samples due to the oldest job."""
    continuing: list[BatchSlice] = field(default_factory=list)
    """Slices of the previous batch that are in the next one too."""
    cost: float = 1.0
    """Cost of a sample; equal for all jobs of a group."""
    max_batch: int = 0
    """Most samples in a batch; 0 for the runner's."""

    def first(self) -> Job:
        """The job that would end first under equal shares."""
        while self.order[0][1] not in self.jobs:
            heappop(self.order)
        return self.order[0][1]

    def grant(self, job: Job, room: int) -> int:
        """Take at most `room` samples of a job; returns how many."""
        got = min(room, job.n - job.taken)
        job.taken += got
        self.samples -= got
        if job.taken == job.n:
            del self.jobs[job]
        return got


class Turns(Generic[T]):
    """Round robin in which a turn may cost several, which are skipped later.

    (Deficit round robin: Shreedhar and Varghese 1995.)
    """

    def __init__(self) -> None:
        self._owed: OrderedDict[T, float] = OrderedDict()
        """Turns to skip, in the order of the next turns."""

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, one: T) -> None:
        """Append one that has no turns yet; others stay where they are."""
        self._owed.setdefault(one, 0.0)

    def remove(self, one: T) -> None:
        del self._owed[one]

    def first(self) -> T:
        """The one whose turn it is."""
        everybody = int(min(self._owed.values()))
        if everybody:
            for one in self._owed:
                self._owed[one] -= everybody
        while self._owed[first := next(iter(self._owed))] >= 1:
            self._owed[first] -= 1
            self._owed.move_to_end(first)
        return first

    def took(self, one: T, turns: float) -> None:
        """Note that its turn cost as much as `turns`; the next is that of the others."""
        self._owed[one] = max(0.0, self._owed[one] + turns - 1) if len(self._owed) > 1 else 0.0
        self._owed.move_to_end(one)


class Queue(Protocol):
    """Decides which samples run next; another order is another class with these five."""

    @property
    def waiting(self) -> Mapping[Group, Waiting]:
        """Groups that have waiting jobs or continuing slices, and no others."""

    def push(self, job: Job) -> None:
        """Append a job."""

    def take(self) -> list[BatchSlice]:
        """The next batch: slices of one group, at most max_batch samples. Empty if none wait."""

    def resume(self, group: Group, slices: list[BatchSlice]) -> None:
        """Put slices of the previous batch first into the next one of their group."""

    def discard(self, job: Job) -> None:
        """Remove the samples of a job that were not taken yet."""


class FairQueue:
    """Runners take turns, one batch each, and so do the groups of a runner in its turns; within a
    group, jobs run in the order in which they would end under equal shares.

    Sharing each batch equally among all waiting jobs would be fair, but late, and would cut every
    job into many slices. Running whole jobs in the order of their ends under equal shares finishes
    none later and most earlier (Fair Sojourn Protocol: Friedman and Henderson 2003). So a job of 1
    sample passes one of 500.

    `eldest_share` of the room is reserved for the oldest job, so that a stream of small jobs cannot
    starve a large one: a job that arrives as the last of s waiting samples is done once
    s / eldest_share samples and one more batch were taken.

    While L runners have jobs, each has one of any L consecutive batches, unless batches cost more
    than usual ones: a sample so large that it takes as long as k full batches uses up k turns.
    Requests of many sizes take turns from each other, not from other runners. Nothing waits while a
    batch has room. A push, and each slice of a take, costs O(log of the number of waiting jobs).

    For an autoregressive runner a batch is one step: samples that need more steps continue, and
    waiting ones join as others end (Orca: Yu et al. 2022).
    """

    def __init__(self, eldest_share: float = 0.25) -> None:
        self.waiting: dict[Group, Waiting] = {}
        self._runners: Turns[Runner] = Turns()
        self._turns_of: dict[Runner, Turns[Group]] = {}
        self._eldest_share = eldest_share

    def push(self, job: Job) -> None:
        waiting = self.waiting.get(job.group)
        if waiting is None:
            waiting = Waiting(cost=job.cost, max_batch=job.max_batch)
            self._add(job.group, waiting)
        turn = waiting.shares.enter(job.n - job.taken)
        waiting.jobs[job] = turn
        heappush(waiting.order, (turn, job))
        waiting.samples += job.n - job.taken

    def take(self) -> list[BatchSlice]:
        if not self.waiting:
            return []
        runner = self._runners.first()
        groups = self._turns_of[runner]
        group = groups.first()
        waiting = self.waiting[group]
        continuing, waiting.continuing = waiting.continuing, []
        free = room = (waiting.max_batch or runner.max_batch) - len(continuing)
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
        turns = (free - room + len(continuing)) * waiting.cost / runner.max_batch
        groups.took(group, turns)
        self._runners.took(runner, turns)
        if not waiting.jobs:
            self._remove(group)
        new = [BatchSlice(job=job, start=job.taken - n, stop=job.taken) for job, n in got.items()]
        return continuing + new

    def resume(self, group: Group, slices: list[BatchSlice]) -> None:
        if slices:
            if group not in self.waiting:
                self._add(group, Waiting())
            self.waiting[group].continuing = slices

    def discard(self, job: Job) -> None:
        waiting = self.waiting.get(job.group)
        if waiting is None or job not in waiting.jobs:
            return
        waiting.shares.leave(waiting.jobs.pop(job), job.n - job.taken)
        waiting.samples -= job.n - job.taken
        if not waiting.jobs and not waiting.continuing:
            self._remove(job.group)

    def _add(self, group: Group, waiting: Waiting) -> None:
        runner = runner_of(group)
        self.waiting[group] = waiting
        self._turns_of.setdefault(runner, Turns()).add(group)
        self._runners.add(runner)

    def _remove(self, group: Group) -> None:
        runner = runner_of(group)
        del self.waiting[group]
        self._turns_of[runner].remove(group)
        if not self._turns_of[runner]:
            del self._turns_of[runner]
            self._runners.remove(runner)


def batches_ahead(n: float, jobs: int, max_batch: int) -> int:
    """About how many batches of its group until a job of `n` samples among `jobs` is done.

    Under equal shares, if no further jobs arrive.
    """
    return math.ceil(n * jobs / max_batch)
