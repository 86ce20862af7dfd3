"""Keeps two drivers out of one run, also when they are on two machines.

A retried Kubernetes job can overlap the old one, and a paused machine can come back. So the right
to write a run is a file that says who has it and until when; its owner renews it, and who finds
that somebody else has it stops at once. Clocks may differ by less than half of `LENGTH_S`.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import psutil

LENGTH_S = 30.0
NAME = "lease.json"

log = logging.getLogger(__name__)


class Lease:
    """The right to write a run, for as long as the block lasts.

    with Lease("s3://bucket/runs/digits", lost=give_up):
        ...

    Raises ValueError if somebody else has it. `lost` is called from a thread, with the reason, once
    somebody else has taken it over.
    """

    def __init__(
        self, uri: str, lost: Callable[[str], None], *, length_s: float = LENGTH_S
    ) -> None:
        self._lost, self._length_s, self._uri = lost, length_s, uri
        self._fs, root = fsspec.core.url_to_fs(uri)
        self._path = f"{root.rstrip('/')}/{NAME}"
        self._owner = secrets.token_hex(8)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        found = self._read()
        if found is not None and not _dead(found) and found["expires"] > time.time():
            left = found["expires"] - time.time()
            raise ValueError(
                f"{self._uri} is being trained by process {found['pid']} on {found['host']};"
                f" stop that, or wait {left:.0f} s after its end"
            )
        if found is not None:
            log.warning("the lease of process %s on %s is taken over", found["pid"], found["host"])
        if self._fs.exists(self._path):
            self._fs.rm_file(self._path)
        try:
            self._write("create")
        except FileExistsError:
            raise ValueError(f"{self._uri} was just taken by another process") from None
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._thread.join()
        if self._mine():
            self._fs.rm_file(self._path)

    def _renew(self) -> None:
        while not self._closed.wait(self._length_s / 3):
            try:
                if not self._mine():
                    found = self._read()
                    who = f"process {found['pid']} on {found['host']}" if found else "nobody"
                    self._lost(f"{self._uri} was taken over: its lease is {who}'s")
                    return
                self._write("overwrite")
            except OSError as error:
                log.warning("the lease of %s was not renewed: %s", self._uri, error)

    def _mine(self) -> bool:
        found = self._read()
        return found is not None and found["owner"] == self._owner

    def _read(self) -> dict[str, Any] | None:
        """What the file says; None if there is none, or none that can be understood."""
        try:
            found = json.loads(self._fs.cat_file(self._path))
            return found if {"owner", "pid", "host", "expires", "started"} <= set(found) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _write(self, mode: str) -> None:
        content = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "expires": time.time() + self._length_s,
        }
        data = json.dumps(content).encode()
        if "file" in self._fs.protocol:
            _write_local(Path(self._path), data, exclusive=mode == "create")
        else:
            self._fs.pipe_file(self._path, data, mode=mode)


def _write_local(path: Path, data: bytes, exclusive: bool) -> None:
    """Whole or not at all; exclusive by a hard link, which exists once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    if not exclusive:
        temporary.rename(path)
        return
    try:
        path.hardlink_to(temporary)
    finally:
        temporary.unlink()


def _dead(found: dict[str, Any]) -> bool:
    """Whether its owner was a process of this machine that is gone."""
    if found["host"] != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(found["pid"]).create_time() != found["started"])
    except psutil.Error:
        return True
