"""Every sample is answered once, in order, as if it were alone, whatever happens to the others."""

import asyncio
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc.artifact.sampling_inputs import Arrays
from serve.batching.batcher import Batcher
from serve.batching.jobs import BatchStats, ClosedError, DeadlineError, Job, OverloadedError
from serve.sampling_params import SamplingParams
from tests.serve.batching.runners import HELD_S, Doubler, Watched, on_a_loop, settled


class Stepped(Doubler):
    """A runner that lets batches through one by one."""

    def __init__(self, max_batch: int, bad: frozenset[int], steps: threading.Semaphore) -> None:
        super().__init__(max_batch, bad)
        self.steps = steps
        self.failed: set[int] = set()

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        numbers = set(inputs["x"].tolist())
        if not numbers <= self.failed:  # else a batch that failed is run again, job by job
            assert self.steps.acquire(timeout=HELD_S), "nobody let the batch through"
        if self.bad & numbers:
            self.failed |= numbers
        return super().run(inputs)


MAX_QUEUE = 40
DEADLINES_S = {"late": -1.0, "soon late": 0.002, "no hurry": 3600.0}
MAY_RAISE: dict[str, type[Exception]] = {
    "bad draw": KeyError,
    "bad run": ValueError,
    "late": DeadlineError,
    "soon late": DeadlineError,
}


@dataclass(frozen=True)
class Arrive:
    """Job number i has the samples 1000 i, 1000 i + 1, ..."""

    runner: int
    n: int
    fate: str


@dataclass(frozen=True)
class HangUp:
    which: int


@dataclass(frozen=True)
class Step:
    """The running batch ends."""


fates = st.sampled_from(["run", "run", "run", "bad draw", "bad run", *DEADLINES_S])
arrivals = st.builds(Arrive, runner=st.integers(0, 1), n=st.integers(1, 12), fate=fates)
hang_ups = st.builds(HangUp, which=st.integers(0, 30))
traces = st.lists(st.one_of(arrivals, arrivals, hang_ups, st.builds(Step)), max_size=40)


