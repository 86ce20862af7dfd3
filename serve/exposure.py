"""Who can reach a server, and whether it may start like that."""

import ipaddress
import socket
from collections.abc import Mapping


def is_loopback(host: str) -> bool:
    """Only this machine can reach what listens on `host`: an address, or a name of some."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host or "0.0.0.0", None)}
    except OSError:
        return False  # listening there fails with a better message
    return all(ipaddress.ip_address(str(address)).is_loopback for address in found)


def check(host: str, *, keys: bool, insecure: bool, environment: Mapping[str, str]) -> str | None:
    """A warning for whoever starts the server, if there is something to warn of.

    Raises ValueError when other machines can reach `host` and nothing keeps strangers out: from
    the models (keys) or from the machine, as whoever reaches a Ray without tokens runs code on it.
    """
    if is_loopback(host):
        return "--insecure has no effect on a loopback address" if insecure else None
    holes = []
    if not keys:
        holes.append("without keys, whoever reaches it draws samples (name a file with --keys)")
    mode = environment.get("RAY_AUTH_MODE", "token")  # unset, `aigc serve` turns tokens on
    if mode.lower() != "token":
        holes.append(
            f"with RAY_AUTH_MODE={mode}, whoever reaches Ray's ports runs code on this machine"
            " (unset it, or set it to token)"
        )
    if not holes:
        return "--insecure has no effect with keys and tokens" if insecure else None
    what = f"--host {host or '0.0.0.0'} lets other machines in: {'; '.join(holes)}"
    if not insecure:
        raise ValueError(f"{what}. --insecure serves all the same; --host 127.0.0.1 keeps it here")
    return what
