"""Rate limits of all keys in one replica: decided at once, and settled with the ledger beside it.

    refusal = limiter.acquire_slot(key)      # a slot; no await: a few integers
    if refusal is not None and refusal.worth_asking:
        refusal = await limiter.acquire_slot_or_wait(key)    # asks the ledger, at most 50 ms
    ...
    charge = limiter.spend(key, n)           # samples; then spend_or_wait(), likewise
    if isinstance(charge, Refusal):
        raise charge.error()
    charge.join()                            # this request is one that the charge is for
    try: ...
    finally:
        charge.leave(kept=answered)
        limiter.release_slot(key)

A replica requests ahead what its keys used lately, so a steady load never waits. On the first
request of a key here, on a jump of the load, or when another replica just released a slot, `spend`
fails although the ledger may still have something; only then is a message of a millisecond worth
it.

While the ledger does not answer, a replica is offline and keeps to its share, `samples_per_s /
replicas` and `concurrency / replicas` (at least one), by the last known number of replicas.
Together they never exceed the rate, but a load that is spread unevenly is held back. Nothing waits
for a ledger that is away. When it is back, it learns what was spent meanwhile, which uses up what
its bucket gained; if it forgot this replica, or everything, its return allows at most one more
burst.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from serve.access.api_keys import Key
from serve.access.charge import Charge
from serve.access.rate_ledger import Ledger, LedgerReply, Take, TokenRequest
from serve.access.token_bucket import TokenBucket
from serve.errors import Code, HTTPError
from serve.http import Headers

INTERVAL_S = 0.15
"""Time between two messages while there is something to report."""

IDLE_INTERVAL_S = 1.0
"""Time between two messages when idle: the ledger counts the replicas that it hears of."""

MIN_GAP_S = 0.01
"""Least time between two messages."""

ANSWER_S = 0.5
"""Longest wait for a reply; then the message counts as lost."""

OFFLINE_AFTER_S = 0.5
"""Time without a reply after which the ledger is away; a message or two may get lost."""

MAX_WAIT_S = 0.05
"""Longest that acquire_slot_or_wait() and spend_or_wait() take."""

LEAST_WAIT_S = 0.001
"""Shortest wait that is worth another message."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Reason why a request is not answered now."""

    code: Code
    """rate_limited, concurrency_limited or n_over_burst."""
    message: str
    retry_after_s: float | None
    """Seconds until it may pass; None for never."""
    worth_asking: bool = False
    """True if the ledger may have what this replica lacks."""

    def error(self, headers: Headers | None = None) -> HTTPError:
        """The response: 429 with Retry-After, or 400 for what can never pass.

        Retry-After is in whole seconds; OpenAI's clients read the finer `retry-after-ms` first.
        """
        if self.retry_after_s is None:
            return HTTPError(400, self.code, self.message, headers)
        retry = [
            (b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s))),
            (b"retry-after-ms", b"%d" % max(1, math.ceil(1000 * self.retry_after_s))),
        ]
        return HTTPError(429, self.code, self.message, [*retry, *(headers or [])])