class Played:
    """A trace of events, played to its end, and what became of each job."""

    def __init__(self, max_batch: int) -> None:
        self.steps = threading.Semaphore(0)
        self.runners = [Stepped(max_batch, frozenset(), self.steps) for _ in range(2)]
        self.queue = Watched()
        self.depths: list[int] = []
        self.batcher = Batcher(
            max_queue=MAX_QUEUE, queue=self.queue, observe_queue=self.depths.append
        )
        self.arrivals: list[Arrive] = []
        self.jobs: list[Job] = []
        self.tasks: list[asyncio.Task[Arrays]] = []
        self.shed = 0
        self.taken_at_hang_up: dict[Job, int] = {}

    async def play(self, trace: Sequence[Arrive | HangUp | Step]) -> list[Arrays | BaseException]:
        for event in trace:
            match event:
                case Arrive():
                    self.arrive(event)
                case HangUp(which) if self.tasks:
                    i = which % len(self.tasks)
                    if self.tasks[i].cancel():
                        self.taken_at_hang_up.setdefault(self.jobs[i], self.jobs[i].taken)
                case Step():
                    await self.step()
            if len(trace) % 2:  # else whole bursts come within one turn of the event loop
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.steps.release(10_000)
        outcomes = await asyncio.gather(*self.tasks, return_exceptions=True)
        await settled(lambda: self.batcher.running_since_s is None)
        self.batcher.close()
        return outcomes

    def arrive(self, event: Arrive) -> None:
        first = 1000 * len(self.jobs)
        runner = self.runners[event.runner]
        job = runner.job(first, event.n)
        if event.fate == "bad draw":
            job.draw = bad_draw
        if event.fate == "bad run":
            runner.bad |= {first + event.n // 2}
        self.arrivals.append(event)
        self.jobs.append(job)
        self.tasks.append(asyncio.create_task(self.submit(job, event.fate)))

    async def submit(self, job: Job, fate: str) -> Arrays:
        if fate in DEADLINES_S:
            job.deadline_s = time.monotonic() + DEADLINES_S[fate]
        full = self.batcher.queued + job.n > MAX_QUEUE
        try:
            outputs = await self.batcher.submit(job)
        except OverloadedError:
            assert full or fate == "soon late"
            self.shed += job.n
            raise
        assert not full
        return outputs

    async def step(self) -> None:
        await asyncio.sleep(0)
        since = self.batcher.running_since_s
        if since is not None:
            self.steps.release()
            await settled(lambda: self.batcher.running_since_s != since)


@pytest.mark.process
@given(trace=traces, max_batch=st.integers(1, 8))
@settings(max_examples=150)
def test_each_job_is_answered_as_if_alone(
    trace: list[Arrive | HangUp | Step], max_batch: int
) -> None:
    async def main() -> tuple[Played, list[Arrays | BaseException]]:
        played = Played(max_batch)
        return played, await played.play(trace)

    played, outcomes = asyncio.run(main())
    for i, (job, arrival, outcome) in enumerate(
        zip(played.jobs, played.arrivals, outcomes, strict=True)
    ):
        if isinstance(outcome, dict):
            assert arrival.fate in ("run", "no hurry", "soon late")
            assert outcome["y"].tolist() == [2 * (1000 * i + k) for k in range(job.n)]
            assert job not in played.queue.late
        elif isinstance(outcome, asyncio.CancelledError):
            assert job in played.taken_at_hang_up
        else:
            assert isinstance(outcome, (OverloadedError, MAY_RAISE.get(arrival.fate, ()))), outcome
    _check_what_ran(played)
    batcher = played.batcher
    assert batcher.admission.shed_samples == played.shed
    assert (batcher.queued, batcher.work_s, played.queue.waiting) == (0, 0, {})
    assert 0 <= min(played.depths, default=0) <= max(played.depths, default=0) <= MAX_QUEUE


def _check_what_ran(played: Played) -> None:
    """No sample twice, none too late, none that nobody waited for, no batch too large."""
    ran = [x for runner in played.runners for batch in runner.batches for x in batch]
    assert len(ran) == len(set(ran)), "a sample ran twice"
    for runner in played.runners:
        assert all(batch.size <= runner.max_batch for batch in runner.observed)
    for job, index in ((played.jobs[x // 1000], x % 1000) for x in ran):
        assert index < played.taken_at_hang_up.get(job, job.n), "ran after its client hung up"
        if job.deadline_s is not None:
            assert played.queue.taken_at_s[job, index] < job.deadline_s, "ran too late"


def bad_draw(start: int, stop: int) -> Arrays:
    raise KeyError("bad draw")


async def _fill(batcher: Batcher, runner: Doubler, *sizes: int) -> list["asyncio.Task[Arrays]"]:
    """One job of 1 that runs and is held, then jobs that queue up behind it."""
    runner.open.clear()
    tasks = [asyncio.create_task(batcher.submit(runner.job(0, 1)))]
    await settled(lambda: batcher.running_since_s is not None)
    for i, n in enumerate(sizes):
        tasks.append(asyncio.create_task(batcher.submit(runner.job(100 * (i + 1), n))))
    await asyncio.sleep(0)
    return tasks


@on_a_loop
async def test_small_jobs_are_merged_and_large_ones_split() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=100)
    tasks = await _fill(batcher, runner, 1, 2, 6)
    runner.open.set()
    await asyncio.gather(*tasks)
    assert runner.batches == [[0], [100, 200, 201, 300], [301, 302, 303, 304], [305]]
    assert [batch.size for batch in runner.observed] == [1, 4, 4, 1]
    assert [len(batch.waits_s) for batch in runner.observed] == [1, 3, 0, 0]


@on_a_loop
async def test_an_idle_batcher_does_not_linger() -> None:
    runner, batcher = Doubler(64), Batcher(max_queue=100)
    for _ in range(3):
        await batcher.submit(runner.job(5, 1))
    assert runner.batches == [[5], [5], [5]]


@on_a_loop
async def test_a_full_queue_sheds_at_once_and_says_when_to_come_back() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=10)
    tasks = await _fill(batcher, runner, 6)
    assert batcher.queued == 6
    with pytest.raises(OverloadedError) as refused:
        await batcher.submit(runner.job(900, 5))
    assert 1 <= refused.value.retry_after_s <= 30
    tasks.append(asyncio.create_task(batcher.submit(runner.job(800, 4))))
    runner.open.set()
    await asyncio.gather(*tasks)


@on_a_loop
async def test_more_work_than_may_wait_is_refused_and_an_idle_batcher_takes_any() -> None:
    runner, batcher = Slow(4), Batcher(max_queue=1000, max_wait_s=1.0)
    await batcher.submit(runner.job(0, 4))
    tasks = await _fill(batcher, runner, 400)
    with pytest.raises(OverloadedError, match="s of work wait already, try again in"):
        await batcher.submit(runner.job(900, 1))
    assert (batcher.admission.shed_samples, batcher.queued) == (1, 400)
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(batcher.submit(runner.job(800, 1))))
    await asyncio.sleep(0)
    assert batcher.queued == 1
    runner.open.set()
    assert (await tasks[-1])["y"].tolist() == [1600]
    await asyncio.wait(tasks)


def test_short_batches_run_on_the_event_loop_and_the_others_in_the_thread() -> None:
    async def main(inline_s: float) -> list[bool]:
        runner, batcher = Doubler(), Batcher(max_queue=100, inline_s=inline_s)
        here, inline = threading.get_ident(), []
        run = runner.run

        def noted(inputs: Mapping[str, Any]) -> Arrays:
            inline.append(threading.get_ident() == here)
            return run(inputs)

        runner.run = noted  # type: ignore[method-assign]
        for first in (10, 20, 30):
            outputs = await batcher.submit(runner.job(first, 1))
            assert outputs["y"].tolist() == [2 * first]
            await asyncio.sleep(0.05)  # the thread looks for more before it ends
        several = [batcher.submit(runner.job(first, 4)) for first in (40, 50)]
        assert [(await one)["y"][0] for one in several] == [80, 100]
        return inline

    # The first batch of a runner may take any time.
    assert asyncio.run(main(3600.0)) == [False, True, True, True, True]
    assert asyncio.run(main(0.0)) == [False] * 5


@on_a_loop
async def test_a_client_that_hangs_up_frees_its_place() -> None:
    depths: list[int] = []
    runner = Doubler(4)
    batcher = Batcher(max_queue=10, observe_queue=depths.append)
    tasks = await _fill(batcher, runner, 6, 3)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert batcher.queued == depths[-1] == 3
    runner.open.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert runner.batches == [[0], [200, 201, 202]]
    assert depths[-1] == 0


@on_a_loop
async def test_close_fails_what_waits_and_refuses_what_comes() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=10)
    tasks = await _fill(batcher, runner, 6)
    batcher.close()
    runner.open.set()
    running, waiting = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(running, dict)
    assert isinstance(waiting, ClosedError)
    with pytest.raises(ClosedError):
        await batcher.submit(runner.job(0, 1))


