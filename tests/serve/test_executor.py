"""Keys take turns in the thread, and none of them fills it; bytes in flight likewise."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from serve.access.in_flight import BytesInFlight
from serve.errors import HTTPError
from serve.executor import FairExecutor, FullError


def test_a_key_with_one_function_waits_for_one_of_each_other() -> None:
    ran: list[str] = []
    hold = threading.Event()

    def work(name: str) -> Callable[[], None]:
        return lambda: ran.append(name)

    async def main() -> None:
        executor = FairExecutor("test", max_waiting=100)
        asked = [executor.run("first", lambda: hold.wait(30))]
        asked += [executor.run("greedy", work(f"greedy {i}")) for i in range(20)]
        asked += [executor.run(key, work(key)) for key in ("bob", "carol")]
        tasks = [asyncio.create_task(one) for one in asked]
        await asyncio.sleep(0)
        hold.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert ran[:3] == ["greedy 0", "bob", "carol"]
    assert ran[3:] == [f"greedy {i}" for i in range(1, 20)]


def test_waiting_calls_are_bounded_per_key_and_dropped_when_cancelled() -> None:
    hold = threading.Event()

    async def main() -> None:
        executor = FairExecutor("test", max_waiting=2)
        running = asyncio.create_task(executor.run("a", lambda: hold.wait(30)))
        waiting = [asyncio.create_task(executor.run("a", int)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await executor.run("a", int)
        unbounded = asyncio.create_task(executor.run("a", int, bounded=False))
        another = asyncio.create_task(executor.run("b", int))
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert (executor.waiting("a"), executor.waiting("b")) == (2, 1)
        hold.set()
        await asyncio.gather(running, waiting[1], unbounded, another)
        assert waiting[0].cancelled()
        assert executor.waiting("a") == 0

    asyncio.run(main())


@pytest.mark.parametrize("raised", [StopIteration, KeyboardInterrupt, SystemExit])
def test_a_failing_call_does_not_stop_the_thread(raised: type[BaseException]) -> None:
    def fail() -> None:
        raise raised

    async def main() -> None:
        executor = FairExecutor("test", max_waiting=2)
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match=raised.__name__):
                await executor.run("a", fail)
            assert await executor.run("b", lambda: 7) == 7

    asyncio.run(main())


class Body:
    """Tells when it is gone."""


def test_arguments_of_a_failed_call_are_freed_before_the_next() -> None:
    gone: list[bool] = []

    async def main() -> None:
        executor = FairExecutor("test", max_waiting=2)

        async def ask() -> None:
            body = Body()
            weakref.finalize(body, gone.append, True)
            with suppress(ValueError):
                await executor.run("a", partial(fail, body))

        def fail(body: Body) -> None:
            raise ValueError(f"{body} is none")

        gc.disable()  # as a replica has it, nearly
        try:
            await ask()
            assert await executor.run("a", lambda: 7) == 7
            assert gone
        finally:
            gc.enable()

    asyncio.run(main())


def test_one_key_holds_half_of_the_bytes_and_all_keys_no_more_than_all() -> None:
    in_flight = BytesInFlight(1000)

    def refused(key: str, num_bytes: int) -> tuple[int, str]:
        with pytest.raises(HTTPError) as caught:
            in_flight.hold(key, num_bytes)
        return caught.value.status, caught.value.code

    assert refused("a", 501) == (413, "body_too_large")
    in_flight.hold("a", 400)
    assert refused("a", 101) == (429, "bytes_limited")
    in_flight.hold("a", 100)
    in_flight.hold("b", 450)
    assert refused("c", 51) == (503, "overloaded")
    in_flight.release("b", 450)
    assert in_flight.hold("c", 51) == 51
    for key, held in (("a", 500), ("c", 51)):
        in_flight.release(key, held)
    assert (in_flight.held, in_flight.by_key) == (0, {})
