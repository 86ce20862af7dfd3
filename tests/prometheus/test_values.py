"""Real processes write metrics to disks that are full, read-only or gone: none dies of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aigc.prometheus import exporter
from tests.disks import fill, remount, small_disk
from tests.exporter import read

PROCESS = """
import logging, sys
from pathlib import Path
from aigc.prometheus.values import register_process
logging.basicConfig(format="%(message)s")
process = register_process(Path(sys.argv[1]))
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
registry = CollectorRegistry()
counter = Counter("things_total", "Things.", ["kind"], registry=registry)
histogram = Histogram("sizes", "Sizes.", ["kind"], buckets=(1, 10), registry=registry)
gauge = Gauge("alive", "Writers.", multiprocess_mode="livesum", registry=registry)
lost = Gauge("aigc_metrics_lost", "Lost.", multiprocess_mode="livemax", registry=registry)
gauge.set(1)
print("there", flush=True)
for line in sys.stdin:
    word, first, last = line.split()
    if word == "count":
        for i in range(int(first), int(last)):
            counter.labels(f"kind {i}").inc(i)
            histogram.labels(f"kind {i}").observe(i)
    elif word == "tend":
        lost.set(process.tend())
    elif word == "close":
        process.close()
    print(registry.get_sample_value("aigc_metrics_lost"), flush=True)
"""


class Process:
    """A process with metrics that does what it is told."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(directory)],
            env={**os.environ, exporter.ENVIRONMENT: str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "there\n"

    def do(self, word: str, first: int = 0, last: int = 0) -> bool:
        """Count kinds first..last, or tend; returns whether it knows of lost values."""
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word} {first} {last}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process ended: {self._process.wait()}"
        return float(answer) > 0

    def end(self) -> str:
        """Its log."""
        self._process.kill()
        return self._process.communicate()[1]


@contextmanager
def process(directory: Path) -> Iterator[Process]:
    started = Process(directory)
    try:
        yield started
    finally:
        started.end()


def expected(*counted: range) -> dict[str, float]:
    """The things of these kinds."""
    return {f"things_totalkind {i}": float(i) for kinds in counted for i in kinds}


def things(directory: Path) -> dict[str, float]:
    shown = read(exporter.render(directory))
    return {name: value for name, value in shown.items() if name.startswith("things")}


def lost(directory: Path) -> float:
    return read(exporter.render(directory)).get("aigc_metrics_lost", 0.0)


@pytest.mark.process
def test_new_series_on_a_full_disk_wait_for_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, process(disk / "metrics") as one:
        directory = disk / "metrics"
        one.do("count", 0, 10)
        one.do("tend")
        assert (things(directory), lost(directory)) == (expected(range(10)), 0)
        filler = fill(disk)
        one.do("count", 10, 1000)
        assert one.do("tend"), "it does not know what it lost"
        one.do("count", 0, 10)  # what is in the file counts on in it
        shown = things(directory)
        assert all(shown[f"things_totalkind {i}"] == 2 * i for i in range(10))
        assert len(shown) < 1000
        assert lost(directory) == 1
        one.do("count", 990, 1000)
        filler.unlink()
        assert not one.do("tend")
        wanted = expected(range(1000))
        wanted |= {f"things_totalkind {i}": 2.0 * i for i in (*range(10), *range(990, 1000))}
        assert (things(directory), lost(directory)) == (wanted, 0)
        said = one.end()
        assert said.count("takes no new values (No space left on device)") == 1, said
        assert said.count("takes all values again") == 1, said


@pytest.mark.process
@pytest.mark.parametrize("option", ["full", "nr_inodes=2", "ro"])
def test_process_started_on_an_unusable_disk_counts(option: str, tmp_path: Path) -> None:
    options = [option] if "=" in option else []
    with small_disk(tmp_path / "disk", *options) as disk:
        directory = disk / "metrics"
        directory.mkdir()
        filler = fill(disk) if option == "full" else None
        if option == "ro":
            remount(disk, "ro")
        with process(directory) as one:
            one.do("count", 0, 100)
            assert one.do("tend")
            assert (things(directory), lost(directory)) == ({}, 1)
            if filler is not None:
                filler.unlink()
            else:
                remount(disk, "rw", "nr_inodes=100")
            assert not one.do("tend")
            assert (things(directory), lost(directory)) == (expected(range(100)), 0)
            assert read(exporter.render(directory))["alive"] == 1


@pytest.mark.process
def test_removed_folder_comes_back_with_all_values(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    with process(directory) as one:
        one.do("count", 0, 100)
        shutil.rmtree(directory)
        one.do("count", 100, 200)
        assert (things(directory), lost(directory)) == ({}, 1)
        assert not one.do("tend")
        assert (things(directory), lost(directory)) == (expected(range(200)), 0)
        shutil.rmtree(directory)
        directory.write_text("no folder")
        assert one.do("tend")
        one.do("count", 200, 300)
        directory.unlink()
        assert not one.do("tend")
        assert things(directory) == expected(range(300))


@pytest.mark.process
def test_dead_process_of_a_full_disk_is_folded_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        directory = disk / "metrics"
        with process(directory) as one, process(directory) as other:
            one.do("count", 0, 100)
            other.do("count", 100, 200)
            filler = fill(disk)
            one.end()
            for _ in range(3):
                assert things(directory) == expected(range(200))
                shown = read(exporter.render(directory))
                assert (shown["alive"], shown["aigc_metrics_lost"]) == (1, 1)
            filler.unlink()
            assert (things(directory), lost(directory)) == (expected(range(200)), 0)
            assert len(list(directory.glob("counter_*.db"))) == 1
            assert things(directory) == expected(range(200))


@pytest.mark.process
def test_foreign_metrics_file_costs_only_itself(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    with process(directory) as one:
        one.do("count", 0, 100)
        (directory / "counter_1.db").write_bytes(b"\xff" * 100)
        (directory / "histogram_1.db").write_bytes(b"")
        assert (things(directory), lost(directory)) == (expected(range(100)), 1)
        with (directory / "live_1.lock").open("w"):  # of a process that is gone
            pass
        assert things(directory) == expected(range(100))
        assert lost(directory) == 0


@pytest.mark.process
def test_closed_process_writes_no_more(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    with process(directory) as one:
        one.do("count", 0, 10)
        one.do("close")
        one.do("tend")
        one.do("count", 0, 20)
        shown = read(exporter.render(directory))
        assert "alive" not in shown
        assert things(directory) == expected(range(10))
