"""Who asks, and what they may still draw: keys, budgets and retries, for every dialect alike.

    visit = gate.enter(headers, "sample")      # HTTPError 401 or 403
    visit.identify(path, body)                 # a retry is known by its Idempotency-Key
    await visit.pay(n)                         # HTTPError 429 or 400
    ...
    visit.leave()                              # the slot is free again

Without keys and without the header, all of it does nothing.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from serve.access import idempotency
from serve.access.allowance import Allowance
from serve.access.idempotency import Attempt, Idempotency
from serve.access.keys import Key, Keys, Permission, authorise
from serve.http import Headers

RawHeaders = Sequence[tuple[bytes, bytes]]
"""As ASGI gives them, names in lower case."""


LEDGER_S = 10.0
"""A replica waits so long for the ledger before it takes requests; without it, it keeps to a share
of every budget."""


class Gate:
    """What one replica asks of those who come. Lives on one event loop."""

    def __init__(self, keys: Keys | None = None, allowance: Allowance | None = None) -> None:
        self.keys = keys
        self._allowance = allowance
        self._idempotency = Idempotency()
        self._talk: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Reach the ledger of the budgets, at most for LEDGER_S, and go on talking with it."""
        if self._allowance is not None and self._talk is None:
            await self._allowance.reach(LEDGER_S)
            self._talk = asyncio.create_task(self._allowance.run())

    def close(self) -> None:
        """Talk no more."""
        if self._talk is not None:
            self._talk.cancel()
            self._talk = None

    def renew(self, keys: Keys) -> None:
        """From here on these are the keys and budgets; requests in progress end as they began."""
        self.keys = keys
        if self._allowance is not None:
            self._allowance.renew(keys.all)

    def admit(self, headers: RawHeaders, scope: Permission | None = None) -> Key | None:
        """The key of a request that draws nothing, with this scope or any. HTTPError 401 or 403."""
        return authorise(self.keys, headers, scope)

    def enter(self, headers: RawHeaders, scope: Permission) -> "Visit":
        """A request that draws samples begins. Raises HTTPError 401 or 403."""
        key = authorise(self.keys, headers, scope)
        retry = next((value for name, value in headers if name == idempotency.HEADER), None)
        return Visit(key, retry, self._allowance, self._idempotency)


class Visit:
    """One request that draws samples, from its key to its slot."""

    def __init__(
        self,
        key: Key | None,
        retry: bytes | None,
        allowance: Allowance | None,
        idempotency: Idempotency,
    ) -> None:
        self.key = key
        self._retry = retry
        self._allowance = allowance
        self._idempotency = idempotency
        self._attempt: Attempt | None = None
        self._paid: int | None = None
        self._slots = 0
        self.drew = False
        """Samples were drawn for it: what it paid stays paid."""

    def identify(self, path: str, body: bytes) -> None:
        """Know a retry by its Idempotency-Key. Raises HTTPError 400 or 422 for a wrong one."""
        if self._retry is not None:
            self._attempt = self._idempotency.attempt(self.key, self._retry, path, body)

    @property
    def named(self) -> bool:
        """Whether it has an Idempotency-Key."""
        return self._retry is not None

    @property
    def seed(self) -> int | None:
        """What a request without a seed draws from; None where the server may choose."""
        return self._attempt.seed if self._attempt is not None else None

    async def pay(self, n: int) -> None:
        """Take `n` samples from the key's budget, and one of its slots; the first call counts.

        Raises HTTPError 429 with Retry-After, 400 for more than the budget ever holds.
        """
        if self._paid is not None:
            return
        attempt = self._attempt
        free = attempt is not None and attempt.free
        cost = 0 if free else n
        if self._allowance is not None and self.key is not None:
            charge = None if attempt is None or free else attempt.charge
            refusal = self._allowance.spend(self.key, cost, charge)
            if refusal is not None and refusal.worth_asking:
                refusal = await self._allowance.spend_soon(self.key, cost, charge)
            if refusal is not None:
                raise refusal.error(self._allowance.headers(self.key))
            self._slots += 1
        self._paid = cost
        if attempt is not None:
            self._idempotency.charged(attempt)

    def refund(self) -> None:
        """Give back what was paid, if nothing was drawn for it: the next attempt pays again."""
        if self.drew or self._paid is None:
            return
        attempt, paid = self._attempt, self._paid
        self._paid = None
        if attempt is not None and not attempt.free:
            self._idempotency.forget(attempt)
        if self._allowance is not None and self.key is not None and paid:
            self._allowance.refund(self.key, paid, attempt.charge if attempt else None)

    def leave(self) -> None:
        """Free its slot. Once is enough, more often does no harm."""
        if self._allowance is not None and self.key is not None:
            for _ in range(self._slots):
                self._allowance.leave(self.key)
        self._slots = 0

    def headers(self) -> Headers:
        """What is left of the key's budget."""
        if self._allowance is None or self.key is None:
            return []
        return self._allowance.headers(self.key)


NOBODY = Visit(None, None, None, Idempotency())
"""Who has not shown a key yet."""


def open_gate(keys: Keys | None, replica: str, most_replicas: int, take: Any | None) -> Gate:
    """The gate of a replica; `take` reaches the ledger that all replicas share."""
    if keys is None or take is None:
        return Gate(keys)
    return Gate(keys, Allowance(replica, take, replicas=most_replicas))
