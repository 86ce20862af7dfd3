"""Which samples run next, without threads: against a round-robin done by hand, for any arrivals."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve.fair import Arrays, Batch, Fair, Job, Lane, Piece, most_batches


class Line:
    """A lane that is only as wide as it is."""

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        raise NotImplementedError

    def observe(self, batch: Batch) -> None:
        raise NotImplementedError

    def job(self, n: int) -> Job:
        return Job(lane=self, n=n, draw=lambda start, stop: {})


class Counted(Fair):
    """The queue under test, with what its bound speaks of noted for every job."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: Counter[Job] = Counter()
        """Of its lane, while the job waited."""
        self.most_jobs: Counter[Job] = Counter()
        """That waited in its lane at once, while it waited."""
        self.taken_at_s: dict[tuple[Job, int], float] = {}
        """A moment before the take of each sample, by the monotonic clock."""

    def push(self, job: Job) -> None:
        super().push(job)
        jobs = self.waiting[job.lane].jobs
        for each in jobs:
            self.most_jobs[each] = max(self.most_jobs[each], len(jobs))

    def take(self) -> list[Piece]:
        now = time.monotonic()
        before = {lane: list(waiting.jobs) for lane, waiting in self.waiting.items()}
        pieces = super().take()
        if pieces:
            self.batches.update(before[pieces[0].job.lane])
        for piece in pieces:
            self.taken_at_s |= {(piece.job, i): now for i in range(piece.start, piece.stop)}
        return pieces

    def within_bound(self, job: Job) -> bool:
        """Whether the job waited for no more batches than it may, so far."""
        most = most_batches(job.n, self.most_jobs[job], job.lane.max_batch)
        return self.batches[job] <= most if job.taken == job.n else self.batches[job] < most


def by_hand(needs: Mapping[Job, int], room: int) -> Counter[Job]:
    """One sample each, round after round, while there is room."""
    got: Counter[Job] = Counter()
    while room and sum(got.values()) < sum(needs.values()):
        for job, need in needs.items():
            if room and got[job] < need:
                got[job] += 1
                room -= 1
    return got


class Trace(RuleBasedStateMachine):
    """Any order of arrivals, batches and hang-ups, in three lanes."""

    @initialize(widths=st.lists(st.integers(1, 9), min_size=3, max_size=3))
    def begin(self, widths: list[int]) -> None:
        self.queue = Counted()
        self.lanes = [Line(width) for width in widths]
        self.needs: dict[Lane, dict[Job, int]] = {}  # both in the order of turns
        self.passed: Counter[Lane] = Counter()
        self.jobs: list[Job] = []
        self.gone: set[Job] = set()

    @rule(lane=st.integers(0, 2), n=st.integers(1, 30))
    def arrive(self, lane: int, n: int) -> None:
        job = self.lanes[lane].job(n)
        self.jobs.append(job)
        self.needs.setdefault(job.lane, {})[job] = n
        self.queue.push(job)

    @rule(lane=st.integers(0, 2), jobs=st.integers(1, 12))
    def crowd(self, lane: int, jobs: int) -> None:
        for _ in range(jobs):
            self.arrive(lane, 1)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))  # one that is done already does no harm
        self.gone.add(job)
        self.queue.discard(job)
        needs = self.needs.get(job.lane, {})
        needs.pop(job, None)
        if not needs:
            self.needs.pop(job.lane, None)
            self.passed[job.lane] = 0

    @rule()
    def take(self) -> None:
        pieces = self.queue.take()
        if not self.needs:
            assert pieces == []
            return
        lane = next(iter(self.needs))
        needs = self.needs.pop(lane)
        got = by_hand(needs, lane.max_batch)
        assert {piece.job: piece.stop - piece.start for piece in pieces} == +got
        assert len(pieces) == len(+got), "one job, two pieces"
        for piece in pieces:
            assert piece.stop == piece.job.taken
            left = needs.pop(piece.job) - got[piece.job]
            assert piece.start == piece.job.n - left - got[piece.job], "out of order"
            if left:
                needs[piece.job] = left
        if needs:
            self.needs[lane] = needs
        self.passed[lane] = 0
        for other in self.needs:
            self.passed[other] += other is not lane
            assert self.passed[other] < len(self.lanes), "a lane lost its turn"

    @invariant()
    def counts_are_right(self) -> None:
        found = {lane: waiting.samples for lane, waiting in self.queue.waiting.items()}
        assert found == {lane: sum(needs.values()) for lane, needs in self.needs.items()}
        for lane, waiting in self.queue.waiting.items():
            assert list(waiting.jobs) == list(self.needs[lane])

    @invariant()
    def nobody_waits_for_longer_than_the_bound(self) -> None:
        assert all(self.queue.within_bound(job) for job in self.jobs if job not in self.gone)

    def teardown(self) -> None:
        while getattr(self, "needs", None):
            self.take()
            self.nobody_waits_for_longer_than_the_bound()


Trace.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTrace = Trace.TestCase


def test_five_hundred_neither_block_twenty_of_one_nor_starve_behind_them() -> None:
    lane, queue = Line(64), Fair()
    large = lane.job(500)
    queue.push(large)
    small = [lane.job(1) for _ in range(20)]
    for job in small:
        queue.push(job)
    assert [(p.job, p.stop - p.start) for p in queue.take()] == [
        (large, 44),
        *((job, 1) for job in small),
    ]
    while large.taken < large.n:
        before = large.taken
        for _ in range(63):  # they could do with all of the room but one
            queue.push(lane.job(1))
        queue.take()
        assert large.taken > before, "the large one starves"


@pytest.mark.parametrize(
    ("n", "jobs", "max_batch", "batches"), [(2, 12, 4, 6), (6, 2, 4, 3), (7, 3, 9, 3), (5, 1, 5, 1)]
)
def test_the_bound_is_reached(n: int, jobs: int, max_batch: int, batches: int) -> None:
    lane, queue = Line(max_batch), Counted()
    all_jobs = [lane.job(n) for _ in range(jobs)]
    for job in all_jobs:
        queue.push(job)
    while queue.take():
        assert all(queue.within_bound(job) for job in all_jobs)
    assert queue.batches[all_jobs[-1]] == most_batches(n, jobs, max_batch) == batches


def test_a_take_looks_at_no_more_jobs_than_it_takes() -> None:
    class Watched(Job):
        looked_at: set[int] = set()  # noqa: RUF012 - shared on purpose

        def __getattribute__(self, name: str) -> Any:
            if name in ("n", "taken"):
                Watched.looked_at.add(id(self))
            return super().__getattribute__(name)

    lane, queue = Line(8), Fair()
    jobs = [Watched(lane=lane, n=n, draw=lambda start, stop: {}) for n in (5, 1) * 500]
    for job in jobs:
        queue.push(job)
    for _ in range(200):
        Watched.looked_at.clear()
        pieces = queue.take()
        assert Watched.looked_at == {id(piece.job) for piece in pieces}
    for job in jobs:
        Watched.looked_at.clear()
        queue.discard(job)
        assert Watched.looked_at <= {id(job)}
    assert queue.take() == []
