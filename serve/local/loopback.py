"""Keeps the gRPC servers of `aigc serve` on loopback.

Ray 2.60 binds those of replicas and of Serve's own proxy to every interface and has no setting for
it; one of them unpickles what it receives. HAProxy and the replicas, all on this machine, reach
them over loopback; clients elsewhere come through HAProxy. Without HAProxy they use the port of
Serve's own proxy, which listens where the user says.
"""

import os
from typing import Any

EVERYWHERE = "[::]:"
PUBLIC = "AIGC_PUBLIC_GRPC"
"""Environment variable: the ADDRESS:PORT, as gRPC writes it, that is not moved to loopback."""


def keep() -> None:
    """Patch gRPC in this process; Ray calls it in each worker before anything listens there."""
    from grpc.aio._server import Server  # type: ignore[import-untyped]

    public = os.environ.get(PUBLIC, "")
    for name in ("add_insecure_port", "add_secure_port"):
        original = getattr(Server, name)

        def add(self: Any, address: str, *arguments: Any, _original: Any = original) -> int:
            if address.startswith(EVERYWHERE):
                number = address.removeprefix(EVERYWHERE)
                is_public = public.endswith(f":{number}")
                address = public if is_public else f"127.0.0.1:{number}"
            port: int = _original(self, address, *arguments)
            return port

        setattr(Server, name, add)
