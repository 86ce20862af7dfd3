"""Budgets over several replicas, in virtual time: the real tasks, a ledger milliseconds away."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve.access import rate_ledger
from serve.access.api_keys import Key
from serve.access.charge import Charge
from serve.access.rate_ledger import ChargeNotice, Grant, Ledger, LedgerReply, Policy, TokenRequest
from serve.access.rate_limiter import RateLimiter, Refusal, in_process
from serve.access.token_bucket import TokenBucket
from tests.serve.batching.virtual import run

MESSAGE_S = 0.002
"""One way from a replica to the ledger."""


def key(samples_per_s: float | None = None, burst: int = 0, concurrency: int | None = None) -> Key:
    policy = Policy(samples_per_s=samples_per_s, burst=burst, concurrency=concurrency)
    return Key(name="alice", digest=b"", scopes=frozenset({"sample"}), policy=policy)


class Cluster:
    """Replicas, each with its task, and one ledger that may be away."""

    def __init__(self, replicas: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.ledger = Ledger(self.loop.time)
        self.away = False
        self.messages = 0
        self.replicas = [
            RateLimiter(f"r{i}", self.take, replicas=replicas, clock=self.loop.time)
            for i in range(replicas)
        ]
        self.tasks = [self.loop.create_task(replica.run()) for replica in self.replicas]

    async def take(self, replica: str, requests: Mapping[str, TokenRequest]) -> LedgerReply:
        self.messages += 1
        await asyncio.sleep(MESSAGE_S)
        if self.away:
            raise ConnectionError("the ledger is away")
        answer = self.ledger.take(replica, requests)
        await asyncio.sleep(MESSAGE_S)
        return answer

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def started(replicas: int) -> Cluster:
    """A cluster whose replicas' tasks run."""
    cluster = Cluster(replicas)
    await asyncio.sleep(0)
    return cluster


async def ask(replica: RateLimiter, key: Key, n: int, what: bytes | None = None) -> Refusal | None:
    """Steps of a request before it draws; its samples are drawn then."""
    found = await charged(replica, key, n, what)
    if isinstance(found, Refusal):
        return found
    found.join()
    found.leave(kept=True)
    return None


async def charged(
    replica: RateLimiter, key: Key, n: int, what: bytes | None = None
) -> Charge | Refusal:
    """A slot, and a charge."""
    refusal = replica.acquire_slot(key)
    if refusal is not None and refusal.worth_asking:
        refusal = await replica.acquire_slot_or_wait(key)
    if refusal is not None:
        return refusal
    found = replica.spend(key, n, what)
    if isinstance(found, Refusal) and found.worth_asking:
        found = await replica.spend_or_wait(key, n, what)
    if isinstance(found, Refusal):
        replica.release_slot(key)
    return found


@dataclass
class Load:
    """Requests of `sizes` samples at `per_s` samples per second, dealt out by changing weights."""

    per_s: float
    sizes: tuple[int, ...]
    seed: int
    skew: float

    async def put_on(self, cluster: Cluster, key: Key, seconds: float) -> tuple[int, int]:
        """Samples that passed, and that would have passed through one bucket in one place."""
        rate, burst = key.policy.samples_per_s, float(key.policy.burst)
        assert rate is not None
        dice = random.Random(self.seed)
        start_s = filled_s = cluster.loop.time()
        tokens, ideal, passed, turn = burst, 0, 0, -1
        weights: list[float] = []
        tasks = []

        async def request(replica: RateLimiter, n: int) -> None:
            nonlocal passed
            if await ask(replica, key, n) is None:
                passed += n
                replica.release_slot(key)

        while (now_s := cluster.loop.time()) - start_s < seconds:
            if int((now_s - start_s) / 3) != turn:
                turn = int((now_s - start_s) / 3)  # every three seconds the load moves elsewhere
                weights = [dice.random() ** self.skew for _ in cluster.replicas]
            n = dice.choice(self.sizes)
            tokens, filled_s = min(burst, tokens + rate * (now_s - filled_s)), now_s
            if n <= tokens:
                tokens, ideal = tokens - n, ideal + n
            replica = dice.choices(cluster.replicas, weights)[0]
            tasks.append(cluster.loop.create_task(request(replica, n)))
            await asyncio.sleep(dice.expovariate(self.per_s / n))
        await asyncio.gather(*tasks)
        return passed, ideal


