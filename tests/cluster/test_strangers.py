"""A run on Ray in a terminal: out of reach of other users, and stopped when it is closed."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from aigc.training.run import Run
from tests import strangers
from tests.cluster.runs import (
    DIGITS,
    INTERVAL,
    close_terminal,
    family,
    start_in_terminal,
    train_workers,
    wait_until_beyond,
)

pytestmark = pytest.mark.cluster


@dataclass
class InTerminal:
    """A run of two workers that was started in a terminal."""

    run: Run
    process: "subprocess.Popen[str]"
    terminal: int


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InTerminal]:
    folder = tmp_path_factory.mktemp("runs")
    # Nobody reads the terminal, which would hold up a run that writes often.
    flags = [*DIGITS, "--samples", "640000", "--report-interval", str(2 * INTERVAL)]
    process, terminal = start_in_terminal(folder, "run", *flags)
    run = Run(folder / "run")
    wait_until_beyond(run, 0, process)
    for worker in train_workers(psutil.Process(process.pid)):
        worker.nice(19)  # they train for as long as the tests look around
    yield InTerminal(run, process, terminal)
    process.kill()  # nothing where the last test has stopped it
    process.wait(60)


def test_stranger_reaches_no_file_and_no_call_of_ray(started: InTerminal) -> None:
    tree = family(started.process)
    told = ""
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            told += " ".join([*one.cmdline(), ""])
    (folder,) = set(re.findall(r"(/\S*/aigc-[^/\s]+)/r/session_", told))
    assert strangers.reachable(Path(folder), tree) == []
    owners: dict[int, str] = {}
    for one in tree:
        with suppress(psutil.NoSuchProcess):  # Ray ends idle workers as it likes
            for each in one.net_connections("inet"):
                if each.status == psutil.CONN_LISTEN:
                    assert each.laddr.ip.removeprefix("::ffff:") == "127.0.0.1", one.cmdline()
                    owners[each.laddr.port] = title(one)
    answering = Counter(owners[port] for port in strangers.answering(owners))
    more = {name: n for name, n in answering.items() if n > WITHOUT_TOKEN.get(name, 0)}
    assert more == {}


def test_closed_terminal_stops_a_run_on_ray_with_a_checkpoint(started: InTerminal) -> None:
    tree = family(started.process)
    assert len(train_workers(psutil.Process(started.process.pid))) == 2
    close_terminal(started.process, started.terminal)
    assert started.run.facts()["samples"] > INTERVAL
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert alive == []


WITHOUT_TOKEN = {
    "monitor.py": 1,
    "dashboard.py": 1,
    "ray::DashboardAgent": 1,
    # Metrics above; here torch's, by which the workers exchange gradients.
    "ray::RayTrainWorker": 2,
}
"""Largest number of loopback sockets that may answer a call without a token."""


def title(process: psutil.Process) -> str:
    line = process.cmdline()
    found = [Path(word).name for word in line if word.endswith(("monitor.py", "dashboard.py"))]
    return found[0] if found else re.split(r"[:.]*[. ]", line[0])[0]
