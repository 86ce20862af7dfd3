"""Refusal of web pages of other sites on a server that asks for no keys."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit


def foreign_sender(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Reason to take a request over loopback for one of another site's web page, or None.

    A page reaches loopback through a browser on this machine: by a name of its own that resolves
    to 127.0.0.1 (DNS rebinding; the Host header has that name), or across origins (seen in Origin
    and Sec-Fetch-Site). Only literal addresses and localhost are accepted as Host, since the owner
    of a name decides what it resolves to.
    """
    values: dict[bytes, list[str]] = {b"host": [], b"origin": [], b"sec-fetch-site": []}
    for name, value in headers:
        if name in values:
            values[name].append(value.decode("latin-1").strip().lower())
    hosts, origins, sites = values.values()
    if len(hosts) != 1 or not _names_loopback(hosts[0]):
        shown = ", ".join(hosts)[:100] or "none"
        return f"Host must be localhost, 127.0.0.1 or [::1], with any port, got {shown!r}"
    if any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins):
        return f"Origin must be this server's own, http://{hosts[0]}, got {origins[0][:100]!r}"
    if any(site not in ("same-origin", "none") for site in sites):
        return f"Sec-Fetch-Site must be same-origin or none, got {sites[0][:100]!r}"
    return None


def _names_loopback(host: str) -> bool:
    """True for a Host header of a literal loopback address or localhost, with any port or none."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.netloc != host or "@" in host:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
