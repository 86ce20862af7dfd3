"""What one replica may let a key draw now: yes or no at once, settled with the ledger beside it.

    refusal = allowance.spend(key, n)          # no await: a few integers
    if refusal is not None and refusal.worth_asking:
        refusal = await allowance.spend_soon(key, n)   # asks the ledger, for at most 50 ms
    if refusal is not None:
        raise refusal.error()
    try: ...
    finally: allowance.leave(key)

A replica asks ahead for what its keys used lately, so a steady load never waits. The first request
of a key here, a jump of the load, or a slot that another replica just left makes `spend` fail where
the ledger may still have something; then, and only then, is it worth a message of a millisecond.

While the ledger does not answer, a replica keeps to its share, `samples_per_s / replicas` and
`concurrency / replicas` (at least one) by the last number of replicas it was told: together never
more than the rate, but a load that is spread unevenly is held back. Nothing waits for a ledger that
is away. What was spent then is told when it is back and uses up what ran into its bucket meanwhile;
if it forgot this replica, or everything, its return allows one more burst at most.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from serve.access.budget import Answer, Ledger, Wish
from serve.access.keys import Key
from serve.access.purse import Purse
from serve.http import Headers, HTTPError

INTERVAL_S = 0.15
"""Between two messages while there is anything to say."""

IDLE_INTERVAL_S = 1.0
"""Between two messages when there is not: the ledger counts who is there."""

MIN_GAP_S = 0.01
"""Between two messages when something is urgent."""

ANSWER_S = 0.5
"""A question that takes longer is lost."""

AWAY_S = 0.5
"""A ledger that answered nothing for so long is away; a message or two may get lost."""

SOON_S = 0.05
"""Longest that spend_soon() takes."""

LEAST_WAIT_S = 0.001
"""Less of it than this is not worth another question."""

Take = Callable[[str, Mapping[str, Wish]], Awaitable[Answer]]
"""Brings wishes to the ledger: its take(), from wherever it lives."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a request is not answered now."""

    code: str
    """rate_limited, concurrency_limited or n_over_burst."""
    message: str
    retry_after_s: float | None
    """When it may pass; None for never."""
    worth_asking: bool = False
    """The ledger may have what this replica lacks."""

    def error(self, headers: Headers | None = None) -> HTTPError:
        """The answer: 429 with Retry-After, or 400 for what can never pass.

        Retry-After is in whole seconds; OpenAI's clients read the finer `retry-after-ms` first.
        """
        if self.retry_after_s is None:
            return HTTPError(400, self.code, self.message, headers)
        retry = [
            (b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s))),
            (b"retry-after-ms", b"%d" % max(1, math.ceil(1000 * self.retry_after_s))),
        ]
        return HTTPError(429, self.code, self.message, [*retry, *(headers or [])])


