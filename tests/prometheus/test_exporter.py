"""Real processes write metrics; the exporter merges them, whoever of them still lives."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aigc.prometheus import exporter
from aigc.prometheus.values import register_process
from tests.exporter import read

WRITER = """
import sys
from pathlib import Path
from aigc.prometheus.values import register_process
lock = register_process(Path(sys.argv[1]))
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
registry = CollectorRegistry()
counter = Counter("things_total", "Things.", ["kind"], registry=registry).labels("a")
histogram = Histogram("sizes", "Sizes.", buckets=(1, 10), registry=registry)
gauge = Gauge("alive", "Writers.", multiprocess_mode="livesum", registry=registry)
gauge.set(1)
for line in sys.stdin:
    counter.inc(int(line))
    histogram.observe(int(line))
    print("written", flush=True)
"""


class Writer:
    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory)],
            env={**os.environ, exporter.ENVIRONMENT: str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self, number: int) -> None:
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "written\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def writers(directory: Path, n: int) -> Iterator[list[Writer]]:
    started = [Writer(directory) for _ in range(n)]
    try:
        yield started
    finally:
        for writer in started:
            writer.kill()


@pytest.mark.process
def test_counters_of_dead_processes_are_kept_and_gauges_dropped(tmp_path: Path) -> None:
    with writers(tmp_path, 3) as (first, second, third):
        for number, writer in enumerate((first, second, third), 1):
            writer.write(number)
        expected = {
            "things_totala": 6.0,
            "sizes_count": 3.0,
            "sizes_sum": 6.0,
            "sizes_bucket1.0": 1.0,
            "sizes_bucket10.0": 3.0,
            "sizes_bucket+Inf": 3.0,
        }
        assert read(exporter.render(tmp_path)) == {**expected, "alive": 3.0}
        first.kill()
        assert read(exporter.render(tmp_path)) == {**expected, "alive": 2.0}
        second.kill()
        assert read(exporter.render(tmp_path)) == {**expected, "alive": 1.0}
        third.write(4)
        third.kill()
        after = read(exporter.render(tmp_path))
        assert "alive" not in after
        assert after["things_totala"] == 10.0
        assert after["sizes_count"] == 4.0
        assert after == read(exporter.render(tmp_path))
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == ["fold.lock", "folded_3"], "files of dead processes pile up"


@pytest.mark.process
def test_crash_after_a_fold_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writers(tmp_path, 2) as (first, second):
        first.write(1)
        second.write(2)
        before = read(exporter.render(tmp_path))
        first.kill()
        with monkeypatch.context() as crash:

            def unlink(path: Path, missing_ok: bool = False) -> None:
                if path.name.startswith(("counter", "histogram")):
                    raise SystemExit("killed between the fold and the removal of what it holds")
                path.replace(tmp_path / "gone")

            crash.setattr(Path, "unlink", unlink)
            with pytest.raises(SystemExit):
                exporter.render(tmp_path)
        assert any(tmp_path.glob("folded_1")), "the crash came before the fold was complete"
        after = read(exporter.render(tmp_path))
        assert after["things_totala"] == before["things_totala"] == 3.0
        assert after["sizes_count"] == 2.0
        assert after["alive"] == 1.0


def test_announce_takes_no_lock_and_survives_removal_of_its_file(tmp_path: Path) -> None:
    lock = register_process(tmp_path)
    exporter.render(tmp_path)
    assert list(tmp_path.glob("live_*.lock")), "a living process was taken for dead"
    lock.close()
    exporter.render(tmp_path)
    assert not list(tmp_path.glob("live_*.lock"))


@pytest.mark.process
def test_command_serves_metrics_until_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aigc.cli", "metrics", "--dir", str(tmp_path), "--port", "0"]
    with (
        writers(tmp_path, 1) as (writer,),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        writer.write(5)
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            assert read(answer.read())["things_totala"] == 5.0
        with pytest.raises(urllib.error.HTTPError) as missing, urllib.request.urlopen(url + "x"):
            pass
        missing.value.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_missing_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(exporter.ENVIRONMENT, raising=False)
    with pytest.raises(ValueError, match="--dir"):
        exporter.command([])
