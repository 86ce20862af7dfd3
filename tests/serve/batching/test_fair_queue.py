"""Which samples run next, without threads: against equal shares in exact fractions."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aigc.artifact.sampling_inputs import Arrays
from serve.batching.fair_queue import FairQueue, batches_ahead
from serve.batching.jobs import BatchStats, Job, Runner
from serve.batching.latency import LatencyEstimator, RunningBatch, queue_depth
from serve.sampling_params import SamplingParams
from tests.serve.batching.runners import Watched


class Line(Runner):
    """A runner that is only as wide as it is."""

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        raise NotImplementedError

    def observe(self, batch: BatchStats) -> None:
        raise NotImplementedError

    def job(self, n: int) -> Job:
        return Job(runner=self, params=SamplingParams(n=n), draw=lambda start, stop: {})


class Trace(RuleBasedStateMachine):
    """Any order of arrivals, batches and hang-ups, in three runners."""

    @initialize(
        widths=st.lists(st.integers(1, 9), min_size=3, max_size=3),
        eldest_share=st.sampled_from([0.0, 0.25]),
    )
    def begin(self, widths: list[int], eldest_share: float) -> None:
        self.queue = Watched(eldest_share)
        self.runners = [Line(width) for width in widths]
        self.needs: dict[Runner, dict[Job, int]] = {}  # runners in the order of turns
        self.passed: Counter[Runner] = Counter()
        self.jobs: list[Job] = []
        self.gone: set[Job] = set()

    @rule(runner=st.integers(0, 2), n=st.integers(1, 30))
    def arrive(self, runner: int, n: int) -> None:
        job = self.runners[runner].job(n)
        self.jobs.append(job)
        self.needs.setdefault(job.runner, {})[job] = n
        self.queue.push(job)

    @rule(runner=st.integers(0, 2), jobs=st.integers(1, 12))
    def crowd(self, runner: int, jobs: int) -> None:
        for _ in range(jobs):
            self.arrive(runner, 1)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))  # one that is done already does no harm
        self.gone.add(job)
        self.queue.discard(job)
        needs = self.needs.get(job.runner, {})
        needs.pop(job, None)
        if not needs:
            self.needs.pop(job.runner, None)
            self.passed[job.runner] = 0

    @rule()
    def take(self) -> None:
        slices = self.queue.take()
        if not self.needs:
            assert slices == []
            return
        runner = next(iter(self.needs))
        needs = self.needs.pop(runner)
        total = sum(needs.values())
        assert sum(map(len, slices)) == min(runner.max_batch, total), "room was left, or overrun"
        assert len({part.job for part in slices}) == len(slices), "one job, two slices"
        for part in slices:
            assert part.stop == part.job.taken
            assert part.start == part.job.n - needs[part.job], "out of order"
            needs[part.job] -= len(part)
        needs = {job: need for job, need in needs.items() if need}
        if needs:
            self.needs[runner] = needs
        self.passed[runner] = 0
        for other in self.needs:
            self.passed[other] += other is not runner
            assert self.passed[other] < len(self.runners), "a runner lost its turn"

    @invariant()
    def counts_are_right(self) -> None:
        found = {runner: waiting.samples for runner, waiting in self.queue.waiting.items()}
        assert found == {runner: sum(needs.values()) for runner, needs in self.needs.items()}
        for runner, waiting in self.queue.waiting.items():
            assert waiting.jobs.keys() == self.needs[runner].keys()
            assert waiting.shares.each == pytest.approx(float(self.queue.equal[runner].each))

    @invariant()
    def nobody_is_late(self) -> None:
        assert not self.queue.late

    def teardown(self) -> None:
        while getattr(self, "needs", None):
            self.take()
            self.nobody_is_late()


Trace.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTrace = Trace.TestCase


def test_five_hundred_neither_block_twenty_of_one_nor_starve_behind_them() -> None:
    runner, queue = Line(64), FairQueue()
    large = runner.job(500)
    queue.push(large)
    small = [runner.job(1) for _ in range(20)]
    for job in small:
        queue.push(job)
    taken = {part.job: len(part) for part in queue.take()}
    assert taken == {large: 44, **dict.fromkeys(small, 1)}
    batches = 1
    while large.taken < large.n:
        for _ in range(64):  # they could do with all of the room
            queue.push(runner.job(1))
        queue.take()
        batches += 1
    assert batches == 30, "it had 44, and then a quarter of each batch"


@pytest.mark.parametrize("n", [16, 64])
def test_small_jobs_are_not_split_over_batches(n: int) -> None:
    runner, queue = Line(64), FairQueue()
    for _ in range(16):
        queue.push(runner.job(n))
    while slices := queue.take():
        assert [len(part) for part in slices] == [n] * (64 // n)


@pytest.mark.parametrize(
    ("n", "jobs", "max_batch", "batches"), [(2, 12, 4, 6), (6, 2, 4, 3), (7, 3, 9, 3), (5, 1, 5, 1)]
)
def test_the_last_of_many_is_done_when_it_was_said(
    n: int, jobs: int, max_batch: int, batches: int
) -> None:
    runner, queue = Line(max_batch), FairQueue()
    all_jobs = [runner.job(n) for _ in range(jobs)]
    for job in all_jobs:
        queue.push(job)
    taken = 0
    while any(job.taken < job.n for job in all_jobs):
        queue.take()
        taken += 1
    assert taken == batches_ahead(n, jobs, max_batch) == batches


def test_a_take_looks_at_no_more_jobs_than_it_takes() -> None:
    class Looked(Job):
        looked_at: set[int] = set()  # noqa: RUF012 - shared on purpose

        def __getattribute__(self, name: str) -> Any:
            if name in ("n", "taken"):
                Looked.looked_at.add(id(self))
            return super().__getattribute__(name)

    runner, queue = Line(8), FairQueue()
    jobs = [
        Looked(runner=runner, params=SamplingParams(n=n), draw=lambda start, stop: {})
        for n in (5, 1) * 500
    ]
    for job in jobs:
        queue.push(job)
    for _ in range(200):
        Looked.looked_at.clear()
        slices = queue.take()
        assert Looked.looked_at == {id(part.job) for part in slices}
    for job in jobs:
        Looked.looked_at.clear()
        queue.discard(job)
        assert Looked.looked_at <= {id(job)}
    assert queue.take() == []


def sized(runner: Line, key: int, cost: float, n: int = 1) -> Job:
    most = max(1, int(runner.max_batch / cost))
    return Job(
        runner=runner,
        params=SamplingParams(n=n),
        draw=lambda start, stop: {},
        key=key,
        cost=cost,
        max_batch=most,
    )


def test_sizes_of_a_runner_share_its_turns() -> None:
    queue, many, other = FairQueue(), Line(4), Line(4)
    for key in range(6):
        queue.push(sized(many, key, 1.0))
    for _ in range(3):
        queue.push(other.job(4))
    turns = [queue.take()[0].job for _ in range(9)]
    assert [job.runner is other for job in turns[:6]] == [False, True] * 3
    assert sorted(str(job.key) for job in turns if job.runner is many) == [*"012345"]
    assert not queue.waiting


def test_a_batch_holds_fewer_of_larger_samples() -> None:
    queue, runner = FairQueue(), Line(8)
    queue.push(sized(runner, 1, 4.0, n=5))
    queue.push(sized(runner, 2, 100.0, n=2))
    taken = [(part.job.key, len(part)) for _ in range(5) for part in queue.take()]
    assert sorted(taken) == [(1, 1), (1, 2), (1, 2), (2, 1), (2, 1)]


def test_seconds_of_work_count_samples_by_their_cost() -> None:
    queue, runner, latency = FairQueue(), Line(8), LatencyEstimator()
    latency.add(runner, 8, 1.6)  # 0.2 s for a sample of the usual size
    queue.push(sized(runner, 1, 4.0, n=5))
    assert latency.work_s(queue_depth(queue.waiting, None), None) == pytest.approx(4.0)
    running = RunningBatch.start(queue.take(), time.monotonic())
    assert (running.size, running.work) == (2, 8)
    assert latency.rest_s(running) == pytest.approx(1.6, abs=0.5)
    assert latency.wait_s(runner, 100 * 4.0, {}, None) > 50


def test_a_sample_as_costly_as_several_batches_uses_up_as_many_turns() -> None:
    queue, runner, other = FairQueue(), Line(2), Line(2)
    queue.push(sized(runner, 1, 8.0, n=2))  # each as long as four full batches
    for _ in range(8):
        queue.push(other.job(2))
    order = ["large" if queue.take()[0].job.runner is runner else "small" for _ in range(10)]
    assert order[0] == "large"
    assert order[1:6] == ["small"] * 4 + ["large"]
    assert order.count("large") == 2