def test_a_runner_that_cannot_count_loses_no_samples() -> None:
    class Uncounted(Doubler):
        def observe(self, batch: BatchStats) -> None:
            raise RuntimeError("no room on disk")

    async def main() -> None:
        runner, batcher = Uncounted(2), Batcher(max_queue=10)
        outputs = await asyncio.gather(*(batcher.submit(runner.job(i, 3)) for i in (0, 10)))
        assert [o["y"].tolist() for o in outputs] == [[0, 2, 4], [20, 22, 24]]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({"x": np.arange(3)}, r"to draw 2 samples, it drew \[3\]"),
        ({"x": np.arange(2), "z": np.arange(1)}, r"it drew \[1, 2\]"),
        ({}, "it drew none"),
        (StopIteration(), "StopIteration"),
    ],
)
def test_a_job_that_draws_nonsense_fails_alone(drawn: Arrays | Exception, message: str) -> None:
    def draw(start: int, stop: int) -> Arrays:
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    async def main() -> None:
        runner, batcher = Doubler(8), Batcher(max_queue=100)
        jobs = [
            runner.job(10, 2),
            Job(runner=runner, params=SamplingParams(n=2), draw=draw),
            runner.job(20, 2),
        ]
        before, wrong, after = await asyncio.gather(
            *map(batcher.submit, jobs), return_exceptions=True
        )
        assert isinstance(before, dict)
        assert isinstance(after, dict)
        assert (before["y"].tolist(), after["y"].tolist()) == ([20, 22], [40, 42])
        assert isinstance(wrong, RuntimeError)
        assert re.search(message, str(wrong))

    asyncio.run(main())


def test_a_graph_whose_outputs_change_shape_fails_only_who_gets_both() -> None:
    class Growing(Doubler):
        def run(self, inputs: Mapping[str, Any]) -> Arrays:
            outputs = super().run(inputs)
            return {"y": np.tile(outputs["y"][:, None], len(self.batches))}

    async def main() -> None:
        runner, batcher = Growing(4), Batcher(max_queue=100)
        large, small = await asyncio.gather(
            batcher.submit(runner.job(0, 7)),
            batcher.submit(runner.job(10, 1)),
            return_exceptions=True,
        )
        assert isinstance(large, ValueError)
        assert isinstance(small, dict)
        assert batcher.queued == 0

    asyncio.run(main())


@on_a_loop
async def test_a_part_does_not_keep_its_whole_batch_in_memory() -> None:
    runner, batcher = Doubler(64), Batcher(max_queue=1000)
    large, *_ = await asyncio.gather(
        batcher.submit(runner.job(0, 100)),
        *(batcher.submit(runner.job(i, 1)) for i in range(500)),
    )
    assert large["y"].base is None
    assert large["y"].tolist() == list(range(0, 200, 2))


