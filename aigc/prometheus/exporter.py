"""One scrape port per machine: the metrics of all its processes, merged.

    aigc metrics --dir /run/aigc/metrics --port 9464

Every process that writes metrics holds a lock on `live_<pid>.lock` in the folder
(aigc.prometheus.values). A lock that can be taken belongs to a process that has ended, whatever pid
namespace it was in: its gauges are dropped and its counters are folded into one file, so that they
are kept and the folder stays small. If the folder cannot be written, its contents are still shown,
with aigc_metrics_lost at 1.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import tyro
from prometheus_client import Metric, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from aigc.display import netloc
from aigc.prometheus import scrape
from aigc.prometheus.values import (
    LOCK_S,
    LOST,
    LOST_HELP,
    STEP_BYTES,
    MappedValues,
    lock,
    reserve,
)

ENVIRONMENT = "PROMETHEUS_MULTIPROC_DIR"
KINDS = ("counter", "histogram", "summary")
"""Kinds of metrics that outlive their process; gauges do not."""

log = logging.getLogger(__name__)

_reported: set[Path] = set()
"""Files that this process has already reported as unreadable."""


def render(directory: Path, encode: scrape.Encode = generate_latest) -> bytes:
    """Metrics of all processes in one format, including those of dead ones.

    Raises TimeoutError if another process renders for longer than LOCK_S.
    """
    with contextlib.ExitStack() as held:
        dead: dict[Path, IO[str]] = {}
        lost = False
        try:
            alone = held.enter_context((directory / "fold.lock").open("w"))
            lock(alone, time.monotonic() + LOCK_S)
            dead = _dead(directory, held)
            _end_fold(directory)
            if dead:
                _fold(directory, _pids(dead))
            for path in dead:
                path.unlink()
            reserve(alone.fileno(), STEP_BYTES)  # room for the next file of a process
            os.ftruncate(alone.fileno(), 0)
        except TimeoutError:
            raise
        except OSError:
            lost = True
            dead = dead or _dead(directory, held)
        newest = _folds(directory)[-1:]
        left_out = {gauge for pid in _pids(dead) for gauge in _gauges(directory, pid)}
        left_out |= {source for fold in newest for source in _superseded(directory, fold)}
        files = [file for file in directory.glob("*.db") if file not in left_out]
        metrics, whole = _merge([*files, *(f for fold in newest for f in fold.glob("*.db"))])
        return encode(_Merged(metrics, lost or not whole))


class _Merged(Collector):
    """Merged metrics, sorted by name, with LOST if some are missing."""

    def __init__(self, metrics: list[Metric], lost: bool) -> None:
        self._metrics = {metric.name: metric for metric in metrics}
        if lost:
            self._metrics[LOST] = GaugeMetricFamily(LOST, LOST_HELP, value=1)

    def collect(self) -> Iterable[Metric]:
        return [self._metrics[name] for name in sorted(self._metrics)]


def _merge(files: Sequence[Path], *, accumulate: bool = True) -> tuple[list[Metric], bool]:
    """Metrics in these files, and True if all files could be read."""
    merge: Any = MultiProcessCollector.merge
    try:
        return list(merge([*map(str, files)], accumulate=accumulate)), True
    except Exception:  # many types, as a file may contain anything after a crash
        readable = [file for file in files if _is_readable(file)]
        whole = len(readable) == sum(file.exists() for file in files)
        return list(merge([*map(str, readable)], accumulate=accumulate)), whole


def _is_readable(file: Path) -> bool:
    merge: Any = MultiProcessCollector.merge
    try:
        merge([str(file)], accumulate=False)
    except Exception as error:
        if file.exists() and file not in _reported:
            _reported.add(file)
            log.warning("%s is left out, it is not a file of metrics: %r", file, error)
        return False
    return True


def _dead(directory: Path, held: contextlib.ExitStack) -> dict[Path, IO[str]]:
    """Lock files of ended processes, locked by this process until `held` ends."""
    locked: dict[Path, IO[str]] = {}
    for path in directory.glob("live_*.lock"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError, PermissionError):
            file = held.enter_context(path.open())
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked[path] = file
    return locked


def _pids(dead: Iterable[Path]) -> list[str]:
    return [path.stem[5:] for path in dead]


def _gauges(directory: Path, pid: str) -> Iterable[Path]:
    return directory.glob(f"gauge_*_{pid}.db")


def _folds(directory: Path) -> list[Path]:
    """Complete folds, the newest last."""
    return sorted(directory.glob("folded_*"), key=lambda path: int(path.name[7:]))


def _superseded(directory: Path, fold: Path) -> list[Path]:
    """Files whose values are in a fold."""
    sources = fold / "sources.json"
    if not sources.exists():
        return []
    named = {directory / name: inode for name, inode in json.loads(sources.read_text()).items()}
    return [path for path, inode in named.items() if path.exists() and path.stat().st_ino == inode]


def _end_fold(directory: Path) -> None:
    """Remove the sources of the newest fold and older folds, also after a crash."""
    folds = _folds(directory)
    if not folds:
        return
    *older, newest = folds
    for source in _superseded(directory, newest):
        source.unlink()
    # Before a new file may get a pid and an inode that are listed in it.
    (newest / "sources.json").unlink(missing_ok=True)
    for fold in older:
        _remove(fold)


def _fold(directory: Path, pids: list[str]) -> None:
    """Sum the files of dead processes and the last fold into the next one. Raises OSError.

    The next fold appears by one rename and lists its source files with their inodes; from then on
    they do not count, even if this process dies before it deletes them.
    """
    folds = _folds(directory)
    for pid in pids:
        for gauge in _gauges(directory, pid):
            gauge.unlink()
    sources = [directory / f"{kind}_{pid}.db" for kind in KINDS for pid in pids]
    sources = [source for source in sources if source.exists()]
    temporary = directory / "fold.tmp"
    _remove(temporary)
    temporary.mkdir()
    try:
        for kind in KINDS:
            old = [fold / f"{kind}_0.db" for fold in folds[-1:]]
            files = [f for f in (*old, *sources) if f.name.startswith(kind) and f.exists()]
            if files:
                metrics, _ = _merge(files, accumulate=False)
                _write(temporary / f"{kind}_0.db", metrics)
        inodes = {source.name: source.stat().st_ino for source in sources}
        (temporary / "sources.json").write_text(json.dumps(inodes))
    except OSError:
        _remove(temporary)  # it takes room that others need
        raise
    number = int(folds[-1].name[7:]) + 1 if folds else 1
    temporary.rename(directory / f"folded_{number}")
    _end_fold(directory)


def _write(path: Path, metrics: Iterable[Metric]) -> None:
    file: Any
    with contextlib.closing(MappedValues(path)) as file:
        for metric in metrics:
            for sample in metric.samples:
                names, values = list(sample.labels), list(sample.labels.values())
                key = mmap_key(metric.name, sample.name, names, values, metric.documentation)
                file.write_value(key, sample.value, 0.0)


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


def command(argv: list[str]) -> int:
    """Serve the metrics of all aigc processes of this machine on one port."""
    config = tyro.cli(ExporterConfig, args=argv, prog="aigc metrics")
    directory = config.dir or Path(os.environ.get(ENVIRONMENT, ""))
    if not directory.name:
        raise ValueError(f"no folder of metrics: name it with --dir, or set {ENVIRONMENT}")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        server = scrape.listen(config.host, config.port, lambda encode: render(directory, encode))
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen on {netloc(config.host, config.port)}: {error}") from error
    for number in (signal.SIGINT, signal.SIGTERM):
        # shutdown() waits for serve_forever(), which runs in the thread that handles signals.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(server.url, flush=True)
    with server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
