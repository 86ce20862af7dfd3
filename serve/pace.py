"""How long samples take, as measured: what is to be waited for, and what may not be begun.

paces = Paces()
paces.add(lane, 64, seconds)                 # after every batch
paces.work_s(queue.waiting, running)         # seconds of all that waits and runs
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from serve.fair import Lane, Piece, Waiting, batches_before
from serve.inference import is_stepped

WEIGHT = 0.2
"""Of the last batch in the averages."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A batch that runs now, or did."""

    lane: Lane
    pieces: list[Piece]
    size: int
    since_s: float
    """By the monotonic clock."""
    waits_s: tuple[float, ...]
    """That ended as it began."""


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What waits in a lane, and what has begun there and goes on."""

    jobs: int = 0
    samples: int = 0
    going_on: int = 0


@dataclass(kw_only=True)
class Pace:
    """How long a lane's samples take, the last batches counting most.

    All are exponential moving averages over batches. The average of the ratio instead would let
    many small batches, which are dear by the sample, outweigh the large ones that a queue makes.
    """

    seconds: float = 0.0
    samples: float = 0.0
    runs: float = 0.0
    """That a sample needs, where it needs more than one."""

    def add(self, size: int, seconds: float, runs: Sequence[int] = ()) -> None:
        """A batch of `size` samples took so long; those that ended with it took so many runs.

        Where samples need many runs, the averages go over as many more of them: else the last rows
        of a batch, which are dear, would soon be all that is known.
        """
        weight = WEIGHT / (self.runs or 1.0) if self.samples else 1.0
        self.seconds += weight * (seconds - self.seconds)
        self.samples += weight * (size - self.samples)
        for count in runs:
            self.runs += (WEIGHT if self.runs else 1.0) * (count - self.runs)

    @property
    def seconds_per_run(self) -> float:
        """Of a sample's share in a run of the graph; 0 before the first batch."""
        return self.seconds / self.samples if self.samples else 0.0

    @property
    def seconds_per_sample(self) -> float:
        """0 before the first batch."""
        return self.seconds_per_run * (self.runs or 1.0)


@dataclass
class Paces:
    """Those of all lanes."""

    of: WeakKeyDictionary[Lane, Pace] = field(default_factory=WeakKeyDictionary)

    def add(self, lane: Lane, size: int, seconds: float, runs: Sequence[int] = ()) -> None:
        """A batch ran; see Pace.add()."""
        self.of.setdefault(lane, Pace()).add(size, seconds, runs)

    def seconds_per_sample(self, lane: Lane) -> float:
        """How long a sample of the lane took in its last batches; 0 before the first."""
        pace = self.of.get(lane)
        return pace.seconds_per_sample if pace is not None else 0.0

    def seconds_per_run(self, lane: Lane) -> float:
        """How long its share of one run of the graph took."""
        pace = self.of.get(lane)
        return pace.seconds_per_run if pace is not None else 0.0

    def rest_s(self, running: Running | None) -> float:
        """Seconds that the running batch should still take."""
        if running is None:
            return 0.0
        whole_s = running.size * self.seconds_per_run(running.lane)
        return max(0.0, running.since_s + whole_s - time.monotonic())

    def work_s(self, ahead: Mapping[Lane, Ahead], running: Running | None) -> float:
        """Seconds until all that waits and runs is done, as far as its lanes were measured.

        What goes on has, on average, half of it behind it.
        """
        return self.rest_s(running) + sum(
            (each.samples + each.going_on / 2) * self.seconds_per_sample(lane)
            for lane, each in ahead.items()
        )

    def wait_s(
        self, lane: Lane, n: int, ahead: Mapping[Lane, Ahead], running: Running | None
    ) -> float:
        """Estimated seconds until the last of `n` further samples of a lane would be taken.

        Counted is what would run before it, not all that waits: a request of few samples passes
        a large one. Lanes that never ran count nothing.
        """
        own = ahead.get(lane, Ahead())
        before = min(own.samples + n, n * (own.jobs + 1))
        if is_stepped(lane):  # a place is free when a sample there has ended
            lacking = max(0, before + own.going_on - lane.max_batch)
            batches = 1 + lacking
            wait_s = lacking * self.seconds_per_sample(lane)
        else:
            all_of_it = -(-(own.samples + n) // lane.max_batch)
            batches = min(all_of_it, batches_before(n, own.jobs + 1, lane.max_batch))
            wait_s = self.seconds_per_sample(lane) * (batches - 1) * lane.max_batch
        for other, each in ahead.items():
            if other is not lane:
                rows = min(each.samples + each.going_on, batches * other.max_batch)
                wait_s += self.seconds_per_run(other) * rows
        return self.rest_s(running) + wait_s


def ahead_of(waiting: Mapping[Lane, Waiting], running: Running | None) -> dict[Lane, Ahead]:
    """What waits and goes on, by lane; what runs goes on where samples need several runs."""
    found = {
        lane: Ahead(jobs=len(each.jobs), samples=each.samples, going_on=len(each.going_on))
        for lane, each in waiting.items()
    }
    if running is not None and is_stepped(running.lane):
        each = found.get(running.lane, Ahead())
        found[running.lane] = Ahead(
            jobs=each.jobs, samples=each.samples, going_on=each.going_on + running.size
        )
    return found
