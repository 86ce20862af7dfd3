"""One HAProxy process and its admin socket, as the supervisor uses them."""

import csv
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from serve.local.haproxy_config import HALF_CLOSED_S

START_S = 20.0
"""Longest that HAProxy may take from its start to its first answer."""
COMMAND_S = 1.5
"""Longest that HAProxy may take to answer a command on its admin socket."""


class HAProxyProcess:
    """One HAProxy process and a lasting connection to its admin socket.

    The socket closes as soon as HAProxy begins to stop; the connection does not.
    """

    def __init__(self, command: Sequence[str], admin_socket: str) -> None:
        self.process = subprocess.Popen(command)
        self.admin_socket = admin_socket
        self.missed = 0
        """Number of commands in a row that it did not answer."""
        self._connection: socket.socket | None = None
        self._hung_up: dict[tuple[str, str], float] = {}
        """Time when the client of a request was first seen to have closed its side, by (id, client)
        of the request."""

    def wait_until_ready(self) -> bool:
        """Wait until it answers; False if it ended, or was killed for taking too long."""
        deadline_s = time.monotonic() + START_S
        while self.process.poll() is None:
            with suppress(OSError):
                if f"Pid: {self.process.pid}\n" in self.ask("show info"):
                    return True
            if time.monotonic() > deadline_s:
                self.process.kill()
            time.sleep(0.02)
        return False

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(COMMAND_S)
        try:
            connection.connect(self.admin_socket)
        except OSError:
            connection.close()
            raise
        self._connection = connection
        self.ask("prompt")

    def ask(self, command: str) -> str:
        """Answer to a command. Raises OSError if it does not come in time."""
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        try:
            self._connection.sendall(command.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n> "):
                part = self._connection.recv(65536)
                if not part:
                    raise OSError("HAProxy closed its admin socket")
                answer += part
        except OSError:
            self.close()  # a late answer must not pass for that to the next command
            raise
        return answer[:-2].decode("utf-8", "replace")

    def info(self) -> dict[str, str]:
        """Values of `show info` by name. Raises OSError."""
        lines = self.ask("show info").splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line)

    def close(self) -> None:
        """Close the connection, which would keep HAProxy from ending."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def requests(self) -> list[tuple[str, str, str]]:
        """(id, address:port of the client, BACKEND/SERVER) of its requests. Raises OSError."""
        matches = re.findall(
            r"^(0x[0-9a-f]+): proto=tcpv[46] src=(\S+) fe=\S+ be=(\S+) srv=(\S+)",
            self.ask("show sess"),
            re.MULTILINE,
        )
        return [
            (number, client, f"{backend}/{server}") for number, client, backend, server in matches
        ]

    def end_if_idle(self) -> None:
        """End it, with all its idle connections, if it has no request."""
        with suppress(OSError):
            if not self.requests():
                self.process.terminate()

    def abort_hung_up(self) -> None:
        """Abort the requests of clients that are gone. Raises OSError.

        A client that only closed its sending side looks like one that hung up: both are waited for
        HALF_CLOSED_S.
        """
        now_s = time.monotonic()
        requests = self.requests()
        states = _peers() if requests else {}
        if "0A" not in states.values():
            return  # this kernel does not show its sockets
        gone = {each[:2] for each in requests if states.get(_hex(each[1]), "") in ("08", "")}
        self._hung_up = {each: self._hung_up.get(each, now_s) for each in gone}
        for each, since_s in self._hung_up.items():
            if now_s - since_s > HALF_CLOSED_S:
                self.ask(f"shutdown session {each[0]}")


def frozen_servers(statistics: str) -> dict[str, bool]:
    """Servers that accept connections and answer no health check, by BACKEND/SERVER.

    The value is True where HAProxy still sends requests there: it checks the HTTP and the gRPC port
    of a replica apart, and one of the checks ends up to CHECK_INTERVAL_S before the other.

    `statistics`: `show stat`. A server that refuses connections is dead, or draining and at work on
    its last requests.
    """
    rows = [*csv.DictReader(statistics.removeprefix("# ").splitlines())]
    names = {
        row["svname"]
        for row in rows
        if row["status"].startswith("DOWN") and "TOUT" in row["check_status"]
    }
    return {
        # One that follows another's checks has no status of its own, nor can it be given one.
        f"{row['pxname']}/{row['svname']}": bool(row["check_status"])
        and row["status"].startswith("UP")
        for row in rows
        if row["svname"] in names
    }


def _peers() -> dict[str, str]:
    """State of every TCP socket here by its remote end, as the kernel writes them."""
    states = {}
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines()[1:]:
                words = line.split(None, 4)
                states[words[2]] = words[3]
    return states


def _hex(client: str) -> str:
    """`address:port` as the kernel writes it."""
    address, _, port = client.rpartition(":")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address.strip("[]"))
    words = (packed[at : at + 4][::-1] for at in range(0, len(packed), 4))
    return f"{b''.join(words).hex().upper()}:{int(port):04X}"
