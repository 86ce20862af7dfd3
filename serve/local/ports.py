"""Addresses and ports to listen on."""

import errno
import random
import socket
from contextlib import suppress

from aigc.display import netloc


def resolve(host: str) -> str:
    """Address of `--host`: itself, or the first one of a name.

    Raises ValueError if it has none.
    """
    try:
        infos = socket.getaddrinfo(
            host or "0.0.0.0", None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not the name of a host"
        raise ValueError(
            f"--host {host!r} names no address ({reason}); give an address of this machine, such as"
            " 127.0.0.1, ::1 or 0.0.0.0"
        ) from None
    return str(infos[0][4][0])


def reachable(host: str) -> str:
    """Address by which a client on this machine reaches what listens on `host`."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def check_free(host: str, port: int, option: str) -> None:
    """Raise ValueError, naming the option that helps, unless `port` can be listened on."""
    address = resolve(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        advice = f"take another with {option}"
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            advice = "--host must be an address of this machine"
        raise ValueError(
            f"cannot listen on {netloc(host, port)}: {error.strerror or error}; {advice}"
        ) from None


def free_range(n: int, host: str = "127.0.0.1") -> tuple[int, int]:
    """First and last of `n` neighbouring free ports of an address, below the ephemeral ports.

    An ephemeral port may be taken by some connection before it is listened on.
    """
    for _ in range(100):
        first = random.randrange(20_000, 32_000 - n)
        with suppress(ValueError):
            for port in range(first, first + n):
                check_free(host, port, "")
            return first, first + n - 1
    raise ValueError(f"found no {n} neighbouring free ports between 20000 and 32000")
