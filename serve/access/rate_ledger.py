"""Ledger of all keys' budgets, which hold over any number of replicas together.

Every replica has a `RateLimiter` (serve.access.rate_limiter) that decides at once. Five to seven
times a second, and when it runs dry, it reports what it spent and requests more, and the ledger
replies with a limit. A client's request waits for that only when its replica ran dry and the
ledger may have more.

Messages carry *totals* (samples spent since the replica started; the total it may reach), so that
one that is lost, late or repeated does no harm: the next one repeats everything. Granted samples
that a replica did not use return with its next message, so a budget follows the load; those of a
dead replica are lost, at most what it requested last.

Exactness, while the ledger answers. Samples: what is granted within T seconds never exceeds burst +
samples_per_s * T; only what a replica spends of an old grant during the milliseconds of one message
comes on top, and is paid back first. Concurrency: the limit is exceeded only by a replica that was
silent for LOST_S and still answers requests. A client within the limit is refused occasionally,
when a slot is unused at another replica.

The ledger knows no key in advance and stores nothing: a new one starts with full buckets.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LOST_S = 5.0
"""Silence after which a replica is gone, and with it what it held."""

SHORT_S = 10.0
"""After a slot shortage, unused slots are returned immediately for this long."""

KEEP_CHARGES_S = 600.0
"""Seconds for which a charge is remembered, so that a retry on another replica is paid back."""

MAX_REPLICAS = 4096
"""Replicas remembered per key, so that a repeated message is booked once; the oldest are dropped
first."""

MAX_CHARGES = 16_384
"""Charges remembered per key; the oldest are dropped first."""

MAX_FREE_RETRIES = 5
"""Most free retries of one charge: without a bound one paid request would buy any number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Limits of a key over all replicas together; None for no limit."""

    samples_per_s: float | None
    burst: int
    """Most samples at once: the size of the bucket. Ignored without samples_per_s."""
    concurrency: int | None
    """Most requests at a time."""

    def __post_init__(self) -> None:
        rate = self.samples_per_s
        if rate is not None:
            if not (math.isfinite(rate) and 0 < rate <= 1e9):
                raise ValueError(f"samples_per_s must be in (0, 1e9], got {rate}")
            if not max(1, rate / 2) <= self.burst <= 1 << 40:
                raise ValueError(
                    f"burst must be at least {max(1, math.ceil(rate / 2))}, half a second's worth"
                    f" of samples_per_s, got {self.burst}"
                )
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")


class ChargeNotice(NamedTuple):
    """Notice of a charge for a request with an Idempotency-Key, or of its end without an answer."""

    name: bytes
    """Identifier of the request."""
    n: int
    """Samples to pay back if another replica paid for the request; 0 if they were spent offline."""
    change: int
    """1: charged; -1: to be given back; 0: neither, as the charge was given back before this notice
    was sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRequest:
    """Message of a replica about one key."""

    policy: Policy
    spent: int
    """Total of samples spent since this replica started, except `offline_spent`."""
    offline_spent: int = 0
    """Total of samples spent while the ledger did not answer."""
    need: int = 0
    """Samples that requests are waiting for."""
    ahead: int = 0
    """Further samples to hold for requests to come."""
    least: int = 1
    """Smallest useful grant: the size of its smallest request."""
    running: int = 0
    """Requests that it is answering now."""
    want_slots: int = 0
    """Requests that it wants to answer at a time, those included."""
    charges: Sequence[ChargeNotice] = ()
    """Notices that the ledger has not confirmed yet."""
    num_confirmed: int = 0
    """Total of the notices before those."""
    repaid: int = 0
    """Total of Grant.repaid that is subtracted from `spent` already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Reply of the ledger about one key."""

    limit: int
    """Total that `spent` may reach."""
    left: float
    """Samples that the ledger has left after all grants; negative for an overdraft."""
    slots: int
    """Requests that the replica may answer at a time."""
    slots_short: bool
    """True if few slots are free or one was lacking lately: return unused ones at once."""
    repaid: int = 0
    """Total of samples to subtract from what was spent, for charges that were given back or were
    already paid on another replica."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerReply:
    """Reply of the ledger to a replica."""

    replicas: int
    """Replicas that sent a message lately, this one included."""
    grants: Mapping[str, Grant]


Take = Callable[[str, Mapping[str, TokenRequest]], Awaitable[LedgerReply]]
"""Connection to the ledger: its take(), from wherever it lives."""


@dataclass(slots=True)
class _Holding:
    """Samples and slots of one key that one replica holds."""

    spent: int
    limit: int
    offline_spent: int
    ahead: int = 0
    """Part of the last grant that no request waited for; the rest counts as spent."""
    slots: int = 0


@dataclass(slots=True)
class _Charge:
    until_s: float
    holders: int = 0
    """Number of charges for the same request, over all replicas, that were kept or are open."""


@dataclass(slots=True)
class _Booked:
    """Totals booked of one replica's charges."""

    num_booked: int
    repaid: int


