"""Ports for servers that tests start."""

import random
import socket


def free_port() -> int:
    """A port of loopback that nobody listens on, below those of Ray and of the kernel.

    Any of the kernel's own may be the near end of some connection by the time a server that took
    seconds to start listens on it.
    """
    for _ in range(100):
        with socket.socket() as probe:
            port = random.randrange(4_000, 6_000)
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError("found no free port between 4000 and 6000")
