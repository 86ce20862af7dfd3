"""Ports for servers that tests start."""

import os
import random
import socket

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Number of this process of pytest-xdist: each of the first four has ports of its own."""


_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody listens on, below those of Ray and of the kernel.

    No port is given twice: the first server may not listen yet.

    Any of the kernel's own may be the near end of some connection by the time a server that took
    seconds to start listens on it.
    """
    first = 4_000 + 500 * (WORKER % 4)
    for _ in range(10_000):
        with socket.socket() as probe:
            port = random.randrange(first, first + 500)
            if port not in _given and probe.connect_ex(("127.0.0.1", port)):
                _given.add(port)
                return port
    raise RuntimeError(f"found no free port in {first} to {first + 499}")
