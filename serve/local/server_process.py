"""`aigc.serve`: a server as a process of its own, from Python.

    with aigc.serve("artifacts/digits") as server:
        httpx.get(f"{server.url}/v1/models")

    python -m serve.local.server_process     # a ServeConfig arrives pickled on stdin

The process does what `aigc serve` does and also ends when its stdin does, so that it does not
outlive the program that started it, however that ended.
"""

import atexit
import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from aigc.artifact import Artifact
from aigc.config import require
from aigc.suggest import did_you_mean
from serve.local import ports
from serve.options import ServeConfig, read_config

COMMAND = ("-P", "-m", "serve.local.server_process")
"""Arguments of Python that start the server. -P: a folder of the user's does not come first."""
START_S = 1800.0
"""Longest start; `aigc serve` gives up earlier by bounds of its own."""
END_S = 60.0
"""Longest end beyond the seconds that running requests get."""
LINES = 20
"""Last lines of the server's messages that are kept for an error."""


class Server:
    """A running server: see serve()."""

    url: str
    """Address of its page and API, such as http://127.0.0.1:8000."""

    def __init__(self, config: ServeConfig, *, quiet: bool = False) -> None:
        """Start it and wait until it answers. Raises ValueError with its own message if not."""
        self._config = config
        self._lines: deque[str] = deque(maxlen=LINES)
        # Ctrl-C in a terminal signals a whole group: a session of its own keeps it from the server.
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._messages = threading.Thread(target=self._show, args=(quiet,), daemon=True)
        self._messages.start()
        atexit.register(self.close)
        try:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended and said why
                self._process.stdin.write(pickle.dumps(config))
                self._process.stdin.flush()
            self.url = self._read_url()
        except BaseException:
            self.close()
            raise
        if not self.url:
            self.close()
            raise ValueError(self._last_words())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = self._process.poll()
        self.close()
        if ended is not None and error is None:
            raise RuntimeError(f"the server ended by itself: {self._last_words()}")

    def __repr__(self) -> str:
        state = "stopped" if self._process.poll() is not None else "serving"
        return f"<aigc.Server {self.url}, {state}>"

    def close(self) -> None:
        """Let running requests end, then end the server with all its processes; harmless twice.

        A Ctrl-C meanwhile ends it at once.
        """
        atexit.unregister(self.close)
        try:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            self._process.wait(self._config.grace + END_S)
        except BaseException as error:
            self._process.kill()  # its watchdog ends the others
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            self._messages.join(timeout=5)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.stdout.close()

    def _read_url(self) -> str:
        """The line that the server prints once it is ready; "" if it ends before."""
        assert self._process.stdout is not None
        descriptor, line = self._process.stdout.fileno(), b""
        deadline = time.monotonic() + START_S
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ValueError(f"the server did not start within {START_S:.0f} s")
            data = os.read(descriptor, 4096)
            if not data:
                return ""
            line += data
        return line.decode().strip()

    def _show(self, quiet: bool) -> None:
        """Pass the server's messages on to sys.stderr, as a notebook shows it; keep the last."""
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                text = line.decode(errors="replace")
                self._lines.append(text)
                if not quiet:
                    with contextlib.suppress(OSError, ValueError):  # it may be closed
                        sys.stderr.write(text)

    def _last_words(self) -> str:
        said = [line.strip() for line in self._lines if line.strip()]
        own = [line for line in said if line.startswith(_PREFIX)]
        return (own or said or [f"exit status {self._process.poll()}"])[-1].removeprefix(_PREFIX)


_PREFIX = "aigc serve: "


def serve(
    *artifacts: Artifact | str | Path,
    port: int = 0,
    replicas: int | str = 1,
    config: str | Path = "",
    quiet: bool = False,
    **options: Any,
) -> Server:
    """Serve artifacts on this machine, in processes of their own.

    Returns when the server answers, to be used in a `with` statement or closed by its close(); it
    ends with this program at the latest. Works in a notebook too.

    artifacts: Artifact, folder, STORE/NAME or STORE/NAME@VERSION. port: of the page and the API; 0
    takes a free one, or that of the config file. replicas: serving processes, a number or
    "MIN..MAX". config: YAML of options and pools, as for `aigc serve --config`. quiet: keep the
    server's messages from stderr; the last of them are part of errors in any case. options: every
    other option of `aigc serve`, with underscores: host, grpc_port, metrics_port (0, a free one, by
    default), keys, threads, ...

    Raises ValueError for an option that is unknown or out of range, and with the server's message
    if it does not start.
    """
    uris = tuple(a.uri if isinstance(a, Artifact) else str(a) for a in artifacts)
    given = options | ({"artifacts": uris} if uris else {}) | ({"port": port} if port else {})
    given |= {"replicas": str(replicas)} if str(replicas) != "1" else {}
    if config:
        return Server(replace(read_config(Path(config)), **_checked(given)), quiet=quiet)
    given = {"metrics_port": 0} | given
    if not port:
        given["port"] = ports.free_range(1, str(options.get("host", "127.0.0.1")))[0]
    return Server(ServeConfig(**_checked(given)), quiet=quiet)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Values of ServeConfig's fields by name. Raises ValueError for other names and types."""
    types = {each.name: each.type for each in fields(ServeConfig) if each.name != "pools"}
    checked = {}
    for name, value in options.items():
        hint = did_you_mean(name, types)
        require(name in types, f"aigc.serve has no option {name!r}{hint}")
        value = str(value) if isinstance(value, Path) else value
        try:
            checked[name] = msgspec.convert(value, types[name])
        except msgspec.ValidationError as error:
            raise ValueError(f"{name}: {error}") from None
    return checked


def main() -> int:
    """Serve until a signal, or until stdin ends. Exit status as `aigc serve`."""
    config: ServeConfig = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    from serve import cli

    try:
        return cli.run(config)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        print(f"{_PREFIX}{' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
