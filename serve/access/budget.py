"""The ledger of all keys' budgets: who may draw how much, over any number of replicas.

Every replica holds an `Allowance` (serve.access.allowance) that says yes or no at once. Five to
seven times a second, and when it runs dry, it tells the ledger what was spent and what it would
like, and the ledger answers how far it may go. A request itself waits for that only when its
replica ran dry and the ledger may have more.

Both sides speak in *totals* (samples spent since the replica started; the total it may reach), so a
message that is lost, late or repeated changes nothing: the next one says it all again. What a
replica was granted and did not use goes back with its next message, so a budget follows the load
wherever it goes; what a dead one held is lost, which is at most what it asked for last.

Exactness, while the ledger answers. Samples: what is granted within T seconds is never more than
burst + samples_per_s * T; beyond it goes only what a replica spends of an old grant during the
milliseconds of one message, and that is paid back first. Concurrency: never more than the limit,
but for a replica that was silent for LOST_S and still answers requests; and whoever stays within it
is refused at most now and then, when a slot lay unused at another replica.

The ledger knows no key in advance and keeps nothing on disk: a new one starts with full buckets.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LOST_S = 5.0
"""A replica that was silent for so long is gone, and with it what it held."""

SHORT_S = 10.0
"""For so long after somebody lacked a slot are unused slots given back at once."""

KEEP_CHARGES_S = 600.0
"""For so long is a charge remembered, so that a retry on another replica is paid back."""

MAX_CHARGES = 16_384
"""Charges remembered per key; the oldest go first."""

MAX_FREE_RETRIES = 5
"""Free retries of one charge: without a bound one paid request would buy any number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What a key may draw, over all replicas together. None is no limit."""

    samples_per_s: float | None
    burst: int
    """Most samples at once: the size of the bucket. Without meaning when there is no rate."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a replica says about one key."""

    policy: Policy
    spent: int
    """Samples spent since this replica started: a total."""
    away: int = 0
    """Samples spent while the ledger did not answer, not in `spent`: a total, too."""
    need: int = 0
    """Samples that requests wait for."""
    ahead: int = 0
    """Samples it would like to have at hand beyond those, for the requests to come."""
    least: int = 1
    """Fewer than this many are of no use to it, its requests being larger."""
    running: int = 0
    """Requests that it is answering."""
    want_slots: int = 0
    """Requests that it would like to answer at a time, those included."""
    charges: Sequence[tuple[bytes, int]] = ()
    """Of requests with an Idempotency-Key since the last message: what, and how many samples; 0
    takes a charge back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What the ledger answers about one key."""

    limit: int
    """The total that `spent` may reach."""
    left: float
    """Samples that the ledger has left after all grants; less than 0 is an overdraft."""
    slots: int
    """Requests that the replica may answer at a time."""
    slots_short: bool
    """Few are free, or somebody lacked one lately: give back at once what is not used."""
    repaid: int = 0
    """Samples to take off `spent`: they were charged before, on another replica."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the ledger answers a replica."""

    replicas: int
    """Replicas that were heard of lately, this one included."""
    grants: Mapping[str, Grant]


@dataclass(slots=True)
class _Holding:
    """What one replica holds of one key."""

    spent: int
    limit: int
    away: int
    ahead: int = 0
    """Of what it was granted last, what no request waited for: the rest is as good as spent."""
    slots: int = 0


@dataclass(slots=True)
class _Charge:
    replica: str
    until_s: float
    retries: int = 0


