"""Another user of this machine, who tries what a run's files and sockets let him do."""

import json
import os
import socket
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

NOBODY = 65534


def as_stranger(what: Callable[[], Any]) -> Any:
    """The result (JSON) of a function in a process of the user nobody. Only root may ask."""
    if os.geteuid():
        pytest.skip("only root may become another user")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(write, json.dumps(what()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    assert text, "the stranger's process failed"
    return json.loads(text)


def reachable(folder: Path, processes: Iterable[psutil.Process]) -> list[str]:
    """Access of a stranger to the files below a folder, and to those of its processes."""
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 20
    kinds = {str(path): path.lstat().st_mode for path in paths}
    shared = _files_of(processes)
    abstract = _abstract_sockets(processes)

    def attempts() -> list[str]:
        return [
            *(what for path, mode in kinds.items() for what in _done_with(path, mode)),
            *(f"opened {path}" for path in shared if _works(lambda p=path: _open(p))),
            *(f"connected to {name!r}" for name in abstract if _works(lambda n=name: _unix(n))),
        ]

    return list(as_stranger(attempts))


def _files_of(processes: Iterable[psutil.Process]) -> list[str]:
    """Their environment, and their memory and deleted files by way of /proc."""
    found = []
    for process in processes:
        found += [f"/proc/{process.pid}/{name}" for name in ("environ", "mem", "cwd", "fd")]
        with suppress(OSError):
            found += [str(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
    return found


def _abstract_sockets(processes: Iterable[psutil.Process]) -> list[str]:
    """Names of the Unix sockets of these processes that lie in no folder."""
    owned = set()
    for process in processes:
        with suppress(OSError):
            for fd in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    owned.add(str(fd.readlink()))
    found = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[7].startswith("@") and f"socket:[{fields[6]}]" in owned:
            found.append("\0" + fields[7][1:])
    return found


def _done_with(path: str, mode: int) -> Iterable[str]:
    if stat.S_ISSOCK(mode):
        tries: dict[str, Callable[[], object]] = {"connected to": lambda: _unix(path)}
    elif stat.S_ISDIR(mode):
        tries = {
            "listed": lambda: list(Path(path).iterdir()),
            "wrote into": lambda: Path(path, "stranger").write_text(""),
            "renamed": lambda: Path(path).rename(f"{path}-stranger"),
        }
    else:
        tries = {
            "read": lambda: _open(path),
            "wrote": lambda: os.close(os.open(path, os.O_WRONLY)),
            "ran": lambda: None if os.access(path, os.X_OK) else os.open("/none", 0),
        }
    return [f"{name} {path}" for name, attempt in tries.items() if _works(attempt)]


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def _unix(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


CALLS = (
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.InternalKVGcsService/InternalKVGet",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.ReporterService/ReportOCMetrics",
    "/ray.serve.ASGIService/HandleRequest",
)
"""One of each of Ray's gRPC servers."""


def answering(ports: Iterable[int]) -> set[int]:
    """Ports on loopback that do not refuse calls for want of a token, all called at once."""
    ports = [*ports]
    with ThreadPoolExecutor(32) as pool:
        refusing = [*pool.map(_refuses_without_token, ports)]
    return {port for port, refuses in zip(ports, refusing, strict=True) if not refuses}


def _refuses_without_token(port: int) -> bool:
    """A port of Ray that refuses for want of a token whatever it would do otherwise."""
    import grpc
    import httpx

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        # A port that speaks no gRPC lets each of them wait.
        calls = [channel.unary_unary(name).future(b"", timeout=5) for name in CALLS]
        codes = {call.code() for call in calls}
    if grpc.StatusCode.UNAUTHENTICATED in codes:
        return codes <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}
    with suppress(httpx.HTTPError):
        return httpx.post(f"http://127.0.0.1:{port}/", timeout=5).status_code == 401
    return False
