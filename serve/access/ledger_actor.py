"""The rate ledger as a named actor of the Ray cluster, and the replicas' connection to it.

The actor outlives every replica (detached) and is restarted when its node dies, with full buckets:
its state is worth a few seconds of every key's rate, so it is not stored.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from serve.access.rate_ledger import Ledger, LedgerReply, Take, TokenRequest
from serve.detached_actor import get_or_create

NAME = "aigc-ledger"


def cluster_ledger() -> Take:
    """Connection to the cluster's ledger, which the first replica to need it creates."""
    actor: Any = None
    looking: asyncio.Task[Any] | None = None

    async def take(replica: str, requests: Mapping[str, TokenRequest]) -> LedgerReply:
        nonlocal actor, looking
        try:
            if actor is None:
                # Once at a time: each look blocks a thread while Ray's control plane is away.
                looking = looking or asyncio.create_task(
                    asyncio.to_thread(get_or_create, Ledger, NAME)
                )
                actor = await asyncio.shield(looking)
                looking = None
            answer: LedgerReply = await actor.take.remote(replica, requests)
        except Exception:
            actor = looking = None  # look for its successor next time
            raise
        return answer

    return take