@on_a_loop
async def test_submit_refuses_a_job_without_samples() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        await Batcher(max_queue=10).submit(Doubler().job(0, 0))


def in_s(job: Job, seconds: float) -> Job:
    job.deadline_s = time.monotonic() + seconds
    return job


@on_a_loop
async def test_a_deadline_stops_what_is_partly_done_and_the_others_get_its_room() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=100)
    runner.open.clear()
    tasks = [asyncio.create_task(batcher.submit(in_s(runner.job(0, 9), 0.2)))]
    await settled(lambda: batcher.running_since_s is not None)
    tasks.append(asyncio.create_task(batcher.submit(runner.job(100, 4))))
    with pytest.raises(DeadlineError, match="before all 9 samples were run; ask for fewer"):
        await tasks[0]  # while its first four are still in the thread
    assert batcher.queued == 4
    runner.open.set()
    assert (await tasks[1])["y"].tolist() == [200, 202, 204, 206]
    assert runner.batches == [[0, 1, 2, 3], [100, 101, 102, 103]]


@on_a_loop
async def test_a_batch_begun_in_time_is_answered_after_the_deadline() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=100)
    runner.open.clear()
    job = in_s(runner.job(0, 4), 0.2)
    task = asyncio.create_task(batcher.submit(job))
    await settled(lambda: job.deadline_s is not None and time.monotonic() > job.deadline_s)
    runner.open.set()
    assert (await task)["y"].tolist() == [0, 2, 4, 6]


@on_a_loop
async def test_expired_work_is_not_run_even_when_the_event_loop_was_busy() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=100)
    late = asyncio.create_task(batcher.submit(in_s(runner.job(0, 4), 0.01)))
    other = asyncio.create_task(batcher.submit(runner.job(10, 2)))
    await asyncio.sleep(0)
    time.sleep(0.02)  # before the first batch is taken, and no timer gets its turn
    with pytest.raises(DeadlineError):
        await late
    await other
    assert runner.batches == [[10, 11]]
    assert batcher.queued == 0


class Slow(Doubler):
    """A runner whose samples take a known time at least."""

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        time.sleep(0.005 * len(inputs["x"]))
        return super().run(inputs)


@on_a_loop
async def test_a_job_that_would_miss_its_deadline_is_refused_at_once() -> None:
    runner, batcher = Slow(4), Batcher(max_queue=1000)
    await batcher.submit(runner.job(0, 4))
    assert batcher.latency.seconds_per_sample(runner) >= 0.005
    tasks = await _fill(batcher, runner, 400)
    with pytest.raises(OverloadedError, match="longer than the deadline allows, try again in"):
        await batcher.submit(in_s(runner.job(900, 100), 0.2))
    assert batcher.admission.shed_samples == 100
    assert batcher.queued == 400
    with pytest.raises(DeadlineError):
        await batcher.submit(in_s(runner.job(900, 1), -1))
    tasks.append(asyncio.create_task(batcher.submit(in_s(runner.job(800, 100), 3600))))
    await asyncio.sleep(0)
    assert batcher.queued == 500
    for task in tasks:
        task.cancel()
    runner.open.set()
    await asyncio.wait(tasks)


@on_a_loop
async def test_the_wait_of_a_small_job_is_not_that_of_the_large_one_that_it_passes() -> None:
    runner, other, batcher = Slow(4), Slow(8), Batcher(max_queue=1000)
    assert batcher.admission.wait_s(runner, 100) == 0  # nothing is known
    await batcher.submit(runner.job(0, 4))
    await batcher.submit(other.job(0, 8))
    a, b = batcher.latency.seconds_per_sample(runner), batcher.latency.seconds_per_sample(other)
    assert batcher.admission.wait_s(runner, 4) == 0
    assert batcher.admission.wait_s(runner, 9) == pytest.approx(8 * a)
    tasks = await _fill(batcher, runner, 400)
    await settled(lambda: batcher.work_s == pytest.approx(400 * a))  # the running one is due
    assert batcher.admission.wait_s(runner, 1) == 0
    assert batcher.admission.wait_s(runner, 3) == pytest.approx(4 * a)
    assert batcher.admission.wait_s(other, 1) == pytest.approx(4 * a)  # one batch, then its turn
    assert batcher.admission.wait_s(other, 1000) == pytest.approx(400 * a + 992 * b)
    tasks.append(asyncio.create_task(batcher.submit(in_s(runner.job(900, 1), 60))))
    runner.open.set()
    await tasks[-1]
    tasks[1].cancel()
    await asyncio.wait(tasks)