def passed(replicas: int, key: Key, load: Load, seconds: float = 10.0) -> tuple[int, int]:
    """Put a load on a cluster of its own."""

    async def main() -> tuple[int, int]:
        cluster = await started(replicas)
        found = await load.put_on(cluster, key, seconds)
        await cluster.close()
        return found

    found: tuple[int, int] = run(main)
    return found


SIZES = st.lists(st.sampled_from([1, 2, 8, 16, 64]), min_size=1, max_size=4).map(tuple)


@pytest.mark.process
@settings(max_examples=30)
@given(
    replicas=st.integers(1, 12),
    sizes=SIZES,
    rate_in_requests=st.integers(5, 60),
    over=st.floats(1.5, 4.0),
    skew=st.floats(0.0, 12.0),
    seed=st.integers(0, 2**16),
)
def test_the_rate_holds_for_any_number_of_replicas_and_any_spread(
    replicas: int,
    sizes: tuple[int, ...],
    rate_in_requests: int,
    over: float,
    skew: float,
    seed: int,
) -> None:
    rate = float(rate_in_requests * max(sizes))
    alice = key(rate, burst=max(max(sizes), int(rate)))
    found, ideal = passed(replicas, alice, Load(over * rate, sizes, seed, skew))
    assert found <= 1.01 * rate * 10 + alice.policy.burst
    assert 0.9 * ideal <= found <= 1.1 * ideal


@settings(max_examples=20)
@example(replicas=7, sizes=[228, 177], skew=0.0, seed=18)
@given(
    replicas=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    skew=st.floats(0.0, 12.0),
    seed=st.integers(0, 2**16),
)
def test_ledger_grants_what_a_bucket_of_half_the_size_would(
    replicas: int, sizes: list[int], skew: float, seed: int
) -> None:
    alice = key(1000.0, burst=1000)

    async def main() -> tuple[int, int]:
        cluster = await started(replicas)
        dice = random.Random(seed)
        tokens, asked, refused = 500.0, 0, 0
        for _ in range(300):
            pause_s = dice.expovariate(4.0) * 0.04
            await asyncio.sleep(pause_s)
            tokens = min(500.0, tokens + 950.0 * pause_s)
            n = dice.choice(sizes)
            if n > tokens:
                continue
            tokens -= n
            asked += 1
            replica = cluster.replicas[int(replicas * dice.random() ** (1 + skew))]
            if await ask(replica, alice, n) is None:
                replica.release_slot(alice)
            else:
                refused += 1
        await cluster.close()
        return asked, refused

    asked, refused = run(main)
    assert asked > 3
    assert refused == 0


def test_a_steady_load_never_waits_for_the_ledger() -> None:
    """After the first request, spend() alone says yes."""

    async def main() -> list[Refusal]:
        cluster = await started(2)
        alice = key(1000.0, burst=1000)
        assert await ask(cluster.replicas[0], alice, 8) is None
        cluster.replicas[0].release_slot(alice)
        await asyncio.sleep(0.02)
        refusals = []
        for i in range(500):
            found = cluster.replicas[0].spend(alice, 8)
            if isinstance(found, Refusal):
                if i > 60:  # a second in
                    refusals.append(found)
                await cluster.replicas[0].spend_or_wait(alice, 8)
            await asyncio.sleep(0.016)
        await cluster.close()
        return refusals

    assert run(main) == []


def test_what_a_key_did_not_use_on_one_replica_it_can_draw_on_another() -> None:
    async def main() -> list[bool]:
        cluster = await started(4)
        alice = key(100.0, burst=1000)
        found = []
        for replica in cluster.replicas:  # the whole burst each time, somewhere else
            charge = await charged(replica, alice, 1000)
            found.append(isinstance(charge, Charge))
            if isinstance(charge, Charge):
                charge.join()
                charge.leave(kept=False)
            replica.release_slot(alice)
            await asyncio.sleep(0.4)
        await cluster.close()
        return found

    assert run(main) == [True] * 4


