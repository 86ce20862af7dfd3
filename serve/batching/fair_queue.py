"""The order of samples: runners take turns, and the jobs of a runner share it fairly.

queue = FairQueue()
queue.push(Job(runner=runner, params=SamplingParams(n=100), draw=draw))
slices = queue.take()  # the next batch
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

from serve.batching.jobs import BatchSlice, Group, Job, runner_of

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
    """Groups take turns, one batch each; within a group, jobs run in the order in which they would
    end under equal shares.

    Sharing each batch equally among all waiting jobs would be fair, but late, and would cut every
    job into many slices. Running whole jobs in the order of their ends under equal shares finishes
    none later and most earlier (Fair Sojourn Protocol: Friedman and Henderson 2003). So a job of 1
    sample passes one of 500.

    `eldest_share` of the room is reserved for the oldest job, so that a stream of small jobs cannot
    starve a large one: a job that arrives as the last of s waiting samples is done once
    s / eldest_share samples and one more batch were taken.

    While L groups have jobs, each has one of any L consecutive batches. Nothing waits while a batch
    has room. A push, and each slice of a take, costs O(log of the number of waiting jobs).

    For an autoregressive runner a batch is one step: samples that need more steps continue, and
    waiting ones join as others end (Orca: Yu et al. 2022).
    """

    def __init__(self, eldest_share: float = 0.25) -> None:
        self.waiting: OrderedDict[Group, Waiting] = OrderedDict()
        """Groups in the order of their turns."""
        self._eldest_share = eldest_share

    def push(self, job: Job) -> None:
        waiting = self.waiting.get(job.group)
        if waiting is None:
            waiting = self.waiting[job.group] = Waiting()
        turn = waiting.shares.enter(job.n - job.taken)
        waiting.jobs[job] = turn
        heappush(waiting.order, (turn, job))
        waiting.samples += job.n - job.taken

    def take(self) -> list[BatchSlice]:
        if not self.waiting:
            return []
        group, waiting = next(iter(self.waiting.items()))
        continuing, waiting.continuing = waiting.continuing, []
        free = room = runner_of(group).max_batch - len(continuing)
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
            self.waiting.move_to_end(group)
        else:
            del self.waiting[group]
        new = [BatchSlice(job=job, start=job.taken - n, stop=job.taken) for job, n in got.items()]
        return continuing + new

    def resume(self, group: Group, slices: list[BatchSlice]) -> None:
        if slices:
            self.waiting.setdefault(group, Waiting()).continuing = slices

    def discard(self, job: Job) -> None:
        waiting = self.waiting.get(job.group)
        if waiting is None or job not in waiting.jobs:
            return
        waiting.shares.leave(waiting.jobs.pop(job), job.n - job.taken)
        waiting.samples -= job.n - job.taken
        if not waiting.jobs and not waiting.continuing:
            del self.waiting[job.group]


def batches_ahead(n: int, jobs: int, max_batch: int) -> int:
    """About how many batches of its group until a job of `n` samples among `jobs` is done.

    Under equal shares, if no further jobs arrive.
    """
    return -(-n * jobs // max_batch)
