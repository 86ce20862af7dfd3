"""A replica's report of its work is what its batcher did."""

import asyncio
import itertools
import time
from dataclasses import dataclass

import pytest

from serve.autoscaling import IDLE_SHARE, LoadReporter
from serve.batching.batcher import Batcher
from serve.batching.jobs import OverloadedError
from tests.serve.batching.runners import Doubler, on_a_loop, settled


@on_a_loop
async def test_a_batcher_that_runs_waits_and_sheds() -> None:
    runner = Doubler(max_batch=4)
    batcher = Batcher(max_queue=8)
    await batcher.submit(runner.job(0, 4))  # now the pace is known
    load = LoadReporter(batcher, loop_clock=lambda: 0.0)
    assert load.report() == {"work_s": 0.0, "busy": 0.0, "shed_s": 0.0}
    runner.open.clear()
    running = asyncio.create_task(batcher.submit(runner.job(0, 4)))
    before_s = batcher.busy_s(time.monotonic())
    await settled(lambda: batcher.busy_s(time.monotonic()) > before_s)
    load.report()
    waiting = asyncio.create_task(batcher.submit(runner.job(0, 8)))
    await settled(lambda: batcher.queued == 8)
    with pytest.raises(OverloadedError):
        await batcher.submit(runner.job(0, 2))
    said = load.report()
    # It ran for all of the interval, although no batch ended in it.
    assert said["busy"] == pytest.approx(1.0)
    assert said["work_s"] >= batcher.work_s - 1e-9
    assert said["work_s"] > 0
    # Two samples were refused while eight waited.
    assert said["shed_s"] == pytest.approx(said["work_s"] / 4, rel=0.5)
    runner.open.set()
    await asyncio.gather(running, waiting)
    after = load.report()
    assert after["work_s"] == 0.0
    assert after["shed_s"] == said["shed_s"]
    assert 0 < after["busy"] <= 1
    assert load.report()["busy"] == 0.0
    batcher.close()


@dataclass
class Counters:
    """A batcher's counters, set by hand."""

    work_s: float = 0.0
    thread_s: float = 0.0
    shed_s: float = 0.0

    def busy_s(self, now_s: float) -> float:
        return self.thread_s


def test_the_busier_of_loop_and_thread_counts() -> None:
    worker, loop_s, clock = Counters(), itertools.count(step=0.5), itertools.count(step=2.0)
    load = LoadReporter(worker, clock=lambda: float(next(clock)), loop_clock=lambda: next(loop_s))
    assert load.report()["busy"] == 0.0  # the loop's time before is not known
    assert load.report()["busy"] == pytest.approx(0.25)
    worker.thread_s = 1.5
    assert load.report()["busy"] == pytest.approx(0.75)


def test_an_idle_loop_is_no_work() -> None:
    loop_s, clock = itertools.count(step=IDLE_SHARE / 2), itertools.count()
    load = LoadReporter(
        Counters(), clock=lambda: float(next(clock)), loop_clock=lambda: next(loop_s)
    )
    assert [load.report()["busy"] for _ in range(5)] == [0.0] * 5


@on_a_loop
async def test_busy_time_of_a_batcher_never_shrinks_and_is_that_of_its_batches() -> None:
    """One clock for a batch: while it runs, when it has ended, and for whoever looks meanwhile."""

    runner = Doubler(max_batch=4)
    batcher = Batcher(max_queue=8)
    assert batcher.busy_s(time.monotonic()) == 0.0
    runner.open.clear()
    running = asyncio.create_task(batcher.submit(runner.job(0, 4)))
    await settled(lambda: batcher.busy_s(time.monotonic()) > 0)
    seen = [batcher.busy_s(time.monotonic())]
    runner.open.set()
    while not running.done():
        seen.append(batcher.busy_s(time.monotonic()))
        await asyncio.sleep(0)
    seen += [batcher.busy_s(time.monotonic()) for _ in range(3)]
    assert seen == sorted(seen)
    await settled(lambda: bool(runner.observed))
    assert seen[-1] == sum(batch.seconds for batch in runner.observed)
    batcher.close()
