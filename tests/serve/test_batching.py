"""Every sample is answered once, in order, as if it were alone, whatever happens to the others."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batching import Arrays, Batch, Batcher, ClosedError, Fifo, Job, OverloadedError


class Doubler:
    """A lane that doubles; refuses the numbers named, may be held."""

    def __init__(self, max_batch: int = 4, bad: frozenset[int] = frozenset()) -> None:
        self.max_batch = max_batch
        self.bad = bad
        self.open = threading.Event()
        self.open.set()
        self.batches: list[list[int]] = []
        self.observed: list[Batch] = []

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        self.open.wait()
        numbers = inputs["x"]
        if self.bad & set(numbers.tolist()):
            raise ValueError("bad number")
        self.batches.append(numbers.tolist())
        return {"y": numbers * 2}

    def observe(self, batch: Batch) -> None:
        self.observed.append(batch)

    def job(self, first: int, n: int) -> Job:
        return Job(lane=self, n=n, draw=lambda a, b: {"x": np.arange(first + a, first + b)})


async def settled(predicate: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not predicate():
            await asyncio.sleep(0.001)


jobs = st.lists(
    st.tuples(
        st.integers(1, 9),  # n
        st.sampled_from(["run", "cancel", "bad draw", "bad run"]),
        st.integers(0, 1),  # lane
    ),
    max_size=12,
)


@given(jobs=jobs, max_batch=st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_each_job_is_answered_as_if_alone(jobs: list[tuple[int, str, int]], max_batch: int) -> None:
    async def main() -> None:
        firsts = [1000 * (i + 1) for i in range(len(jobs))]
        bad = frozenset(
            first for first, job in zip(firsts, jobs, strict=True) if job[1] == "bad run"
        )
        lanes = [Doubler(max_batch, bad), Doubler(max_batch, bad)]
        batcher = Batcher(max_queue=1000)
        tasks = []
        for first, (n, fate, lane) in zip(firsts, jobs, strict=True):
            job = lanes[lane].job(first, n)
            if fate == "bad draw":

                def draw(start: int, stop: int) -> Arrays:
                    raise KeyError("bad draw")

                job.draw = draw
            tasks.append(asyncio.create_task(batcher.submit(job)))
        await asyncio.sleep(0)
        for task, (_, fate, _) in zip(tasks, jobs, strict=True):
            if fate == "cancel":
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        expected = {"cancel": asyncio.CancelledError, "bad draw": KeyError, "bad run": ValueError}
        for first, (n, fate, _), outcome in zip(firsts, jobs, outcomes, strict=True):
            if fate == "run":
                assert isinstance(outcome, dict), outcome
                assert outcome["y"].tolist() == [2 * x for x in range(first, first + n)]
            else:
                assert isinstance(outcome, expected[fate])
        ran = [x for lane in lanes for batch in lane.batches for x in batch]
        assert len(ran) == len(set(ran)), "a sample ran twice"
        assert all(len(batch) <= max_batch for lane in lanes for batch in lane.batches)
        await settled(lambda: batcher.running_since_s is None)
        assert batcher.queued == 0
        batcher.close()

    asyncio.run(main())


async def _fill(batcher: Batcher, lane: Doubler, *sizes: int) -> list["asyncio.Task[Arrays]"]:
    """One job of 1 that runs and is held, then jobs that queue up behind it."""
    lane.open.clear()
    tasks = [asyncio.create_task(batcher.submit(lane.job(0, 1)))]
    await settled(lambda: batcher.running_since_s is not None)
    for i, n in enumerate(sizes):
        tasks.append(asyncio.create_task(batcher.submit(lane.job(100 * (i + 1), n))))
    await asyncio.sleep(0)
    return tasks


def test_small_jobs_are_merged_and_large_ones_split() -> None:
    async def main() -> None:
        lane, batcher = Doubler(4), Batcher(max_queue=100)
        tasks = await _fill(batcher, lane, 1, 2, 6)
        lane.open.set()
        await asyncio.gather(*tasks)
        assert lane.batches == [[0], [100, 200, 201, 300], [301, 302, 303, 304], [305]]
        assert [batch.size for batch in lane.observed] == [1, 4, 4, 1]
        assert [len(batch.waits_s) for batch in lane.observed] == [1, 3, 0, 0]

    asyncio.run(main())


def test_an_idle_batcher_does_not_linger() -> None:
    async def main() -> None:
        lane, batcher = Doubler(64), Batcher(max_queue=100)
        for _ in range(3):
            await batcher.submit(lane.job(5, 1))
        assert lane.batches == [[5], [5], [5]]

    asyncio.run(main())


def test_a_full_queue_sheds_at_once_and_says_when_to_come_back() -> None:
    async def main() -> None:
        lane, batcher = Doubler(4), Batcher(max_queue=10)
        tasks = await _fill(batcher, lane, 6)
        assert batcher.queued == 6
        with pytest.raises(OverloadedError) as refused:
            await batcher.submit(lane.job(900, 5))
        assert 1 <= refused.value.retry_after_s <= 30
        tasks.append(asyncio.create_task(batcher.submit(lane.job(800, 4))))
        lane.open.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_client_that_hangs_up_frees_its_place() -> None:
    async def main() -> None:
        depths: list[int] = []
        lane = Doubler(4)
        batcher = Batcher(max_queue=10, observe_queue=depths.append)
        tasks = await _fill(batcher, lane, 6, 3)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert batcher.queued == depths[-1] == 3
        lane.open.set()
        await asyncio.gather(tasks[0], tasks[2])
        assert lane.batches == [[0], [200, 201, 202]]
        assert depths[-1] == 0

    asyncio.run(main())


def test_close_fails_what_waits_and_refuses_what_comes() -> None:
    async def main() -> None:
        lane, batcher = Doubler(4), Batcher(max_queue=10)
        tasks = await _fill(batcher, lane, 6)
        batcher.close()
        lane.open.set()
        running, waiting = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(running, dict)
        assert isinstance(waiting, ClosedError)
        with pytest.raises(ClosedError):
            await batcher.submit(lane.job(0, 1))

    asyncio.run(main())


def test_a_lane_that_cannot_count_loses_no_samples() -> None:
    class Uncounted(Doubler):
        def observe(self, batch: Batch) -> None:
            raise RuntimeError("no room on disk")

    async def main() -> None:
        lane, batcher = Uncounted(2), Batcher(max_queue=10)
        outputs = await asyncio.gather(*(batcher.submit(lane.job(i, 3)) for i in (0, 10)))
        assert [o["y"].tolist() for o in outputs] == [[0, 2, 4], [20, 22, 24]]

    asyncio.run(main())


def test_fifo_keeps_the_order_of_lanes_that_it_passes_over() -> None:
    a, b = Doubler(4), Doubler(4)
    queue = Fifo()
    for job in (first := a.job(0, 1), second := b.job(10, 2), third := a.job(20, 1)):
        queue.push(job)
    assert [piece.job for piece in queue.take()] == [first, third]
    assert [piece.job for piece in queue.take()] == [second]
    assert queue.take() == []
