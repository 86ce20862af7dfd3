"""Checks that a server on this machine is not open to strangers, before and after its start."""

import ipaddress
import socket
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from aigc.display import netloc
from serve.local import ports


def is_loopback(host: str) -> bool:
    """True if only this machine reaches what listens on `host`, an address or a name of some."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host or "0.0.0.0", None)}
    except (OSError, UnicodeError):
        return False  # listening there fails with a better message
    return all(ipaddress.ip_address(str(address)).is_loopback for address in addresses)


def check(host: str, *, keys: bool, insecure: bool, environment: Mapping[str, str]) -> str | None:
    """Check the options before the start; returns a warning to print, or None.

    Raises ValueError if strangers could use a model without keys, or run code here: anyone who
    reaches a Ray without tokens can, and replicas listen for each other on every interface,
    whatever `host` is.
    """
    holes = []
    local = is_loopback(host)
    if not keys and not local:
        holes.append(
            f"--host {host or '0.0.0.0'} lets other machines in: without keys, whoever reaches it"
            " draws samples (name a file with --keys)"
        )
    mode = environment.get("RAY_AUTH_MODE", "token")  # unset, `aigc serve` turns tokens on
    if mode.lower() != "token":
        holes.append(
            f"RAY_AUTH_MODE={mode} lets other machines and users in: whoever reaches the ports of"
            " Ray and its replicas, some of which listen on all interfaces, runs code on this"
            " machine (unset it, or set it to token)"
        )
    if not holes:
        why = "on a loopback address" if local else "with keys and tokens"
        return f"--insecure has no effect {why}" if insecure else None
    what = "; ".join(holes)
    if not insecure:
        local_advice = "" if local else "; --host 127.0.0.1 keeps the models here"
        raise ValueError(f"{what}. --insecure serves all the same{local_advice}")
    return what


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A TCP socket of a process that other machines can reach."""

    process: str
    address: str
    port: int


def listeners(processes: Iterable[psutil.Process]) -> list[Listener]:
    """Listening sockets of these processes beyond loopback."""
    open_sockets = []
    for process in processes:
        with suppress(psutil.Error):
            name = (process.cmdline() or [process.name()])[0]
            for each in process.net_connections("inet"):
                if each.status != psutil.CONN_LISTEN:
                    continue
                address = ipaddress.ip_address(each.laddr.ip)
                mapped = getattr(address, "ipv4_mapped", None) or address
                if not mapped.is_loopback:
                    open_sockets.append(
                        Listener(process=name, address=each.laddr.ip, port=each.laddr.port)
                    )
    return open_sockets


def check_listeners(sockets: Iterable[Listener], public: Container[int]) -> None:
    """Raise ValueError if one that is not on a public port answers calls without Ray's token."""
    for each in sockets:
        if each.port not in public and not _asks_for_token(each):
            raise ValueError(
                f"{each.process} listens on {each.address} port {each.port}, which other machines"
                " reach, and asks for no token there; unset RAY_AUTH_MODE, or set it to token"
            )


def _asks_for_token(listener: Listener) -> bool:
    """True if a call without a token is refused for that reason."""
    import grpc  # type: ignore[import-untyped]

    where = netloc(ports.reachable(listener.address), listener.port)
    with grpc.insecure_channel(where) as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        try:
            call(b"", timeout=5)
        except grpc.RpcError as error:
            status: grpc.StatusCode = error.code()
            return status is grpc.StatusCode.UNAUTHENTICATED
    return False
