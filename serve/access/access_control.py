"""Authentication, budgets and free retries of a request, the same for every protocol.

    access = control.authenticate(headers, "sample")    # HTTPError 401 or 403
    await access.take_slot()                   # HTTPError 429
    access.identify(path, body)                # recognises a retry by its Idempotency-Key
    await access.pay(n)                        # HTTPError 429 or 400
    access.keep()                              # samples were made: what was paid stays paid
    ...
    access.leave(answered)                     # settles what was paid, and frees the slot

Without keys and without the Idempotency-Key header, all of it does nothing.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from serve.access import idempotency
from serve.access.api_keys import Key, Keys, KeyScope, authorize
from serve.access.charge import Charge
from serve.access.idempotency import Attempt, Idempotency
from serve.access.rate_limiter import RateLimiter, Refusal
from serve.http import Headers

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Headers as ASGI passes them, names in lower case."""

LEDGER_S = 10.0
"""Longest wait for the ledger at startup; without it, the replica starts with its share of every
budget."""


class AccessControl:
    """Access control of one replica. Not thread-safe: used on one event loop."""

    def __init__(
        self,
        keys: Keys | None = None,
        limiter: RateLimiter | None = None,
        idempotency: Idempotency | None = None,
    ) -> None:
        self.keys = keys
        self._limiter = limiter
        self._idempotency = Idempotency() if idempotency is None else idempotency
        self._exchange: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Wait for the ledger, at most LEDGER_S, and exchange messages with it from then on."""
        if self._limiter is not None and self._exchange is None:
            await self._limiter.reach(LEDGER_S)
            self._exchange = asyncio.create_task(self._limiter.run())

    def close(self) -> None:
        """End the exchange with the ledger."""
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def replace_keys(self, keys: Keys) -> None:
        """Use these keys and budgets from now on; requests in progress keep theirs."""
        self.keys = keys
        if self._limiter is not None:
            self._limiter.update_policies(keys.all)

    def authorize(self, headers: RawHeaders, scope: KeyScope | None = None) -> Key | None:
        """The key of a request that draws no samples; without `scope`, a key of any scope.

        Raises HTTPError 401 or 403.
        """
        return authorize(self.keys, headers, scope)

    def authenticate(self, headers: RawHeaders, scope: KeyScope) -> "RequestAccess":
        """Access of a request that draws samples. Raises HTTPError 401 or 403."""
        key = authorize(self.keys, headers, scope)
        idempotency_key = next(
            (value for name, value in headers if name == idempotency.HEADER), None
        )
        return RequestAccess(key, idempotency_key, self._limiter, self._idempotency)


class RequestAccess:
    """Key, slot and charges of one request that draws samples."""

    def __init__(
        self,
        key: Key | None,
        idempotency_key: bytes | None,
        limiter: RateLimiter | None,
        idempotency: Idempotency,
    ) -> None:
        self.key = key
        self._idempotency_key = idempotency_key
        self._limiter = limiter
        self._idempotency = idempotency
        self._attempt: Attempt | None = None
        self._charges: list[Charge] = []
        self._shared: list[Charge] | None = None
        """Charges shared with other attempts of the same request, where those are free."""
        self._paid = 0
        self._has_slot = False
        self._kept = 0
        """Number of its charges that are kept, the first ones."""

    @property
    def limited(self) -> bool:
        """True if its key has a limit of requests at a time."""
        key = self.key
        return key is not None and key.policy.concurrency is not None and bool(self._limiter)

    async def take_slot(self) -> None:
        """Take one of its key's slots. Raises HTTPError 429 with Retry-After."""
        if self._limiter is None or self.key is None:
            return
        refusal = self._limiter.acquire_slot(self.key)
        if refusal is not None and refusal.worth_asking:
            refusal = await self._limiter.acquire_slot_or_wait(self.key)
        if refusal is not None:
            raise refusal.error(self._limiter.headers(self.key))
        self._has_slot = True

    def identify(self, path: str, body: bytes) -> None:
        """Recognise a retry by its Idempotency-Key. Raises HTTPError 400 or 422 for a wrong one."""
        if self._idempotency_key is not None:
            self._attempt = self._idempotency.attempt(self.key, self._idempotency_key, path, body)

    @property
    def named(self) -> bool:
        """True if it has an Idempotency-Key."""
        return self._idempotency_key is not None

    @property
    def seed(self) -> int | None:
        """Seed of a retry that named none; None where the server may choose."""
        return self._attempt.seed if self._attempt is not None else None

    async def pay(self, n: int) -> None:
        """Charge the key's budget so that `n` samples in total are paid; never gives back.

        Raises HTTPError 429 with Retry-After, 400 for more than the budget ever holds.
        """
        if n <= self._paid or (self.key is None and self._attempt is None):
            return
        if self._attempt is not None and not self._charges:
            self._shared = self._idempotency.charges(self._attempt)
        charge = self._free() or await self._spend(n - self._paid)
        charge.join()
        self._charges.append(charge)
        self._paid = n

    def _free(self) -> Charge | None:
        """The next charge of another attempt of this request, to share; None if there is none."""
        at = len(self._charges)
        return self._shared[at] if self._shared is not None and at < len(self._shared) else None

    async def _spend(self, n: int) -> Charge:
        """Charge `n` samples to the key's budget. Raises HTTPError 429 or 400."""
        charge = Charge()
        attempt, shared, at = self._attempt, self._shared, len(self._charges)
        if self._limiter is not None and self.key is not None:
            name = None
            if attempt is not None and shared is not None:
                name = attempt.charge + bytes([at])
            outcome = self._limiter.spend(self.key, n, name)
            if isinstance(outcome, Refusal) and outcome.worth_asking:
                outcome = await self._limiter.spend_or_wait(self.key, n, name)
            if isinstance(outcome, Refusal):
                raise outcome.error(self._limiter.headers(self.key))
            charge = outcome
        # If another attempt was charged while this one waited, the ledger settles it, as if it had
        # come to another replica.
        if attempt is not None and shared is not None and len(shared) == at:
            shared.append(charge)
            self._idempotency.remember(attempt, shared)
        return charge

    def keep(self) -> None:
        """Keep what was paid by now, since samples were made or sent, whatever the outcome."""
        self._kept = len(self._charges)

    def leave(self, kept: bool = False) -> None:
        """End the request: keep what it paid if `kept` or if samples were made, else give it back.

        Calling it again has no effect.
        """
        for at, charge in enumerate(self._charges):
            given_back = charge.leave(kept or at < self._kept)
            if given_back and self._shared and charge in self._shared:
                self._shared.remove(charge)
        if self._attempt is not None and self._shared == []:
            self._idempotency.forget(self._attempt, self._shared)
        self._charges.clear()
        if self._has_slot and self._limiter is not None and self.key is not None:
            self._limiter.release_slot(self.key)
        self._has_slot = False

    def headers(self) -> Headers:
        """X-RateLimit headers of the key's budget; none without one."""
        if self._limiter is None or self.key is None:
            return []
        return self._limiter.headers(self.key)


def anonymous() -> RequestAccess:
    """Access of a request whose key was not checked yet, and that may draw nothing."""
    return RequestAccess(None, None, None, Idempotency())


def create_access_control(
    keys: Keys | None, replica: str, most_replicas: int, take: Any | None
) -> AccessControl:
    """Access control of a replica; `take` reaches the ledger that all replicas share."""
    if keys is None or take is None:
        return AccessControl(keys)
    return AccessControl(keys, RateLimiter(replica, take, replicas=most_replicas))
