"""The ledger of the budgets as one named actor of the Ray cluster; the replicas' way to it.

It outlives every replica (detached) and is started again when its node dies, with full buckets:
what it knows is worth a second of everybody's rate, not a disk.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from serve.access.allowance import Take
from serve.access.budget import Answer, Ledger, Wish

NAME = "aigc-ledger"
NAMESPACE = "aigc"


def shared() -> Take:
    """The cluster's ledger, made by whichever replica asks first."""
    actor: Any = None

    async def take(replica: str, wishes: Mapping[str, Wish]) -> Answer:
        nonlocal actor
        try:
            if actor is None:
                actor = await asyncio.to_thread(_actor)
            answer: Answer = await actor.take.remote(replica, wishes)
        except Exception:
            actor = None  # look for its successor the next time
            raise
        return answer

    return take


def _actor() -> Any:
    """The actor, made if there is none. Blocks on Ray's control plane."""
    import ray

    options = ray.remote(Ledger).options(
        name=NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
    )
    return options.remote()