@dataclass(slots=True)
class _Account:
    """One key: the tokens that no replica holds, and what each holds."""

    policy: Policy
    tokens: float
    filled_at_s: float
    short_until_s: float = -math.inf
    holdings: dict[str, _Holding] = field(default_factory=dict)
    charges: OrderedDict[bytes, _Charge] = field(default_factory=OrderedDict)

    def fill(self, policy: Policy, now_s: float) -> None:
        """Let the bucket run full to now, at the rate of then; the new policy holds from now on."""
        rate = self.policy.samples_per_s or 0.0
        held = sum(holding.ahead for holding in self.holdings.values())
        filled = self.tokens + rate * (now_s - self.filled_at_s)
        self.policy = policy
        self.tokens = min(filled, float(policy.burst - held))
        self.filled_at_s = now_s

    def take(self, replica: str, wish: Wish, now_s: float) -> Grant:
        self.fill(wish.policy, now_s)
        holding = self.holdings.get(replica)
        if holding is None:  # new, or thought dead: what it spent is past
            holding = self.holdings[replica] = _Holding(
                spent=wish.spent, limit=wish.spent, away=wish.away
            )
        repaid = self._repay(replica, wish.charges, now_s)
        spent = wish.spent - repaid
        # Unspent samples come back, an overdraft is paid.
        self.tokens = min(self.tokens + holding.limit - spent, float(self.policy.burst))
        # What was spent without asking uses up what ran in meanwhile, and makes no debt.
        self.tokens = max(min(0.0, self.tokens), self.tokens - max(0, wish.away - holding.away))
        holding.away = wish.away
        left = max(0, math.floor(self.tokens))
        given = min(wish.need, left)
        # Half stays, for whom another replica's request is the next.
        ahead = min(wish.ahead, (left - given) // 2)
        if given + ahead < wish.least:  # a part would lie there, of no use to anybody
            given = ahead = 0
        given += ahead
        self.tokens -= given
        holding.ahead = ahead
        holding.spent, holding.limit = spent, spent + given
        short = self._give_slots(replica, holding, wish, now_s)
        return Grant(
            limit=holding.limit,
            left=self.tokens,
            slots=holding.slots,
            slots_short=short,
            repaid=repaid,
        )

    def _give_slots(self, replica: str, holding: _Holding, wish: Wish, now_s: float) -> bool:
        """Slots for a replica, never fewer than it has and wants. True if they get short."""
        if self.policy.concurrency is None:
            holding.slots = 0
            return False
        others = sum(h.slots for name, h in self.holdings.items() if name != replica)
        free = self.policy.concurrency - others
        if wish.want_slots > free:
            self.short_until_s = now_s + SHORT_S
        holding.slots = max(wish.running, min(wish.want_slots, free))
        return now_s < self.short_until_s or 2 * (free - holding.slots) < self.policy.concurrency

    def _repay(self, replica: str, charges: Sequence[tuple[bytes, int]], now_s: float) -> int:
        """Remember charges; the samples of those that another replica charged before."""
        repaid = 0
        for what, n in charges:
            known = self.charges.get(what)
            if known is not None and known.until_s <= now_s:
                known = None
                del self.charges[what]
            if n == 0:
                if known is not None and known.replica == replica:
                    del self.charges[what]
            elif known is None:
                self.charges[what] = _Charge(replica, now_s + KEEP_CHARGES_S)
            elif known.replica != replica and known.retries < MAX_FREE_RETRIES:
                known.retries += 1
                repaid += n
        while self.charges and (
            len(self.charges) > MAX_CHARGES or next(iter(self.charges.values())).until_s <= now_s
        ):
            self.charges.popitem(last=False)
        return repaid

    def forgettable(self) -> bool:
        """Nobody holds any of it, it is full, and no charge is remembered."""
        return not self.holdings and not self.charges and self.tokens >= self.policy.burst


class Ledger:
    """Hands out what all replicas together may draw. Not thread-safe: one caller at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._heard_at_s: dict[str, float] = {}

    def take(self, replica: str, wishes: Mapping[str, Wish]) -> Answer:
        """Book what a replica spent; answer how far it may go. `wishes` by the key's name.

        The policy comes with the wish, so that a new keys file needs no new ledger.
        """
        now_s = self._clock()
        self._forget(now_s)
        self._heard_at_s[replica] = now_s
        grants = {}
        for name, wish in wishes.items():
            account = self._accounts.get(name)
            if account is None:
                account = _Account(wish.policy, float(wish.policy.burst), now_s)
                self._accounts[name] = account
            grants[name] = account.take(replica, wish, now_s)
        return Answer(replicas=len(self._heard_at_s), grants=grants)

    def _forget(self, now_s: float) -> None:
        """Drop the replicas that are gone, and the accounts that are as good as new."""
        gone = [name for name, at_s in self._heard_at_s.items() if now_s - at_s > LOST_S]
        for replica in gone:
            del self._heard_at_s[replica]
        for name, account in list(self._accounts.items()):
            for replica in gone:
                account.holdings.pop(replica, None)
            if gone and not account.holdings:
                account.fill(account.policy, now_s)
                if account.forgettable():
                    del self._accounts[name]