class RateLimiter:
    """Token buckets of all keys in one replica. Used on one event loop, where run() runs.

    `replicas`: most replicas that there may be; divides the shares until the ledger has counted.
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
        self.buckets: dict[str, TokenBucket] = {}
        """Budgets by name of the key."""
        self._sent_at_s = clock()
        self._wake = asyncio.Event()
        self._replied: asyncio.Event = asyncio.Event()
        self._running = False
        self._answered_at_s = clock()
        self._lost_message = False
        self.offline = False
        """True while the ledger does not answer, and this replica keeps to its share."""

    def acquire_slot(self, key: Key) -> Refusal | None:
        """Take one of the key's slots; None if it was taken, to be released by release_slot()."""
        bucket = self._bucket(key)
        return None if bucket.try_acquire_slot() else self._no_slot(bucket)

    async def acquire_slot_or_wait(self, key: Key) -> Refusal | None:
        """acquire_slot() after a refusal that is worth asking, once the ledger has replied.

        Takes at most MAX_WAIT_S seconds, and no time while the ledger is away.
        """
        bucket = self._bucket(key)
        until_s = self._clock() + MAX_WAIT_S
        bucket.queueing += 1
        try:
            while not bucket.try_acquire_slot():
                refusal = self._no_slot(bucket)
                if not (refusal.worth_asking and await self._wait_for_reply(until_s)):
                    return refusal
            return None
        finally:
            bucket.queueing -= 1

    def spend(self, key: Key, n: int, name: bytes | None = None) -> Charge | Refusal:
        """Take `n` samples.

        `name` identifies the request (idempotency.Attempt.charge): if another replica charged for
        the same one, the ledger pays it back.
        """
        bucket = self._bucket(key)
        if n > bucket.policy.burst and bucket.policy.samples_per_s is not None:
            return _over_burst(bucket, n)
        bucket.count_request(n)
        if self.offline:
            bucket.fill(self._clock(), self._replicas)
        return bucket.try_spend(n, name) or self._too_few(bucket, n)

    async def spend_or_wait(self, key: Key, n: int, name: bytes | None = None) -> Charge | Refusal:
        """spend() after a refusal that is worth asking, as acquire_slot_or_wait()."""
        bucket = self._bucket(key)
        until_s = self._clock() + MAX_WAIT_S
        bucket.waiting.append(n)
        try:
            while (charge := bucket.try_spend(n, name)) is None:
                refusal = self._too_few(bucket, n)
                if not (refusal.worth_asking and await self._wait_for_reply(until_s)):
                    return refusal
            return charge
        finally:
            bucket.waiting.remove(n)

    async def _wait_for_reply(self, until_s: float) -> bool:
        """Message the ledger; True if its reply may be here, False if there is no time for it."""
        left_s = until_s - self._clock()
        if left_s < LEAST_WAIT_S:
            return False
        replied = self._replied
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await replied.wait()
        return True

    def release_slot(self, key: Key) -> None:
        """Release the slot of a request that has ended."""
        bucket = self._bucket(key)
        bucket.running -= 1
        if bucket.slots_short and not self.offline:
            self._wake.set()

    def update_policies(self, keys: Iterable[Key]) -> None:
        """Apply changed policies from now on; the ledger learns them with the next message."""
        for key in keys:
            bucket = self.buckets.get(key.name)
            if bucket is not None and bucket.policy != key.policy:
                bucket.set_policy(key.policy)
                if self.offline:
                    bucket.go_offline(self._clock(), self._replicas)

    def headers(self, key: Key) -> Headers:
        """The key's budget in samples: its size, what is left of it, and seconds until it is full.

        In the X-RateLimit-* form that clients read today, seconds as in the IETF's draft
        (draft-ietf-httpapi-ratelimit-headers, whose own fields still change between versions).
        Other replicas may have drawn since this one last heard of the ledger.
        """
        bucket = self._bucket(key)
        rate = bucket.policy.samples_per_s
        if rate is None:
            return []
        left = max(0, math.floor(bucket.available(self._clock())))
        return [
            (b"x-ratelimit-limit", bucket.limit_header),
            (b"x-ratelimit-remaining", b"%d" % left),
            (b"x-ratelimit-reset", b"%d" % math.ceil((bucket.policy.burst - left) / rate)),
        ]

    def _bucket(self, key: Key) -> TokenBucket:
        bucket = self.buckets.get(key.name)
        if bucket is None:
            bucket = self.buckets[key.name] = TokenBucket(key.name, key.policy)
            if self.offline:
                bucket.go_offline(self._clock(), self._replicas)
        return bucket

    def _no_slot(self, bucket: TokenBucket) -> Refusal:
        most = bucket.policy.concurrency or 0
        return Refusal(
            code="concurrency_limited",
            message=f"key {bucket.name!r} may have {most} requests answered at a time;"
            " wait for one of them",
            retry_after_s=1.0,
            # A crowd beyond the limit is refused at once and does not wait for slots.
            worth_asking=self._running and not self.offline and bucket.queueing <= most,
        )

    def _too_few(self, bucket: TokenBucket, n: int) -> Refusal:
        rate = bucket.policy.samples_per_s or 1.0
        now_s = self._clock()
        if self.offline:
            # A request larger than the share passes when the share is full.
            lacking = min(float(n), bucket.share) - (bucket.limit - bucket.spent)
            wait_s = lacking * self._replicas / rate
        else:
            wait_s = (n - bucket.available(now_s)) / rate
        return Refusal(
            code="rate_limited",
            message=f"key {bucket.name!r} may draw {rate:g} samples per second; wait until there"
            f" are {n} again",
            retry_after_s=max(wait_s, 0.001),
            worth_asking=self._running and not self.offline and wait_s <= 0,
        )

    async def run(self) -> None:
        """Exchange messages with the ledger until cancelled."""
        self._running = True
        self._answered_at_s = self._clock()
        try:
            while True:
                # Python 3.11's wait_for() may swallow the cancellation; timeout() never does.
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL_S):
                        await self._wake.wait()
                self._wake.clear()
                elapsed_s = self._clock() - self._sent_at_s
                idle = all(bucket.is_idle() for bucket in self.buckets.values())
                if self._lost_message or not idle or elapsed_s >= IDLE_INTERVAL_S:
                    await self.exchange()
                await asyncio.sleep(MIN_GAP_S)
        finally:
            self._running = False
            self._replied.set()

    async def reach(self, timeout_s: float) -> bool:
        """Wait for the ledger, which may have to be started; True if it replied in time."""
        until_s = self._clock() + timeout_s
        while True:
            await self.exchange()
            if not self._lost_message:
                return True
            if self._clock() >= until_s:
                return False
            await asyncio.sleep(MIN_GAP_S)

    async def exchange(self) -> None:
        """Send one message to the ledger and apply its reply; errors take the limiter offline."""
        now_s = self._clock()
        elapsed_s, self._sent_at_s = now_s - self._sent_at_s, now_s
        sent = {name: b for name, b in self.buckets.items() if not b.is_idle()}
        requests = {name: bucket.make_request(elapsed_s) for name, bucket in sent.items()}
        # Requests that start to wait from here on wait for the next reply.
        replied, self._replied = self._replied, asyncio.Event()
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._take(self._replica, requests)
            self._on_reply(answer.replicas)
            for name, grant in answer.grants.items():
                sent[name].apply_grant(requests[name], grant, self._clock())
        except Exception as error:
            self._on_failure(error)
        finally:
            replied.set()

    def _on_failure(self, error: Exception) -> None:
        self._lost_message = True
        if self.offline or self._clock() - self._answered_at_s < OFFLINE_AFTER_S:
            return
        self.offline = True
        for bucket in self.buckets.values():
            bucket.go_offline(self._clock(), self._replicas)
        logger.warning(
            "the ledger of rate limits does not answer (%s: %s); until it does, this replica keeps"
            " to its share of every limit, one in %d",
            type(error).__name__,
            error,
            self._replicas,
        )

    def _on_reply(self, replicas: int) -> None:
        self._replicas = max(1, replicas)
        self._answered_at_s = self._clock()
        self._lost_message = False
        if not self.offline:
            return
        self.offline = False
        for bucket in self.buckets.values():
            bucket.share = 0.0
        logger.warning("the ledger of rate limits answers again")


def _over_burst(bucket: TokenBucket, n: int) -> Refusal:
    return Refusal(
        code="n_over_burst",
        message=f"key {bucket.name!r} may draw at most {bucket.policy.burst} samples at once, got"
        f" {n}; ask several times with the same seed and the next first_index",
        retry_after_s=None,
    )


def in_process(ledger: Ledger) -> Take:
    """Connection to a ledger in this process, for a single replica and for tests."""

    async def take(replica: str, requests: Mapping[str, TokenRequest]) -> LedgerReply:
        return ledger.take(replica, requests)

    return take