class Allowance:
    """The purses of all keys in one replica. Lives on one event loop; run() must be running there.

    `replicas` is how many there may be at most: what a share is reckoned by until the ledger has
    said how many there are.
    """

    def __init__(
        self,
        replica: str,
        take: Take,
        *,
        replicas: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        self._take = take
        self._replicas = replicas
        self._clock = clock
        self._purses: dict[str, Purse] = {}
        self._said_at_s = clock()
        self._wake = asyncio.Event()
        self._told: asyncio.Event = asyncio.Event()
        self._running = False
        self._answered_at_s = clock()
        self._lost_one = False
        self.alone = False
        """The ledger does not answer: this replica keeps to its share."""

    def spend(self, key: Key, n: int, charge: bytes | None = None) -> Refusal | None:
        """Take `n` samples and one of the key's slots, or say why not. Counts what is asked for.

        After None the request must leave(). `charge` names it (Attempt.charge), so that the same
        one on another replica is paid back. A free retry spends n = 0 and no charge.
        """
        purse = self._purse(key)
        if n > purse.policy.burst and purse.policy.samples_per_s is not None:
            return _over_burst(purse, n)
        purse.ask(n)
        if self.alone:
            purse.fill(self._clock(), self._replicas)
        lack = purse.lacks(n)
        if lack is not None:
            return self._refusal(purse, n, lack)
        purse.charge(charge, n)
        return None

    async def spend_soon(self, key: Key, n: int, charge: bytes | None = None) -> Refusal | None:
        """After a refusal by spend() that is worth asking: the same, once the ledger was asked.

        Takes at most SOON_S seconds, and none while the ledger is away.
        """
        purse = self._purse(key)
        until_s = self._clock() + SOON_S
        purse.waiting.append(n)
        try:
            while (lack := purse.lacks(n)) is not None:
                refusal = self._refusal(purse, n, lack)
                left_s = until_s - self._clock()
                if not refusal.worth_asking or left_s < LEAST_WAIT_S:
                    return refusal
                told = self._told
                self._wake.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await told.wait()
            purse.charge(charge, n)
            return None
        finally:
            purse.waiting.remove(n)

    def leave(self, key: Key) -> None:
        """The request that spent is answered, or will never be."""
        purse = self._purse(key)
        purse.running -= 1
        if purse.slots_short and not self.alone:
            self._wake.set()

    def refund(self, key: Key, n: int, charge: bytes | None = None) -> None:
        """Nothing was drawn for a request that spent n: give them back. It still has to leave()."""
        purse = self._purse(key)
        purse.give_back(n)
        purse.charge(charge, 0)

    def renew(self, keys: Iterable[Key]) -> None:
        """Have changed policies hold from here on; the ledger learns them with the next wishes."""
        for key in keys:
            purse = self._purses.get(key.name)
            if purse is not None and purse.policy != key.policy:
                purse.renew(key.policy)
                if self.alone:
                    purse.go_alone(self._clock(), self._replicas)

    def headers(self, key: Key) -> Headers:
        """The key's budget in samples: its size, what is left of it, and seconds until it is full.

        In the X-RateLimit-* form that clients read today, seconds as in the IETF's draft
        (draft-ietf-httpapi-ratelimit-headers, whose own fields still change between versions).
        What is left is as this replica knows it: other replicas may have drawn since it asked.
        """
        purse = self._purse(key)
        rate = purse.policy.samples_per_s
        if rate is None:
            return []
        left = max(0, math.floor(purse.available(self._clock())))
        return [
            (b"x-ratelimit-limit", purse.limit_header),
            (b"x-ratelimit-remaining", b"%d" % left),
            (b"x-ratelimit-reset", b"%d" % math.ceil((purse.policy.burst - left) / rate)),
        ]

    def _purse(self, key: Key) -> Purse:
        purse = self._purses.get(key.name)
        if purse is None:
            purse = self._purses[key.name] = Purse(key.name, key.policy)
            if self.alone:
                purse.go_alone(self._clock(), self._replicas)
        return purse

    def _refusal(self, purse: Purse, n: int, lack: str) -> Refusal:
        asking = self._running and not self.alone
        if lack == "slots":
            most = purse.policy.concurrency or 0
            return Refusal(
                code="concurrency_limited",
                message=f"key {purse.name!r} may have {most} requests answered at a time;"
                " wait for one of them",
                retry_after_s=1.0,
                # A crowd beyond the limit is refused at once and does not wait for slots.
                worth_asking=asking and len(purse.waiting) <= most,
            )
        rate = purse.policy.samples_per_s or 1.0
        now_s = self._clock()
        if self.alone:
            # A request larger than the share passes when the share is full.
            lacking = min(float(n), purse.share) - (purse.limit - purse.spent)
            wait_s = lacking * self._replicas / rate
        else:
            wait_s = (n - purse.available(now_s)) / rate
        return Refusal(
            code="rate_limited",
            message=f"key {purse.name!r} may draw {rate:g} samples per second; wait until there"
            f" are {n} again",
            retry_after_s=max(wait_s, 0.001),
            worth_asking=asking and wait_s <= 0,
        )

    async def run(self) -> None:
        """Talk with the ledger, until cancelled."""
        self._running = True
        self._answered_at_s = self._clock()
        try:
            while True:
                # Python 3.11's wait_for() may swallow the cancellation; timeout() never does.
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL_S):
                        await self._wake.wait()
                self._wake.clear()
                elapsed_s = self._clock() - self._said_at_s
                idle = all(purse.idle() for purse in self._purses.values())
                if self._lost_one or not idle or elapsed_s >= IDLE_INTERVAL_S:
                    await self.exchange()
                await asyncio.sleep(MIN_GAP_S)
        finally:
            self._running = False
            self._told.set()

    async def reach(self, patience_s: float) -> bool:
        """Whether the ledger answered within `patience_s` seconds: it may have to be started."""
        until_s = self._clock() + patience_s
        while True:
            await self.exchange()
            if not self._lost_one:
                return True
            if self._clock() >= until_s:
                return False
            await asyncio.sleep(MIN_GAP_S)

    async def exchange(self) -> None:
        """One message to the ledger and its answer. Raises nothing that the ledger raises."""
        now_s = self._clock()
        elapsed_s, self._said_at_s = now_s - self._said_at_s, now_s
        said = {name: p for name, p in self._purses.items() if not p.idle()}
        wishes = {name: purse.wish(elapsed_s) for name, purse in said.items()}
        # Whoever starts to wait from here on waits for the next answer.
        told, self._told = self._told, asyncio.Event()
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._take(self._replica, wishes)
            self._found(answer.replicas)
            for name, grant in answer.grants.items():
                said[name].settle(wishes[name], grant, self._clock())
        except Exception as error:
            self._lost(error)
        finally:
            told.set()

    def _lost(self, error: Exception) -> None:
        self._lost_one = True
        if self.alone or self._clock() - self._answered_at_s < AWAY_S:
            return
        self.alone = True
        for purse in self._purses.values():
            purse.go_alone(self._clock(), self._replicas)
        logger.warning(
            "the ledger of rate limits does not answer (%s: %s); until it does, this replica keeps"
            " to its share of every limit, one in %d",
            type(error).__name__,
            error,
            self._replicas,
        )

    def _found(self, replicas: int) -> None:
        self._replicas = max(1, replicas)
        self._answered_at_s = self._clock()
        self._lost_one = False
        if not self.alone:
            return
        self.alone = False
        for purse in self._purses.values():
            purse.share = 0.0
        logger.warning("the ledger of rate limits answers again")


def _over_burst(purse: Purse, n: int) -> Refusal:
    return Refusal(
        code="n_over_burst",
        message=f"key {purse.name!r} may draw at most {purse.policy.burst} samples at once, got"
        f" {n}; ask several times with the same seed and the next first_index",
        retry_after_s=None,
    )


def at_hand(ledger: Ledger) -> Take:
    """A ledger in this process: for the only replica there is, and for tests."""

    async def take(replica: str, wishes: Mapping[str, Wish]) -> Answer:
        return ledger.take(replica, wishes)

    return take
