"""One scrape port per machine: the metrics of all its processes, merged.

    aigc metrics --dir /run/aigc/metrics --port 9464

Every process that writes metrics holds a lock on `live_<pid>.lock` in the folder (`announce`). A
lock that can be taken belongs to a process that is gone, wherever its pid was counted: its gauges
are dropped and its counters are folded into one file, so they are kept and the folder stays small.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import tyro
from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
ENVIRONMENT = "PROMETHEUS_MULTIPROC_DIR"
KINDS = ("counter", "histogram", "summary")
"""What outlives its process; gauges do not."""


def announce(directory: Path) -> IO[str]:
    """Say that this process lives and writes metrics here, until the file returned is closed."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"live_{os.getpid()}.lock"
    while True:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()  # an exporter removed the file of an earlier process with this pid


def render(directory: Path) -> bytes:
    """The metrics of all processes in Prometheus' text format, those of dead ones folded in."""
    with (directory / "fold.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folded = _folded(directory)
        dead = dict(_dead(directory))
        try:
            if dead:
                folded = _fold(directory, folded, [path.stem[5:] for path in dead])
        finally:
            for path, file in dead.items():
                path.unlink()
                file.close()
        files = [*directory.glob("*.db"), *(folded.glob("*.db") if folded else ())]
        return generate_latest(_Merged([str(file) for file in files]))


class _Merged(Collector):
    def __init__(self, files: list[str]) -> None:
        self._files = files

    def collect(self) -> Iterable[Metric]:
        return sorted(_merge(self._files, accumulate=True), key=lambda metric: metric.name)


def _merge(files: list[str], *, accumulate: bool) -> Iterable[Metric]:
    merge: Any = MultiProcessCollector.merge
    merged: Iterable[Metric] = merge(files, accumulate=accumulate)
    return merged


def _dead(directory: Path) -> Iterator[tuple[Path, IO[str]]]:
    """The lock files of processes that are gone, locked by us."""
    for path in directory.glob("live_*.lock"):
        file = path.open("r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            yield path, file


def _folded(directory: Path) -> Path | None:
    """The newest complete fold; ends what a crash after its completion left undone."""
    folds = sorted(directory.glob("folded_*"), key=lambda path: int(path.name[7:]))
    if not folds:
        return None
    *older, newest = folds
    sources = newest / "sources.json"
    if sources.exists():
        for name, inode in json.loads(sources.read_text()).items():
            source = directory / name
            if source.exists() and source.stat().st_ino == inode:
                source.unlink()
        sources.unlink()  # before a later file may get a pid and an inode that are named here
    for fold in older:
        _remove(fold)
    return newest


def _fold(directory: Path, folded: Path | None, pids: list[str]) -> Path:
    """Sum the files of dead processes and the last fold into the next one.

    The next fold appears by one rename and names the files in it with their inodes; from then on
    they do not count, whether this process lives to delete them or not.
    """
    for pid in pids:
        for gauge in directory.glob(f"gauge_*_{pid}.db"):
            gauge.unlink()
    sources = [directory / f"{kind}_{pid}.db" for kind in KINDS for pid in pids]
    sources = [source for source in sources if source.exists()]
    temporary = directory / "fold.tmp"
    _remove(temporary)
    temporary.mkdir()
    for kind in KINDS:
        old = [folded / f"{kind}_0.db"] if folded else []
        files = [str(f) for f in (*old, *sources) if f.name.startswith(kind) and f.exists()]
        if files:
            _write(temporary / f"{kind}_0.db", _merge(files, accumulate=False))
    inodes = {source.name: source.stat().st_ino for source in sources}
    (temporary / "sources.json").write_text(json.dumps(inodes))
    number = int(folded.name[7:]) + 1 if folded else 1
    temporary.rename(directory / f"folded_{number}")
    newest = _folded(directory)
    assert newest is not None
    return newest


def _write(path: Path, metrics: Iterable[Metric]) -> None:
    mapped: Any = MmapedDict
    file = mapped(str(path))
    for metric in metrics:
        for sample in metric.samples:
            names, values = list(sample.labels), list(sample.labels.values())
            key = mmap_key(metric.name, sample.name, names, values, metric.documentation)
            file.write_value(key, sample.value, 0.0)
    file.close()


def _remove(folder: Path) -> None:
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@dataclass(frozen=True, kw_only=True)
class ExporterConfig:
    """Serve the metrics of all aigc processes of this machine on one port."""

    dir: Path | None = None
    """Folder where the processes keep their metrics; PROMETHEUS_MULTIPROC_DIR by default."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 9464
    """Port of /metrics; 0 takes a free one."""


def exporter(directory: Path, host: str, port: int) -> ThreadingHTTPServer:
    """An HTTP server for GET /metrics, to be run with serve_forever(). Raises OSError."""

    class Scrape(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "there is only /metrics here")
                return
            body = render(directory)
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape every few seconds is no news."""

    return ThreadingHTTPServer((host, port), Scrape)


def command(argv: list[str]) -> int:
    """Serve the metrics of all aigc processes of this machine on one port."""
    config = tyro.cli(ExporterConfig, args=argv, prog="aigc metrics")
    directory = config.dir or Path(os.environ.get(ENVIRONMENT, ""))
    if not directory.name:
        raise ValueError(f"no folder of metrics: name it with --dir, or set {ENVIRONMENT}")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        server = exporter(directory, config.host, config.port)
    except OSError as error:
        raise ValueError(f"cannot listen on {config.host}:{config.port}: {error}") from error
    for number in (signal.SIGINT, signal.SIGTERM):
        # shutdown() waits for serve_forever(), which runs in the thread that handles signals.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    host, port = server.server_address[:2]
    print(f"http://{host!s}:{port}/metrics", flush=True)
    with server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