@pytest.mark.process
def test_a_flood_beyond_the_rate_does_not_flood_the_ledger() -> None:
    async def main() -> int:
        cluster = await started(2)
        load = Load(5000.0, (1,), seed=1, skew=0.0)
        await load.put_on(cluster, key(50.0, burst=50), 5.0)
        await cluster.close()
        return cluster.messages

    assert run(main) < 1050  # of 25,000 requests: one per MIN_GAP_S and replica


def test_an_idle_replica_sends_few_messages_and_holds_no_grant() -> None:
    async def main() -> tuple[int, int]:
        cluster = await started(1)
        alice = key(1000.0, burst=1000, concurrency=4)
        for _ in range(100):
            assert await ask(cluster.replicas[0], alice, 8) is None
            cluster.replicas[0].release_slot(alice)
            await asyncio.sleep(0.01)
        await asyncio.sleep(5.0)
        before = cluster.messages
        await asyncio.sleep(10.0)
        said = cluster.messages - before
        account = cluster.ledger.accounts["alice"]
        held = sum(h.limit - h.spent + h.slots for h in account.holdings.values())
        await cluster.close()
        return said, held

    said, held = run(main)
    assert said <= 10
    assert held == 0


def test_a_dead_replica_costs_what_it_held_and_its_slots_come_back() -> None:
    async def main() -> tuple[Refusal | None, Refusal | None, int]:
        cluster = await started(2)
        alice = key(100.0, burst=200, concurrency=1)
        dying, living = cluster.replicas
        assert await ask(dying, alice, 100) is None
        cluster.tasks[0].cancel()  # in the middle of its request
        refused = await ask(living, alice, 1)
        await asyncio.sleep(rate_ledger.LOST_S + 1.0)
        taken = await ask(living, alice, 200)
        left = cluster.ledger.accounts["alice"].holdings.keys()
        await cluster.close()
        return refused, taken, len(left)

    refused, taken, left = run(main)
    assert refused is not None
    assert refused.code == "concurrency_limited"
    assert (taken, left) == (None, 1)


@pytest.mark.process
@settings(max_examples=20)
@given(
    replicas=st.integers(1, 8),
    concurrency=st.integers(1, 24),
    seconds=st.sampled_from([0.004, 0.03, 0.2]),
    seed=st.integers(0, 2**16),
)
def test_slots_are_never_exceeded_and_all_of_them_are_of_use(
    replicas: int, concurrency: int, seconds: float, seed: int
) -> None:
    """As many clients as slots, one request after the other, each on any replica."""

    async def main() -> tuple[int, int, int]:
        cluster = await started(replicas)
        alice = key(concurrency=concurrency)
        dice = random.Random(seed)
        running = most = refused = answered = 0

        async def client() -> None:
            nonlocal running, most, refused, answered
            until_s = cluster.loop.time() + 4.0
            while cluster.loop.time() < until_s:
                replica = dice.choice(cluster.replicas)
                if await ask(replica, alice, 1) is not None:
                    refused += 1
                    await asyncio.sleep(seconds)
                    continue
                running += 1
                most = max(most, running)
                await asyncio.sleep(seconds * dice.uniform(0.5, 1.5))
                running -= 1
                answered += 1
                replica.release_slot(alice)

        await asyncio.gather(*(client() for _ in range(concurrency)))
        await cluster.close()
        return most, refused, answered

    most, refused, answered = run(main)
    assert most <= concurrency
    assert refused <= 0.1 * (answered + refused)


def test_more_clients_than_slots_are_held_to_them() -> None:
    async def main() -> tuple[int, float]:
        cluster = await started(4)
        alice = key(concurrency=8)
        dice = random.Random(3)
        running = most = 0
        busy_s = 0.0

        async def client() -> None:
            nonlocal running, most, busy_s
            until_s = cluster.loop.time() + 5.0
            while cluster.loop.time() < until_s:
                replica = dice.choice(cluster.replicas)
                if await ask(replica, alice, 1) is None:
                    running += 1
                    most = max(most, running)
                    await asyncio.sleep(0.1)
                    busy_s += 0.1
                    running -= 1
                    replica.release_slot(alice)
                else:
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(client() for _ in range(40)))
        await cluster.close()
        return most, busy_s / 5.0

    most, mean = run(main)
    assert most == 8
    assert 7.2 <= mean <= 8.2


