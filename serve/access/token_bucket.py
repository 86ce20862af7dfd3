"""Budget of one key in one replica: plain numbers, without a clock and without waiting.

`spent` and `limit` are totals since the replica started (see serve.access.rate_ledger).
"""

import math
from functools import partial

from serve.access.charge import Charge
from serve.access.rate_ledger import ChargeNotice, Grant, Policy, TokenRequest

HORIZON_S = 0.3
"""Prefetch horizon: samples are requested this far ahead, two message intervals, so that a late
message does not stop a steady load."""

MAX_UNCONFIRMED = 1024
"""Most charges kept until the ledger confirms them; it never learns of further ones, whose retries
on other replicas are not free."""


class TokenBucket:
    """Samples and slots of one key in one replica."""

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.set_policy(policy)
        self.spent = 0
        self.limit = 0
        self.offline_spent = 0
        """Part of `spent` that was spent while the ledger did not answer."""
        self.left = float(policy.burst)
        """Samples that the ledger had left after its last grant."""
        self.left_at_s = -math.inf
        self.running = 0
        self.slots = 0
        self.peak = 0
        self.slots_short = False
        self.requested = 0
        """Samples requested since the last message, granted or not."""
        self.smallest = 0
        """Size of the smallest request since the last message; 0 if there was none."""
        self.usual = 1
        """Size of the smallest request in the last interval that had any."""
        self.per_s = 0.0
        """Samples requested per second, over the last few tenths of a second."""
        self.share = 0.0
        """Size of this replica's bucket while the ledger does not answer; 0 while it does."""
        self.filled_at_s = 0.0
        self.waiting: list[int] = []
        """Sizes of the requests in spend_or_wait()."""
        self.queueing = 0
        """Requests in acquire_slot_or_wait()."""
        self.unconfirmed: list[ChargeNotice] = []
        """Notices that the ledger has not confirmed."""
        self._num_confirmed = 0
        """Number of notices that the ledger has confirmed."""
        self._num_sent = 0
        """Number of notices that were sent, whether they arrived or not."""
        self._repaid = 0

    def set_policy(self, policy: Policy) -> None:
        self.policy = policy
        self.limit_header = b"%d" % policy.burst

    def try_acquire_slot(self) -> bool:
        """Take a slot if one is free."""
        if self.policy.concurrency is not None and self.running >= self.slots:
            return False
        self.running += 1
        if self.running > self.peak:
            self.peak = self.running
        return True

    def try_spend(self, n: int, name: bytes | None) -> Charge | None:
        """Take n samples; None if there are too few. `name`: the request, for the ledger."""
        if self.policy.samples_per_s is None:
            return Charge()
        room = self.limit - self.spent
        # Offline, a request larger than the full share passes once the share is full, and the next
        # ones wait until it is paid off: otherwise it would never pass.
        if n > max(room, 0) and not 0 < self.share <= room:
            return None
        offline = bool(self.share)
        self.spent += n
        if offline:
            self.offline_spent += n
        if name is None or len(self.unconfirmed) >= MAX_UNCONFIRMED:
            return Charge(partial(self._give_back, n, offline))
        self.unconfirmed.append(ChargeNotice(name, 0 if offline else n, 1))
        number = self._num_confirmed + len(self.unconfirmed) - 1
        return Charge(partial(self._take_back, n, offline, name, number))

    def _give_back(self, n: int, offline: bool) -> None:
        """Undo a charge that the ledger does not know."""
        self.spent -= n
        if offline:
            self.offline_spent -= n

    def _take_back(self, n: int, offline: bool, name: bytes, number: int) -> None:
        """Undo a charge that the ledger may know: then the ledger decides what is paid back."""
        if number < self._num_sent:
            self.unconfirmed.append(ChargeNotice(name, 0 if offline else n, -1))
            return
        self.unconfirmed[number - self._num_confirmed] = ChargeNotice(b"", 0, 0)
        self._give_back(n, offline)

    def count_request(self, n: int) -> None:
        """Record the size of a request, granted or not."""
        if self.policy.samples_per_s is not None:
            self.requested += n
            if n < self.smallest or not self.smallest:
                self.smallest = n

    def available(self, now_s: float) -> float:
        """Samples that the key can draw now, as far as this replica knows."""
        rate = self.policy.samples_per_s or 0.0
        elsewhere = 0.0
        if not self.share:
            elsewhere = self.left + rate * max(0.0, min(now_s - self.left_at_s, 1e6))
        room = self.limit - self.spent
        return min(float(self.policy.burst), room + elsewhere)

    def is_idle(self) -> bool:
        """True if there is nothing to tell the ledger."""
        if self.policy.samples_per_s is None and self.policy.concurrency is None:
            return True
        return not (
            self.requested
            or self.per_s
            or self.running
            or self.slots
            or self.limit != self.spent
            or self.waiting
            or self.queueing
            or self.unconfirmed
        )

    def make_request(self, elapsed_s: float) -> TokenRequest:
        """The next message, `elapsed_s` after the last one. Releases slots that are not needed."""
        weight = -math.expm1(-elapsed_s / HORIZON_S)
        self.per_s += weight * (self.requested / max(elapsed_s, 1e-6) - self.per_s)
        if self.per_s * HORIZON_S < 0.5:
            self.per_s = 0.0
        if self.smallest:
            self.usual = self.smallest
        least = min([self.usual, *self.waiting])
        want_slots = self.running + self.queueing
        if not self.slots_short:
            want_slots = max(want_slots, self.peak)
        if not self.share:
            # At once, not with the reply: the ledger may grant them to another replica before it.
            self.slots = min(self.slots, want_slots)
        ahead = math.ceil(self.per_s * HORIZON_S)
        # Less than half a request per horizon is no steady load, so nothing is prefetched.
        ahead = max(ahead, self.usual) if 2 * ahead >= self.usual else 0
        request = TokenRequest(
            policy=self.policy,
            spent=self.spent - self.offline_spent,
            offline_spent=self.offline_spent,
            need=sum(self.waiting),
            ahead=ahead,
            least=max(1, least),
            running=self.running,
            want_slots=want_slots,
            charges=tuple(self.unconfirmed),
            num_confirmed=self._num_confirmed,
            repaid=self._repaid,
        )
        self._num_sent = self._num_confirmed + len(self.unconfirmed)
        self.requested = self.smallest = 0
        self.peak = self.running
        return request

    def apply_grant(self, request: TokenRequest, grant: Grant, now_s: float) -> None:
        """Take over the ledger's reply to a request."""
        self.spent -= grant.repaid - self._repaid
        self._repaid = grant.repaid
        self.limit = grant.limit + self.offline_spent
        self.left, self.left_at_s = grant.left, now_s
        self.slots = grant.slots
        self.slots_short = grant.slots_short
        confirmed = request.num_confirmed + len(request.charges)
        del self.unconfirmed[: confirmed - self._num_confirmed]
        self._num_confirmed = confirmed

    def go_offline(self, now_s: float, replicas: int) -> None:
        """Keep to this replica's share of the policy from now on, as the ledger does not answer.

        The bucket begins with what was granted last, or full if the ledger never answered.
        """
        self.share = max(1.0, self.policy.burst / replicas)
        self.filled_at_s = now_s if self.left_at_s > -math.inf else -math.inf
        self.slots = max(1, (self.policy.concurrency or 0) // replicas)
        self.fill(now_s, replicas)

    def fill(self, now_s: float, replicas: int) -> None:
        """Refill offline, at the share of the rate up to the share of the burst."""
        if self.policy.samples_per_s is None:
            return
        rate = self.policy.samples_per_s / replicas
        missing = max(0, math.ceil(self.share) - (self.limit - self.spent))
        refill = rate * (now_s - self.filled_at_s)
        if refill >= missing:
            self.limit += missing
            self.filled_at_s = now_s
        else:
            self.limit += math.floor(refill)
            self.filled_at_s += math.floor(refill) / rate