@on_a_loop
async def test_the_work_is_what_waits_at_each_runner_s_pace_and_the_rest_of_what_runs() -> None:
    a, b, batcher = Slow(4), Slow(4), Batcher(max_queue=1000)
    assert batcher.work_s == 0
    for n in (4, 1, 2, 4):
        await batcher.submit(a.job(0, n))
    seconds, samples = a.observed[0].seconds, float(a.observed[0].size)
    for batch in a.observed[1:]:
        seconds += 0.2 * (batch.seconds - seconds)
        samples += 0.2 * (batch.size - samples)
    assert batcher.latency.seconds_per_sample(a) == pytest.approx(seconds / samples)
    tasks = await _fill(batcher, a, 6, 5)
    tasks.append(asyncio.create_task(batcher.submit(b.job(0, 7))))  # has never run
    await asyncio.sleep(0)
    least = 11 * batcher.latency.seconds_per_sample(a)
    assert least <= batcher.work_s <= least + batcher.latency.seconds_per_sample(a) * 1.001
    a.open.set()
    await asyncio.gather(*tasks)
    await settled(lambda: batcher.running_since_s is None)
    assert batcher.work_s == 0
    assert batcher.latency.seconds_per_sample(b) > 0


@on_a_loop
async def test_runners_take_turns() -> None:
    order: list[str] = []

    class Named(Doubler):
        def run(self, inputs: Mapping[str, Any]) -> Arrays:
            order.append("a" if self is a else "b")
            return super().run(inputs)

    a, b, batcher = Named(4), Named(2), Batcher(max_queue=1000)
    await asyncio.gather(batcher.submit(a.job(0, 20)), batcher.submit(b.job(0, 4)))
    assert "".join(order) == "ababaaa"


@on_a_loop
async def test_a_lingering_batch_is_joined_by_those_that_come_in_time() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=100, linger_s=0.2)
    first = asyncio.create_task(batcher.submit(runner.job(0, 1)))
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.gather(first, batcher.submit(runner.job(10, 1)))
    assert runner.batches == [[0, 10]]


@on_a_loop
async def test_what_is_full_or_has_a_deadline_or_finds_work_running_does_not_linger() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=100, linger_s=3600)
    await asyncio.gather(batcher.submit(runner.job(0, 1)), batcher.submit(runner.job(10, 3)))
    await asyncio.gather(
        batcher.submit(runner.job(20, 1)), batcher.submit(in_s(runner.job(30, 1), 60))
    )
    await batcher.submit(runner.job(40, 5))
    assert runner.batches == [[0, 10, 11, 12], [20, 30], [40, 41, 42, 43], [44]]
    waiting = asyncio.create_task(batcher.submit(runner.job(50, 1)))
    await asyncio.sleep(0)
    batcher.close()
    with pytest.raises(ClosedError):
        await waiting


def test_a_negative_linger_is_refused() -> None:
    with pytest.raises(ValueError, match="linger_s must be at least 0, got -1"):
        Batcher(max_queue=1, linger_s=-1)


@on_a_loop
async def test_the_room_of_a_job_that_failed_goes_to_the_others_at_once() -> None:
    runner, batcher = Doubler(4), Batcher(max_queue=100)
    bad = Job(runner=runner, params=SamplingParams(n=6), draw=bad_draw)
    outcomes = await asyncio.gather(
        batcher.submit(bad), batcher.submit(runner.job(100, 8)), return_exceptions=True
    )
    assert isinstance(outcomes[0], KeyError)
    assert runner.batches == [[100, 101, 102, 103], [104, 105, 106, 107]]
    assert [batch.size for batch in runner.observed] == [4, 4, 4]  # the first was drawn in vain


def test_a_job_cancelled_as_a_batch_ends_is_not_in_the_next() -> None:
    class HangsUp(Doubler):
        def run(self, inputs: Mapping[str, Any]) -> Arrays:
            outputs = super().run(inputs)
            tasks[1].cancel()  # after this the next batch is taken, and then the task is told
            return outputs

    tasks: list[asyncio.Task[Arrays]] = []

    async def main() -> None:
        runner, batcher = HangsUp(4), Batcher(max_queue=100)
        tasks.extend(await _fill(batcher, runner, 3))
        runner.open.set()
        await asyncio.wait(tasks)
        await settled(lambda: batcher.running_since_s is None)
        assert runner.batches == [[0]]
        assert batcher.queued == 0

    asyncio.run(main())