@pytest.mark.process
@pytest.mark.parametrize("replicas", [1, 4])
def test_without_a_ledger_each_replica_keeps_to_its_share(replicas: int) -> None:
    async def main() -> tuple[float, int, int]:
        cluster = await started(replicas)
        alice = key(400.0, burst=400, concurrency=8)
        load = Load(1600.0, (4,), seed=5, skew=0.0)
        await load.put_on(cluster, alice, 2.0)
        cluster.away = True
        await asyncio.sleep(1.0)
        assert all(replica.offline for replica in cluster.replicas)
        start_s = cluster.loop.time()
        away, _ = await load.put_on(cluster, alice, 10.0)
        seconds = cluster.loop.time() - start_s
        cluster.away = False
        await asyncio.sleep(1.0)
        assert not any(replica.offline for replica in cluster.replicas)
        back, _ = await load.put_on(cluster, alice, 10.0)
        await cluster.close()
        return seconds, away, back

    seconds, away, back = run(main)
    assert 0.9 * 4000 <= away <= 4000 + 400 + 4 * replicas
    assert 0.9 * 4000 <= back <= 1.02 * 4000 + 400
    assert seconds == pytest.approx(10.0, abs=0.1)  # nothing waited for a ledger that is away


def test_a_ledger_that_was_never_there_leaves_the_first_share() -> None:
    async def main() -> tuple[list[bool], Charge | Refusal]:
        cluster = await started(2)
        cluster.away = True
        alice = key(10.0, burst=100, concurrency=4)
        await ask(cluster.replicas[0], alice, 1)
        await asyncio.sleep(1.0)
        whole = cluster.replicas[0].spend(alice, 100)  # larger than the share, which is full
        then = [cluster.replicas[0].spend(alice, 1) for _ in range(3)]
        late = cluster.replicas[0].spend(alice, 1)
        await cluster.close()
        return [isinstance(one, Charge) for one in (whole, *then)], late

    found, late = run(main)
    assert found == [True, False, False, False]
    assert isinstance(late, Refusal)
    assert late.retry_after_s == pytest.approx(10.2, abs=0.3)  # 51 samples at 5 per second


def test_a_silent_ledger_is_given_up_and_nobody_hangs() -> None:
    async def main() -> tuple[float, bool]:
        loop = asyncio.get_running_loop()

        async def silent(replica: str, requests: Mapping[str, TokenRequest]) -> LedgerReply:
            await asyncio.sleep(3600)
            raise AssertionError

        replica = RateLimiter("r", silent, clock=loop.time)
        task = loop.create_task(replica.run())
        await asyncio.sleep(0)
        alice = key(100.0, burst=100)
        start_s = loop.time()
        await ask(replica, alice, 1)
        waited_s = loop.time() - start_s
        await asyncio.sleep(1.0)
        passes = isinstance(replica.spend(alice, 50), Charge)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return waited_s, passes

    waited_s, passes = run(main)
    assert waited_s <= 0.06
    assert passes


