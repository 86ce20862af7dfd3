"""Keeps HAProxy running: the process that Ray starts instead, which restarts HAProxy when it dies.

    python -m serve.local.haproxy_supervisor HAPROXY PORT=ADDRESS,... -- -db -f CONFIG [-sf PID ...]

Ray starts it as it would HAProxy, and again for every change of the configuration; its predecessor
stops as HAProxy would, after its last answer. HAProxy's admin socket is private to the supervisor,
which answers on Ray's socket the commands that only read, with its own process id. Linux only.
"""

import json
import os
import re
import selectors
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from aigc.files import write
from serve.local.haproxy_config import (
    Servers,
    allowed_connections,
    edit,
    servers,
    with_last,
)
from serve.local.haproxy_process import COMMAND_S, HAProxyProcess, frozen_servers

LAST_SERVERS = Path("servers.json")
"""File with the replicas that this supervisor knew, for the next one."""
TICK_S = 0.5
RESTARTS = 5
"""Most attempts to restart HAProxy, with waits that grow by half a second: its cause of death may
persist for a while (memory, a port that is not free yet)."""
SPARE_BYTES = 256
"""Bytes by which a configuration may grow."""
MISSED = 2
"""Unanswered commands in a row after which HAProxy counts as frozen, and is replaced."""
MAX_DRAINING = 3
"""Most HAProxy processes that are stopping when idle connections are dropped again."""
READABLE = ("show info", "show stat", "show servers state")
"""Commands that Ray may send."""
ENDING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
FORWARDED = (*ENDING, signal.SIGTTOU, signal.SIGTTIN)