@dataclass(slots=True)
class Account:
    """Account of one key: the tokens that no replica holds, and what each replica holds."""

    policy: Policy
    tokens: float
    filled_at_s: float
    short_until_s: float = -math.inf
    holdings: dict[str, _Holding] = field(default_factory=dict)
    charges: OrderedDict[bytes, _Charge] = field(default_factory=OrderedDict)
    booked: dict[str, _Booked] = field(default_factory=dict)
    """Totals by replica, the newest replica last."""

    def fill(self, policy: Policy, now_s: float) -> None:
        """Refill the bucket up to now at the old rate; the new policy holds from now on."""
        rate = self.policy.samples_per_s or 0.0
        held = sum(holding.ahead for holding in self.holdings.values())
        filled = self.tokens + rate * (now_s - self.filled_at_s)
        self.policy = policy
        self.tokens = min(filled, float(policy.burst - held))
        self.filled_at_s = now_s

    def take(self, replica: str, request: TokenRequest, now_s: float) -> Grant:
        self.fill(request.policy, now_s)
        holding = self.holdings.get(replica)
        if holding is None:  # new, or declared dead: its earlier spending is already settled
            holding = self.holdings[replica] = _Holding(
                spent=request.spent, limit=request.spent, offline_spent=request.offline_spent
            )
        repaid = self._book(replica, request, now_s)
        spent = request.spent - (repaid - request.repaid)
        # Unspent samples return, an overdraft is paid.
        self.tokens = min(self.tokens + holding.limit - spent, float(self.policy.burst))
        # Offline spending uses up what was refilled meanwhile, and makes no debt.
        self.tokens = max(
            min(0.0, self.tokens),
            self.tokens - max(0, request.offline_spent - holding.offline_spent),
        )
        holding.offline_spent = request.offline_spent
        left = max(0, math.floor(self.tokens))
        granted = min(request.need, left)
        # Half stays for the next request of another replica, however many of them hold a part.
        held = sum(h.ahead for name, h in self.holdings.items() if name != replica)
        most = max(0, self.policy.burst // 2 - held)
        ahead = min(request.ahead, (left - granted) // 2, most)
        if granted + ahead < request.least:  # a smaller part would lie there unused
            granted = ahead = 0
        granted += ahead
        self.tokens -= granted
        holding.ahead = ahead
        holding.spent, holding.limit = spent, spent + granted
        short = self._give_slots(replica, holding, request, now_s)
        return Grant(
            limit=holding.limit,
            left=self.tokens,
            slots=holding.slots,
            slots_short=short,
            repaid=repaid,
        )

    def _give_slots(
        self, replica: str, holding: _Holding, request: TokenRequest, now_s: float
    ) -> bool:
        """Assign slots to a replica, at least one per running request. True if slots are short."""
        if self.policy.concurrency is None:
            holding.slots = 0
            return False
        others = sum(h.slots for name, h in self.holdings.items() if name != replica)
        free = self.policy.concurrency - others
        if request.want_slots > free:
            self.short_until_s = now_s + SHORT_S
        holding.slots = max(request.running, min(request.want_slots, free))
        return now_s < self.short_until_s or 2 * (free - holding.slots) < self.policy.concurrency

    def _book(self, replica: str, request: TokenRequest, now_s: float) -> int:
        """Book a replica's notices, each once; returns the total that it is repaid."""
        booked = self.booked.get(replica)
        if booked is None:
            booked = self.booked[replica] = _Booked(
                num_booked=request.num_confirmed, repaid=request.repaid
            )
            if len(self.booked) > MAX_REPLICAS:
                del self.booked[next(iter(self.booked))]
        for notice in request.charges[max(0, booked.num_booked - request.num_confirmed) :]:
            booked.repaid += self._refund(notice, now_s)
        booked.num_booked = request.num_confirmed + len(request.charges)
        while self.charges and (
            len(self.charges) > MAX_CHARGES or next(iter(self.charges.values())).until_s <= now_s
        ):
            self.charges.popitem(last=False)
        return booked.repaid

    def _refund(self, notice: ChargeNotice, now_s: float) -> int:
        """Samples that a replica gets back for a notice, having paid for each of its charges."""
        if not notice.change:
            return 0
        known = self.charges.get(notice.name)
        if known is not None and known.until_s <= now_s:
            del self.charges[notice.name]
            known = None
        if known is None:
            if notice.change < 0:  # forgotten meanwhile
                return 0
            known = self.charges[notice.name] = _Charge(now_s + KEEP_CHARGES_S)
        before = _payments(known.holders)
        known.holders += notice.change
        after = _payments(known.holders)
        if not known.holders:
            del self.charges[notice.name]
        return notice.n * (before - after + max(0, notice.change))

    def is_as_new(self) -> bool:
        """True if it equals a new account: full, held by no replica, and without charges."""
        return not self.holdings and not self.charges and self.tokens >= self.policy.burst


def _payments(holders: int) -> int:
    """Number of times that a request is paid for if `holders` replicas answer it."""
    return min(holders, max(1, holders - MAX_FREE_RETRIES))


class Ledger:
    """Distributes the budgets among replicas. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.accounts: dict[str, Account] = {}
        """Budgets by name of the key."""
        self._heard_at_s: dict[str, float] = {}

    def take(self, replica: str, requests: Mapping[str, TokenRequest]) -> LedgerReply:
        """Book what a replica spent and grant it more. `requests`: by name of the key.

        Policies come with the requests, so that a new keys file needs no new ledger.
        """
        now_s = self._clock()
        self._forget(now_s)
        self._heard_at_s[replica] = now_s
        grants = {}
        for name, request in requests.items():
            account = self.accounts.get(name)
            if account is None:
                account = Account(request.policy, float(request.policy.burst), now_s)
                self.accounts[name] = account
            grants[name] = account.take(replica, request, now_s)
        return LedgerReply(replicas=len(self._heard_at_s), grants=grants)

    def _forget(self, now_s: float) -> None:
        """Drop replicas that are gone, and accounts that equal new ones."""
        gone = [name for name, at_s in self._heard_at_s.items() if now_s - at_s > LOST_S]
        for replica in gone:
            del self._heard_at_s[replica]
        for name, account in list(self.accounts.items()):
            for replica in gone:
                account.holdings.pop(replica, None)
            if gone and not account.holdings:
                account.fill(account.policy, now_s)
                if account.is_as_new():
                    del self.accounts[name]