@pytest.mark.parametrize("lost_in_a_row", [1, 2, 8])
def test_lost_ledger_replies_neither_cost_nor_give_samples(lost_in_a_row: int) -> None:
    """The totals of the next message say it all again, even when the ledger seems away."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        ledger = Ledger(loop.time)
        messages = 0

        async def lossy(replica: str, requests: Mapping[str, TokenRequest]) -> LedgerReply:
            nonlocal messages
            answer = ledger.take(replica, requests)
            messages += 1
            if messages % (lost_in_a_row + 1):
                raise ConnectionError("the answer was lost")
            return answer

        alice = key(100.0, burst=100)
        replica = RateLimiter("r", lossy, clock=loop.time)
        task = loop.create_task(replica.run())
        drawn = 0
        until_s = loop.time() + 10.0
        while loop.time() < until_s:
            if await ask(replica, alice, 1) is None:
                drawn += 1
                replica.release_slot(alice)
            await asyncio.sleep(0.005)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return drawn

    assert 0.9 * 1100 <= run(main) <= 1.1 * 1100


def at(clock: Callable[[], float]) -> tuple[Ledger, Policy]:
    return Ledger(clock), Policy(samples_per_s=10.0, burst=100, concurrency=None)


def test_a_message_that_comes_twice_changes_nothing() -> None:
    ledger, policy = at(lambda: 0.0)
    request = TokenRequest(policy=policy, spent=0, need=30)
    first = ledger.take("a", {"k": request})
    assert ledger.take("a", {"k": request}) == first
    assert (first.grants["k"].limit, first.grants["k"].left) == (30, 70)
    later = ledger.take("a", {"k": TokenRequest(policy=policy, spent=30, need=30)})
    assert (later.grants["k"].limit, later.grants["k"].left) == (60, 40)


def test_ledger_grants_nothing_below_the_least_useful_size() -> None:
    ledger, policy = at(lambda: 0.0)
    ledger.take("a", {"k": TokenRequest(policy=policy, spent=0, need=70)})
    grant = ledger.take("b", {"k": TokenRequest(policy=policy, spent=0, need=64, least=64)}).grants[
        "k"
    ]
    assert (grant.limit, grant.left) == (0, 30)


def test_an_overdraft_is_paid_before_anything_is_handed_out() -> None:
    now_s = 0.0
    ledger, policy = at(lambda: now_s)
    ledger.take("a", {"k": TokenRequest(policy=policy, spent=0, need=100)})
    ledger.take("a", {"k": TokenRequest(policy=policy, spent=150, need=1)})
    now_s = 4.9
    assert (
        ledger.take("a", {"k": TokenRequest(policy=policy, spent=150, need=9)}).grants["k"].limit
        == 150
    )
    now_s = 5.9
    assert (
        ledger.take("a", {"k": TokenRequest(policy=policy, spent=150, need=9)}).grants["k"].limit
        == 159
    )


def test_a_new_policy_holds_from_the_next_request_on() -> None:
    now_s = 0.0
    ledger, policy = at(lambda: now_s)
    ledger.take("a", {"k": TokenRequest(policy=policy, spent=0, need=100)})
    ledger.take("a", {"k": TokenRequest(policy=policy, spent=100)})
    faster = Policy(samples_per_s=50.0, burst=200, concurrency=None)
    now_s = 1.0
    assert ledger.take("a", {"k": TokenRequest(policy=faster, spent=100)}).grants["k"].left == 10
    now_s = 2.0
    assert ledger.take("a", {"k": TokenRequest(policy=faster, spent=100)}).grants["k"].left == 60


class Teller:
    """A replica's charges for the requests that it names, each message the next one."""

    def __init__(self, ledger: Ledger, policy: Policy, name: str) -> None:
        self._take = lambda request: ledger.take(name, {"k": request}).grants["k"]
        self._policy = policy
        self.told = self.repaid = self.spent = 0

    def says(self, what: bytes, n: int, change: int = 1) -> int:
        """Samples that are repaid for it."""
        self.spent += n if change > 0 else 0
        charges = [ChargeNotice(what, n, change)]
        for _ in range(2):  # the first answer is lost
            request = TokenRequest(
                policy=self._policy,
                spent=self.spent - self.repaid,
                num_confirmed=self.told,
                repaid=self.repaid,
                charges=charges,
            )
            grant = self._take(request)
        assert grant.limit == self.spent - grant.repaid
        before, self.repaid, self.told = self.repaid, grant.repaid, self.told + 1
        return grant.repaid - before


def test_a_retry_on_another_replica_is_paid_back_so_often() -> None:
    ledger, policy = at(lambda: 0.0)
    a, b, c, d = (Teller(ledger, policy, name) for name in "abcd")
    assert a.says(b"x", 10) == 0
    assert b.says(b"x", 10) == 10
    assert b.says(b"y", 5) == 0
    again = [c.says(b"x", 10) for _ in range(1, 8)]
    assert again == [10] * (rate_ledger.MAX_FREE_RETRIES - 1) + [0] * (
        8 - rate_ledger.MAX_FREE_RETRIES
    )
    assert b.says(b"y", 5, -1) == 5, "nothing was drawn for it"
    assert d.says(b"y", 5) == 0


def test_a_charge_is_given_back_once_wherever_its_request_was_tried() -> None:
    ledger, policy = at(lambda: 0.0)
    a, b = (Teller(ledger, policy, name) for name in "ab")
    assert [a.says(b"x", 10), b.says(b"x", 10)] == [0, 10]
    assert a.says(b"x", 10, -1) == 0, "the other one may have been answered"
    assert b.says(b"x", 10, -1) == 10
    assert b.says(b"x", 10, -1) == 0, "of what nobody has paid"
    assert a.says(b"x", 10) == 0
    assert ledger.accounts["k"].tokens == 90