class Supervisor:
    """HAProxy behind one process id and one socket, whichever process runs it at the time."""

    def __init__(
        self, haproxy: Sequence[str], binds: Mapping[int, str], ray: Sequence[str]
    ) -> None:
        config = Path(ray[ray.index("-f") + 1])
        text = config.read_text()
        match = re.search(r"^\s*stats socket (\S+)", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"{config} has no admin socket")
        self._ray_socket = Path(match[1])
        os.chdir(self._ray_socket.parent)  # names of sockets are relative: long paths are refused
        os.umask(0o077)
        self._name = str(os.getpid())
        self._config = config.with_name(f"{config.name}.{self._name}")
        self._text = self._with_last_servers(text)
        self._edit = partial(edit, binds=binds, max_connections=allowed_connections())
        self._haproxy = [*haproxy, "-db", *(["-dR"] if "-dR" in ray else [])]
        self._replaced = ray[ray.index("-sf") + 1 :] if "-sf" in ray else ()
        self._replaced = [pid for pid in self._replaced if pid.isdigit()]
        self._starts = 0
        self._draining: list[HAProxyProcess] = []
        self._ending: int | None = None
        """Signal that told it to stop."""
        self._selector = selectors.DefaultSelector()

    def _with_last_servers(self, text: str) -> str:
        """Ray's configuration, with the replicas of the predecessor where it has none."""
        before: Servers = {}
        with suppress(OSError, ValueError):
            before = json.loads(LAST_SERVERS.read_text())
        with suppress(OSError):  # without room, those of before stay
            write(LAST_SERVERS, json.dumps({**before, **servers(text)}).encode())
        return with_last(text, before)

    def run(self) -> int:
        """Run until told to stop; returns the exit status of the last HAProxy."""
        self._handle_signals()
        # First: nothing is taken over that Ray could then not reach.
        listener = self._listen()
        takeover = ["-sf", *self._replaced] if self._replaced else []
        if self._replaced:
            takeover += ["-x", f"{self._replaced[0]}.admin"]
        self._adopt(self._start(takeover))
        if not self._child.wait_until_ready():
            return _status(self._child.process.wait())
        self._publish(listener)
        next_s = time.monotonic()
        while True:
            for key, _ in self._selector.select(max(0.0, next_s - time.monotonic())):
                key.data()
            ended = self._child.process.poll()
            self._draining = [c for c in self._draining if c.process.poll() is None]
            if ended is not None and (self._ending is not None or ended == 0):
                if not self._draining:
                    self._clean()
                    return _status(ended)
            elif ended is not None:
                _say(f"HAProxy ended with {ended}; it is started again")
                if not self._start_again():
                    return _status(self._child.process.wait())
            if time.monotonic() >= next_s:
                self._tick()
                next_s = time.monotonic() + TICK_S

    def _start_again(self) -> bool:
        """True once a new HAProxy answers; False after the last attempt, or when told to stop."""
        for attempt in range(RESTARTS):
            time.sleep(attempt * TICK_S)
            self._adopt(self._start([]))
            if self._child.wait_until_ready():
                self._name_admin_socket()
                return True
            if self._ending is not None:
                break
        return False

    def _start(self, takeover: Sequence[str]) -> HAProxyProcess:
        """Start an HAProxy. `takeover`: options that let it replace others."""
        self._starts += 1
        name = f"{self._name}.{self._starts}"
        text = self._edit(self._text, admin_socket=f"./{name}", lost_socket="./lost")
        self._write(text)
        return HAProxyProcess([*self._haproxy, "-f", str(self._config), *takeover], name)

    def _write(self, text: str) -> None:
        """Write the configuration; after the first time in place, as the disk may be full."""
        there = self._config.stat().st_size if self._config.exists() else 0
        data = text.encode()
        with self._config.open("r+b" if there else "xb") as file:
            # Names of sockets that come later are longer.
            file.write(data.ljust(there or len(data) + SPARE_BYTES, b"\n"))

    def _adopt(self, child: HAProxyProcess) -> None:
        """Forward signals to this process from now on, and one that arrived while it started."""
        self._child = child
        if self._ending is not None:
            child.process.send_signal(self._ending)

    def _listen(self) -> socket.socket:
        """Open a socket under a name that Ray does not know yet."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self._name}.ray")
        listener.listen(16)
        return listener

    def _publish(self, listener: socket.socket) -> None:
        """Answer Ray on the socket that it knows, from now on."""
        self._name_admin_socket()
        Path(f"{self._name}.ray").rename(self._ray_socket.name)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._answer(listener))

    def _answer(self, listener: socket.socket) -> None:
        """Answer one command of Ray's, if it is READABLE."""
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(COMMAND_S)
            command = ""
            while not command.endswith("\n"):
                part = connection.recv(4096).decode("utf-8", "replace")
                if not part or len(command) > 4096:
                    return
                command += part
            if command.strip() not in READABLE:
                connection.sendall(b"this is not permitted here\n")
                return
            answer = self._child.ask(command.strip())
            pid = self._child.process.pid
            answer = answer.replace(f"\nPid: {pid}\n", f"\nPid: {self._name}\n", 1)
            connection.sendall(answer.encode())

    def _handle_signals(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        self._selector.register(reading, selectors.EVENT_READ, lambda: os.read(reading, 512))
        for number in FORWARDED:
            signal.signal(number, lambda number, _: self.forward(number))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake

    def forward(self, number: int) -> None:
        if number in ENDING:
            self._ending = number
        with suppress(AttributeError, OSError):  # before there is one, or after
            self._child.process.send_signal(number)

    def _tick(self) -> None:
        """Check HAProxy and its requests; called every TICK_S."""
        if self._ending is not None:
            frozen = frozen_servers(self._statistics_of_successor())
            for child in (self._child, *self._draining):
                self._drain(child, frozen)
            return
        try:
            info = self._child.info()
            self._child.missed = 0
            frozen = frozen_servers(self._child.ask("show stat"))
            for server, in_use in frozen.items():
                if in_use:
                    self._child.ask(f"set server {server} health down")
            for server in frozen:
                self._child.ask(f"shutdown sessions server {server}")
            self._child.abort_hung_up()
        except OSError:
            self._child.missed += 1
            if self._child.missed >= MISSED:
                _say("HAProxy does not answer; it is replaced")
                self._child.process.kill()
            return
        for child in self._draining:
            self._drain(child, frozen)
            child.end_if_idle()
        crowded = int(info["CurrConns"]) > int(info["Maxconn"]) // 2
        if crowded and len(self._draining) < MAX_DRAINING:
            self._drop_idle()

    def _drop_idle(self) -> None:
        """Close all connections without a request, by replacing the process that holds them."""
        before = self._child
        takeover = ["-sf", str(before.process.pid), "-x", before.admin_socket]
        # Without takeover, if the old one stopped and the new one did not start.
        for options in (takeover, []):
            child = self._start(options)
            if child.wait_until_ready():
                self._draining.append(before)
                self._adopt(child)
                self._name_admin_socket()
                return

    def _name_admin_socket(self) -> None:
        """Let the next supervisor find the HAProxy whose sockets it takes over."""
        with suppress(OSError):  # without it, that one takes nothing over
            Path(f"{self._name}.new").symlink_to(self._child.admin_socket)
            Path(f"{self._name}.new").rename(f"{self._name}.admin")

    def _statistics_of_successor(self) -> str:
        """`show stat` of the process that answers on Ray's socket now, "" if none does."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(COMMAND_S)
            connection.connect(self._ray_socket.name)
            connection.sendall(b"show stat\n")
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer.decode("utf-8", "replace")
        return ""

    def _drain(self, child: HAProxyProcess, frozen: Collection[str]) -> None:
        """Abort requests to frozen servers in an HAProxy that stops: it no longer checks them."""
        try:
            for session, _, server in child.requests():
                if server in frozen:
                    child.ask(f"shutdown session {session}")
            child.abort_hung_up()
            if child.info()["CurrConns"] == "0":
                child.close()
        except OSError:  # it is about to end by itself, or frozen
            child.missed += 1
            if child.missed > 2 * MISSED:
                child.process.kill()

    def _clean(self) -> None:
        for path in (self._config, *Path().glob(f"{self._name}.*")):
            path.unlink(missing_ok=True)


def _status(returned: int) -> int:
    return returned if returned >= 0 else 128 - returned


def _say(message: str) -> None:
    with suppress(OSError):  # a disk that is full must not end the supervisor
        os.write(2, f"{message}\n".encode())


def main(arguments: Sequence[str]) -> int:
    """Run HAProxy as Ray asks for it."""
    own, ray = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    *haproxy, ports = own
    pairs = (each.split("=", 1) for each in ports.split(","))
    return Supervisor(haproxy, {int(port): address for port, address in pairs}, ray).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
