"""Samples that are answered are paid, no others: over replicas, retries and failing ledgers."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from serve.access.access_control import AccessControl
from serve.access.api_keys import Key, Keys
from serve.access.charge import Charge
from serve.access.idempotency import HEADER, Idempotency
from serve.access.rate_ledger import MAX_FREE_RETRIES, Ledger, LedgerReply, Policy, TokenRequest
from serve.access.rate_limiter import RateLimiter
from serve.errors import HTTPError
from serve.http import Response, Stream
from serve.metrics import Metrics
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.settings import Limits
from tests.serve.batching.virtual import VirtualLoop

SECRET = b"aigc_secret_of_mallory"
MESSAGE_S = 0.002
ENDS = (
    "answered",
    "refused",  # 503 or 504, before anything was made
    "unreadable",  # 400, after it was paid for
    "failed",  # 500
    "half",  # some of it was made, then it is refused
    "streamed",
    "half streamed",  # some of it was sent, then the deadline passed
    "hangs up",  # and what it paid by then stays paid
)
KEPT = ("answered", "half", "streamed", "half streamed")
METRICS = Metrics()


class World:
    """Replicas with their gates, one ledger, and the requests that were made."""

    def __init__(self, policy: Policy, replicas: int) -> None:
        digest = hashlib.sha256(SECRET).digest()
        key = Key(name="mallory", digest=digest, scopes=frozenset({"sample"}), policy=policy)
        self.policy = policy
        self.loop = VirtualLoop()
        self.start_s = self.loop.time()
        self.ledger = Ledger(self.loop.time)
        self.away = False
        self.times_away = 0
        self.lost = 0
        self.limiters = [
            RateLimiter(f"r{i}", self.take, replicas=replicas, clock=self.loop.time)
            for i in range(replicas)
        ]
        self.samplers = []
        for limiter in self.limiters:
            gate = AccessControl(Keys([key]), limiter, Idempotency(self.loop.time))
            self.samplers.append(
                Sampler(
                    models=lambda: None,
                    metrics=METRICS,
                    limits=Limits(),
                    replica="r",
                    gate=gate,
                )
            )
        self.tasks = [self.loop.create_task(one.run()) for one in self.limiters]
        self.requests: list[asyncio.Task[None]] = []
        self.kept: dict[object, int] = {}
        """Samples that have to be paid for, by request: retries are the same one."""
        self.retries: dict[bytes, int] = {}

    async def take(self, replica: str, requests: Mapping[str, TokenRequest]) -> LedgerReply:
        await asyncio.sleep(MESSAGE_S)
        if self.away:
            raise ConnectionError("the ledger is away")
        answer = self.ledger.take(replica, requests)
        await asyncio.sleep(MESSAGE_S)
        if self.lost:
            self.lost -= 1
            raise ConnectionError("the answer was lost")
        return answer

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def ask(self, replica: int, name: bytes | None, end: str, seconds: float) -> None:
        """A request of 1 to 30 samples, a function of its name as of its body."""
        n = 1 + hashlib.sha256(name).digest()[0] % 30 if name else 7
        sampler = self.samplers[replica]
        headers = [(b"x-api-key", SECRET), *([(HEADER, name)] if name else [])]
        request: object = name or object()
        paid = 0

        async def work(call: RequestContext) -> Response:
            call.access.identify("/v1/samples", name or b"")
            nonlocal paid
            for paid_then in (max(1, n // 2), n):
                await sampler.charge(paid_then, None, call)
                paid = paid_then
            if end in KEPT:
                self.kept[request] = n
            await asyncio.sleep(seconds)
            if "half" in end:
                call.access.keep()
            if "streamed" in end:
                return Stream(b"", b"", chunks=chunks())
            if end == "answered":
                return Response(b"", b"")
            if end == "unreadable":
                raise HTTPError(400, "malformed_input", "")
            if end == "failed":
                raise RuntimeError
            raise HTTPError(503, "overloaded", "")

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield b"a sample"
            await asyncio.sleep(seconds)
            if "half" in end:
                raise HTTPError(504, "deadline_exceeded", "")

        async def send(_: Any) -> None:
            pass

        async def receive() -> Any:
            await asyncio.sleep(1e6)

        async def serve() -> None:
            try:
                answer = await sampler.track("native", headers, work)
                await answer.send(send, receive)
            except (HTTPError, RuntimeError):
                pass
            except asyncio.CancelledError:
                self.kept[request] = max(paid, self.kept.get(request, 0))

        task = self.loop.create_task(serve())
        self.requests.append(task)
        if end == "hangs up":
            self.loop.call_later(seconds / 2, task.cancel)

    def settle(self) -> None:
        """Until every request is over, and the ledger knows of it."""
        self.away, self.lost = False, 0

        async def over() -> None:
            await asyncio.gather(*self.requests, return_exceptions=True)
            await asyncio.sleep(3.0)

        self.loop.run_until_complete(over())

    def close(self) -> None:
        async def over() -> None:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

        self.loop.run_until_complete(over())
        self.loop.close()

    def check_nothing_leaks(self) -> None:
        for sampler, limiter in zip(self.samplers, self.limiters, strict=True):
            bucket = limiter.buckets.get("mallory")
            assert bucket is None or (bucket.running, bucket.queueing, bucket.waiting) == (0, 0, [])
            assert bucket is None or not bucket.unconfirmed
            assert sampler.in_flight.held == 0

    @property
    def allowed(self) -> float:
        """Samples within the budget by now; a ledger that was away may have let one burst by."""
        rate = self.policy.samples_per_s or 0.0
        seconds = self.loop.time() - self.start_s
        return self.policy.burst * (1 + self.times_away) + rate * seconds


class Requests(RuleBasedStateMachine):
    """Any requests on any replicas, any of them retries of one another."""

    policy: Policy
    may_be_away = False

    @initialize(replicas=st.integers(1, 3))
    def start(self, replicas: int) -> None:
        self.world = World(self.policy, replicas)

    @rule(
        replica=st.integers(0, 2),
        name=st.none() | st.sampled_from([b"order-%d" % i for i in range(4)]),
        end=st.sampled_from(ENDS),
        seconds=st.sampled_from([0.0, 0.001, 0.05, 0.2, 1.0]),
    )
    def ask(self, replica: int, name: bytes | None, end: str, seconds: float) -> None:
        world = self.world
        if name is not None:
            world.retries[name] = world.retries.get(name, 0) + 1
            if world.retries[name] > MAX_FREE_RETRIES:
                return  # those are paid for once more
        world.ask(replica % len(world.samplers), name, end, seconds)

    @rule(seconds=st.sampled_from([0.0, 0.003, 0.02, 0.16, 0.5, 2.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.may_be_away)
    @rule(n=st.integers(1, 2))
    def lose_answers(self, n: int) -> None:
        self.world.lost = n
        self.world.times_away += 1  # as it may seem, after a pause

    @precondition(lambda self: self.may_be_away)
    @rule(seconds=st.sampled_from([0.3, 1.0, 3.0]))
    def lose_the_ledger(self, seconds: float) -> None:
        self.world.away = True
        self.world.times_away += 1
        self.world.wait(seconds)

    @precondition(lambda self: self.may_be_away)
    @rule()
    def find_the_ledger(self) -> None:
        self.world.away = False

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.settle()
            self.world.check_nothing_leaks()
            self.check()
        finally:
            self.world.close()

    def check(self) -> None:
        raise NotImplementedError


class Exactly(Requests):
    """With a ledger that answers: paid once, neither more nor less."""

    policy = Policy(samples_per_s=0.5, burst=100_000, concurrency=3)

    def check(self) -> None:
        paid = sum(self.world.kept.values())
        account = self.world.ledger.accounts.get("mallory")
        left = self.policy.burst if account is None else account.tokens
        assert self.policy.burst - paid <= left
        assert left <= min(self.policy.burst, self.world.allowed - paid)


class AtMost(Requests):
    """No more than the budget allows is answered, with any fault of the ledger."""

    policy = Policy(samples_per_s=20.0, burst=40, concurrency=8)
    may_be_away = True

    def check(self) -> None:
        # What a replica spends of an old grant while a message is on its way is paid back later.
        assert sum(self.world.kept.values()) <= self.world.allowed + 0.05 * 20.0


TestExactly = Exactly.TestCase
TestExactly.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestAtMost = AtMost.TestCase
TestAtMost.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_what_is_paid_on_one_replica_is_not_given_back_twice_on_another() -> None:
    """Paid and answered here, tried there with a deadline that has passed, over and over."""
    world = World(Policy(samples_per_s=10.0, burst=40, concurrency=None), 2)
    for i in range(40):
        names = [b"key-%d-%d" % (i, j) for j in range(3)]
        for name in names:
            world.ask(0, name, "answered", 0.0)
        world.wait(0.17)
        for name in names * 2:
            world.ask(1, name, "refused", 0.0)
        world.wait(0.17)
    world.settle()
    assert sum(world.kept.values()) <= world.allowed
    world.close()


def test_a_retry_that_is_answered_keeps_what_the_first_attempt_would_have_back() -> None:
    world = World(Policy(samples_per_s=0.5, burst=1000, concurrency=None), 2)
    world.ask(0, b"order", "refused", 1.0)
    world.wait(0.4)
    world.ask(0, b"order", "answered", 0.0)
    world.ask(1, b"order", "answered", 0.0)
    world.settle()
    paid = sum(world.kept.values())
    assert 1000 - paid <= world.ledger.accounts["mallory"].tokens <= 1000 - paid + 5
    world.close()


def test_a_charge_is_settled_once() -> None:
    given_back = []
    charge = Charge(lambda: given_back.append(1))
    charge.join()
    charge.join()
    assert [charge.leave(kept=False), charge.leave(kept=False)] == [False, True]
    assert given_back == [1]
    with pytest.raises(AssertionError):
        charge.join()
    kept = Charge(lambda: given_back.append(2))
    for answered in (True, False):
        kept.join()
        assert not kept.leave(answered)
    assert given_back == [1]