def test_a_retry_elsewhere_leaves_the_budget_as_it_was() -> None:
    async def main() -> tuple[int, int]:
        cluster = await started(2)
        alice = key(1.0, burst=1000)
        one, other = cluster.replicas
        assert await ask(one, alice, 300, b"order") is None
        one.release_slot(alice)
        await asyncio.sleep(0.5)
        assert await ask(other, alice, 300, b"order") is None
        other.release_slot(alice)
        await asyncio.sleep(0.5)
        left = cluster.ledger.accounts["alice"].tokens
        (_, remaining, _) = other.headers(alice)
        await cluster.close()
        return int(left), int(remaining[1])

    left, remaining = run(main)
    assert 700 <= left <= 702
    assert 700 <= remaining <= 702


def test_headers_and_refusals_tell_what_is_left_and_when() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        replica = RateLimiter("r", in_process(Ledger(loop.time)), clock=loop.time)
        task = loop.create_task(replica.run())
        await asyncio.sleep(0)
        alice = key(10.0, burst=100)
        fresh = replica.headers(alice)
        assert await ask(replica, alice, 80) is None
        used = replica.headers(alice)
        refusal = await ask(replica, alice, 50)
        never = replica.spend(alice, 101)
        unlimited = replica.headers(key(concurrency=3))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return fresh, used, refusal, never, unlimited

    fresh, used, refusal, never, _ = run(main)
    names = [b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"]
    assert fresh == list(zip(names, [b"100", b"100", b"0"], strict=True))
    assert used == list(zip(names, [b"100", b"20", b"8"], strict=True))
    error = refusal.error(used)
    assert (error.status, error.code) == (429, "rate_limited")
    assert error.headers == [(b"retry-after", b"3"), (b"retry-after-ms", b"3000"), *used]
    assert (never.error().status, never.error().code) == (400, "n_over_burst")
    assert "at most 100 samples at once, got 101" in never.message


@pytest.mark.parametrize(
    ("rate", "burst", "concurrency", "said"),
    [
        (0.0, 10, None, "samples_per_s must be in"),
        (float("nan"), 10, None, "samples_per_s must be in"),
        (1000.0, 499, None, "burst must be at least 500"),
        (None, 0, 0, "concurrency must be at least 1"),
    ],
)
def test_policy_refuses_limits_that_cannot_hold(
    rate: float | None, burst: int, concurrency: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Policy(samples_per_s=rate, burst=burst, concurrency=concurrency)


def test_a_bucket_is_full_when_what_lies_at_replicas_fills_it() -> None:
    now_s = 0.0
    ledger, policy = at(lambda: now_s)
    ledger.take("a", {"k": TokenRequest(policy=policy, spent=0, ahead=30)})
    now_s = 4.0
    grant = ledger.take("b", {"k": TokenRequest(policy=policy, spent=0, need=100)}).grants["k"]
    assert (grant.limit, grant.left) == (70, 0)


def test_what_was_spent_off_the_ledger_uses_up_what_is_there_and_makes_no_debt() -> None:
    now_s = 0.0
    ledger, policy = at(lambda: now_s)

    def left(away: int) -> float:
        return (
            ledger.take("a", {"k": TokenRequest(policy=policy, spent=0, offline_spent=away)})
            .grants["k"]
            .left
        )

    assert [left(0), left(40), left(40), left(500)] == [100, 60, 60, 0]
    now_s = 1.0
    assert left(500) == 10


def test_slots_are_given_back_before_the_ledger_can_give_them_to_another() -> None:
    policy = Policy(samples_per_s=None, burst=0, concurrency=4)
    bucket = TokenBucket("alice", policy)
    request = bucket.make_request(0.1)
    grant = Grant(limit=0, left=0.0, slots=4, slots_short=False)
    bucket.apply_grant(request, grant, 0.0)
    assert bucket.try_acquire_slot()
    assert bucket.make_request(0.1).want_slots == 1
    assert not bucket.try_acquire_slot()
