"""What a replica says of its work is what its batcher did."""

import asyncio
import itertools
from dataclasses import dataclass

import pytest

from serve.batching import Batcher, OverloadedError
from serve.load import IDLE_SHARE, Load
from tests.serve.test_batching import Doubler, settled


def test_a_batcher_that_runs_waits_and_sheds() -> None:
    async def scenario() -> None:
        lane = Doubler(max_batch=4)
        batcher = Batcher(max_queue=8)
        await batcher.submit(lane.job(0, 4))  # now the pace is known
        load = Load(batcher, loop_clock=lambda: 0.0)
        assert load.report() == {"work_s": 0.0, "busy": 0.0, "shed_s": 0.0}
        lane.open.clear()
        running = asyncio.create_task(batcher.submit(lane.job(0, 4)))
        await settled(lambda: batcher.running_since_s is not None)
        load.report()
        waiting = asyncio.create_task(batcher.submit(lane.job(0, 8)))
        await settled(lambda: batcher.queued == 8)
        with pytest.raises(OverloadedError):
            await batcher.submit(lane.job(0, 2))
        said = load.report()
        # It ran for all of the interval, although no batch ended in it.
        assert said["busy"] == pytest.approx(1.0)
        assert said["work_s"] >= batcher.work_s - 1e-9
        assert said["work_s"] > 0
        # Two samples were refused while eight waited.
        assert said["shed_s"] == pytest.approx(said["work_s"] / 4, rel=0.5)
        lane.open.set()
        await asyncio.gather(running, waiting)
        after = load.report()
        assert after["work_s"] == 0.0
        assert after["shed_s"] == said["shed_s"]
        assert 0 < after["busy"] <= 1
        assert load.report()["busy"] == 0.0
        batcher.close()

    asyncio.run(scenario())


@dataclass
class Counters:
    """A Worker whose numbers are set by hand."""

    work_s: float = 0.0
    busy_s: float = 0.0
    running_since_s: float | None = None
    shed_s: float = 0.0


def test_the_busier_of_loop_and_thread_counts() -> None:
    worker, loop_s, clock = Counters(), itertools.count(step=0.5), itertools.count(step=2.0)
    load = Load(worker, clock=lambda: float(next(clock)), loop_clock=lambda: next(loop_s))
    assert load.report()["busy"] == 0.0  # the loop's time before is not known
    assert load.report()["busy"] == pytest.approx(0.25)
    worker.busy_s = 1.5
    assert load.report()["busy"] == pytest.approx(0.75)


def test_an_idle_loop_is_no_work() -> None:
    loop_s, clock = itertools.count(step=IDLE_SHARE / 2), itertools.count()
    load = Load(Counters(), clock=lambda: float(next(clock)), loop_clock=lambda: next(loop_s))
    assert [load.report()["busy"] for _ in range(5)] == [0.0] * 5


def test_a_running_batch_is_counted_once() -> None:
    """Across its reports, a batch's shares add up to its seconds."""
    clock = itertools.count()
    worker = Counters()
    load = Load(worker, clock=lambda: float(next(clock)), loop_clock=lambda: 0.0)
    worker.running_since_s = 0.5
    shares = [load.report()["busy"] for _ in range(3)]  # at 1, 2 and 3
    worker.running_since_s, worker.busy_s = None, 2.75  # it ended at 3.25
    shares += [load.report()["busy"] for _ in range(2)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.25, 0.0])
