"""One key's budget as one replica holds it: plain numbers, without a clock and without waiting.

`spent` and `limit` are totals since the replica started, as serve.access.budget tells.
"""

import math

from serve.access.budget import Grant, Policy, Wish

HORIZON_S = 0.3
"""For so long ahead are samples asked for, twice what lies between two messages: a late one must
not stop a steady load."""

MAX_UNTOLD = 1024
"""Charges kept for a ledger that is away; the oldest go first."""


class Purse:
    """One key in one replica."""

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.renew(policy)
        self.spent = 0
        self.limit = 0
        self.off_ledger = 0
        """Of `spent`, what was spent while the ledger was away."""
        self.left = float(policy.burst)
        """What the ledger has, as far as this replica knows."""
        self.left_at_s = -math.inf
        self.running = 0
        self.slots = 0
        self.peak = 0
        self.slots_short = False
        self.asked = 0
        """Samples asked for since the last message, granted or not."""
        self.smallest = 0
        """Size of the smallest request since the last message; 0 if there was none."""
        self.size = 1
        """That of the last time that there was one."""
        self.per_s = 0.0
        """Samples asked for per second, over the last few tenths of a second."""
        self.share = 0.0
        """Size of this replica's bucket while the ledger is away; 0 while it is not."""
        self.filled_at_s = 0.0
        self.waiting: list[int] = []
        """Sizes of the requests in spend_soon()."""
        self.charges: list[tuple[bytes, int]] = []

    def renew(self, policy: Policy) -> None:
        """What the key may draw from here on."""
        self.policy = policy
        self.limit_header = b"%d" % policy.burst

    def lacks(self, n: int) -> str | None:
        """Take n samples and a slot, or name what there is too little of."""
        policy = self.policy
        if policy.concurrency is not None and self.running >= self.slots:
            return "slots"
        if policy.samples_per_s is not None:
            room = self.limit - self.spent
            # On its own, a replica lets a request through that is larger than its full share, and
            # has the next ones wait until it is paid: else it would never pass.
            if n > max(room, 0) and not 0 < self.share <= room:
                return "samples"
            self.spent += n
            if self.share:
                self.off_ledger += n
        self.running += 1
        if self.running > self.peak:
            self.peak = self.running
        return None

    def ask(self, n: int) -> None:
        """Count what is asked for."""
        if self.policy.samples_per_s is not None:
            self.asked += n
            if n < self.smallest or not self.smallest:
                self.smallest = n

    def give_back(self, n: int) -> None:
        if self.policy.samples_per_s is not None:
            self.spent -= n
            if self.share:
                self.off_ledger -= n

    def available(self, now_s: float) -> float:
        """Samples that the key can draw now, as far as this replica knows."""
        rate = self.policy.samples_per_s or 0.0
        elsewhere = 0.0
        if not self.share:
            elsewhere = self.left + rate * max(0.0, min(now_s - self.left_at_s, 1e6))
        room = self.limit - self.spent
        return min(float(self.policy.burst), room + elsewhere)

    def idle(self) -> bool:
        """Nothing to tell the ledger."""
        if self.policy.samples_per_s is None and self.policy.concurrency is None:
            return True
        return not (
            self.asked
            or self.per_s
            or self.running
            or self.slots
            or self.limit != self.spent
            or self.waiting
            or self.charges
        )

    def wish(self, elapsed_s: float) -> Wish:
        """What to say; `elapsed_s` since this was last called. Gives back what is not wanted."""
        weight = -math.expm1(-elapsed_s / HORIZON_S)
        self.per_s += weight * (self.asked / max(elapsed_s, 1e-6) - self.per_s)
        if self.per_s * HORIZON_S < 0.5:
            self.per_s = 0.0
        if self.smallest:
            self.size = self.smallest
        least = min([self.size, *self.waiting])
        want_slots = self.running + len(self.waiting)
        if not self.slots_short:
            want_slots = max(want_slots, self.peak)
        if not self.share:
            # At once and not when the answer comes: the ledger may give it to another before.
            self.slots = min(self.slots, want_slots)
        ahead = math.ceil(self.per_s * HORIZON_S)
        # Less than half a request a horizon is no steady load: what it needs it asks for then.
        ahead = max(ahead, self.size) if 2 * ahead >= self.size else 0
        wish = Wish(
            policy=self.policy,
            spent=self.spent - self.off_ledger,
            away=self.off_ledger,
            need=sum(self.waiting),
            ahead=ahead,
            least=max(1, least),
            running=self.running,
            want_slots=want_slots,
            charges=tuple(self.charges),
        )
        self.asked = self.smallest = 0
        self.peak = self.running
        return wish

    def settle(self, wish: Wish, grant: Grant, now_s: float) -> None:
        """What the ledger answered to a wish."""
        self.spent -= grant.repaid
        self.limit = grant.limit + self.off_ledger
        self.left, self.left_at_s = grant.left, now_s
        self.slots = grant.slots
        self.slots_short = grant.slots_short
        del self.charges[: len(wish.charges)]

    def charge(self, what: bytes | None, n: int) -> None:
        """Have the ledger remember a charge; of those it could not be told, the newest."""
        if what is not None:
            self.charges.append((what, n))
            if len(self.charges) > MAX_UNTOLD:
                del self.charges[0]

    def go_alone(self, now_s: float, replicas: int) -> None:
        """The ledger is away: from now on this replica's share of the policy holds.

        It begins with what was granted last, or with a full bucket if the ledger never was there.
        """
        self.share = max(1.0, self.policy.burst / replicas)
        self.filled_at_s = now_s if self.left_at_s > -math.inf else -math.inf
        self.slots = max(1, (self.policy.concurrency or 0) // replicas)
        self.fill(now_s, replicas)

    def fill(self, now_s: float, replicas: int) -> None:
        """Alone: let the share of the rate run in, up to the share of the burst."""
        if self.policy.samples_per_s is None:
            return
        rate = self.policy.samples_per_s / replicas
        missing = max(0, math.ceil(self.share) - (self.limit - self.spent))
        run_in = rate * (now_s - self.filled_at_s)
        if run_in >= missing:
            self.limit += missing
            self.filled_at_s = now_s
        else:
            self.limit += math.floor(run_in)
            self.filled_at_s += math.floor(run_in) / rate
