"""Quality measured beside the run: late, killed, stopped, slow, and never in the way."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from aigc.files import read_lines
from aigc.training import checkpoint, evaluator, run_folder
from aigc.training.evaluator import Evaluator, Measurement, Process
from aigc.training.run import Run
from tests.training.small_runs import differing

pytestmark = pytest.mark.process

ANSWERS = """
import json, os, sys, time
for line in sys.stdin:
    samples = int(line)
    if samples == 2: {second}
    answer = {{"samples": samples, "quality": 1 / samples, "note": "", "metric": ""}}
    print(json.dumps(answer), flush=True)
"""
"""A process that answers at once, but for the second request."""
METRIC = """
import time
from pathlib import Path

import numpy as np

from aigc.metrics import Distance


def distance(real):
    return Distance(judge)


def judge(points):
    while not Path({go!r}).exists():
        time.sleep(0.05)
    return float(np.abs(points).mean())
"""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Evaluator]:
    """An evaluator whose process does `second` when it is sent 2."""

    def made(second: str) -> Evaluator:
        command = [sys.executable, "-c", ANSWERS.format(second=second)]
        monkeypatch.setattr(evaluator, "start", lambda run: Process(command))
        return Evaluator(Path())

    return made


def taken(measuring: Evaluator, requests: range) -> list[Measurement]:
    begun = time.monotonic()
    for samples in requests:
        assert measuring.put(samples) is None
        measuring.take()
    assert time.monotonic() - begun < 5
    found = [*measuring.results(lambda: False)]
    measuring.close()
    return found


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "its process ended with SIGKILL"),
        ("sys.exit(3)", "its process ended with status 3"),
        ("os.kill(os.getpid(), 19)", "it was silent for"),
    ],
)
def test_process_that_dies_or_hangs_costs_one_measurement(
    second: str,
    reason: str,
    answering: Callable[[str], Evaluator],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(evaluator, "SILENCE_S", 1.0)
    measuring = answering(second)
    measuring.put(1)
    first = next(measuring.results(lambda: False))
    found = [first, *taken(measuring, range(2, 5))]
    assert [(each.samples, each.quality) for each in found] == [
        (1, 1.0),
        (2, None),
        (3, 1 / 3),
        (4, 0.25),
    ]
    assert reason in found[1].note
    assert caplog.text.count("training goes on without the measurement of quality: " + reason) == 1


def test_process_that_always_dies_is_given_up(
    answering: Callable[[str], Evaluator], caplog: pytest.LogCaptureFixture
) -> None:
    measuring = answering("pass")
    command = [sys.executable, "-c", "import sys; sys.exit(1)"]
    evaluator.start = lambda run: Process(command)  # undone by the fixture
    found = taken(measuring, range(1, 6))
    assert [each.samples for each in found] == [1, 2, 3, 4, 5]
    assert {each.quality for each in found} == {None}
    assert "3 times in a row" in caplog.text
    late = measuring.put(6)
    assert late is not None
    assert late.quality is None


FORKS = """
import os, sys, time
if os.fork() == 0:
    open({mark!r}, "w").write(str(os.getpid()))
    time.sleep(600)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""
"""A process that dies while another one, which it forked, holds its pipes open."""


def test_process_whose_child_holds_the_pipe_is_ended_with_it(
    answering: Callable[[str], Evaluator], tmp_path: Path
) -> None:
    measuring, mark = answering("pass"), tmp_path / "pid"
    command = [sys.executable, "-c", FORKS.format(mark=str(mark))]
    evaluator.start = lambda run: Process(command)  # undone by the fixture
    (found,) = taken(measuring, range(1, 2))
    assert "its process ended with SIGKILL" in found.note
    child = [psutil.Process(pid) for pid in [int(mark.read_text())] if psutil.pid_exists(pid)]
    assert psutil.wait_procs(child, timeout=20)[1] == []


def test_process_that_does_not_start_costs_the_measurement(
    answering: Callable[[str], Evaluator], caplog: pytest.LogCaptureFixture
) -> None:
    measuring = answering("os.kill(os.getpid(), 9)")
    starts, begin = iter([False, True, False]), evaluator.start

    def start(run: Path) -> Process:
        if next(starts):
            return begin(run)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    evaluator.start = start  # undone by the fixture
    refused = measuring.put(1)
    assert refused is not None
    assert "Resource temporarily unavailable" in refused.note
    measuring.put(2)
    measuring.put(3)
    found = [*measuring.results(lambda: False)]
    assert [(each.samples, each.quality) for each in found] == [(2, None), (3, None)]
    assert "SIGKILL" in found[0].note
    assert "its process does not start" in found[1].note
    assert caplog.text.count("training goes on without the measurement of quality: its") == 1


def test_waits_are_bounded_and_end_when_asked(
    answering: Callable[[str], Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "WAIT_S", 0.5)
    (found,) = taken(answering("time.sleep(60)"), range(2, 3))
    assert found == Measurement(2, None, "it took more than 0 s")
    measuring = answering("time.sleep(60)")
    measuring.put(2)
    assert [*measuring.results(lambda: True)] == []
    assert measuring.pending == 1
    measuring.close()


def test_checkpoints_that_wait_are_bounded(answering: Callable[[str], Evaluator]) -> None:
    measuring = answering("time.sleep(60)")
    for samples in range(2, 2 + evaluator.MAX_PENDING):
        assert measuring.put(samples) is None
    refused = measuring.put(99)
    assert refused is not None
    assert (refused.samples, refused.quality) == (99, None)
    assert "8 checkpoints are waiting already" in refused.note
    measuring.close()


def train(folder: Path, name: str, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "aigc.cli", "train", "fc_gan:ring"]
    command += ["--storage", str(folder), "--name", name, "--threads", "1", "--batch", "16"]
    command += ["--samples", "96", "--checkpoint-interval", "0", "--keep-checkpoints", "1", *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(600)
def test_killed_run_measures_what_was_left_and_trains_the_same(tmp_path: Path) -> None:
    """A judge that is slower than the run; kill -9 of the trainer while it waits; a resume."""
    go, metric = tmp_path / "go", tmp_path / "spread.py"
    metric.write_text(METRIC.format(go=str(go)))
    measured = ("--quality", str(metric), "--evaluate-interval", "32")
    run = Run(tmp_path / "measured")
    with train(tmp_path, "measured", *measured) as process:
        waits = [path.name for path in wait_for(run, 3)]
        assert waits == [f"{samples:012d}" for samples in (32, 64, 96)]
        children = psutil.Process(process.pid).children(recursive=True)
        judges = [child for child in children if "evaluation_process" in str(child.cmdline())]
        assert len(judges) == 1
        process.kill()
    assert psutil.wait_procs(judges, timeout=20)[1] == []
    assert not (run.folder / "quality.jsonl").exists()
    go.touch()
    for name, flags in (("measured", (*measured, "--resume")), ("plain", ())):
        with train(tmp_path, name, *flags) as process:
            said = process.communicate(timeout=200)[1]
            assert process.returncode == 0, said
    lines = read_lines(run.folder / "quality.jsonl")
    assert [line["samples"] for line in lines] == [32, 64, 96]
    best = min(lines, key=lambda line: line["quality"])["samples"]
    assert {int(path.name) for path in run_folder.checkpoint_folders(run.checkpoints)} == {best, 96}
    states = [checkpoint.tensors(each.load_state()) for each in (run, Run(tmp_path / "plain"))]
    assert differing(*states) == []


def wait_for(run: Run, count: int) -> list[Path]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        paths = run_folder.unmeasured(run.checkpoints)
        if len(paths) == count and all(run_folder.invalid(path) is None for path in paths):
            return paths
        time.sleep(0.1)
    raise AssertionError(f"no {count} checkpoints in {run.checkpoints}")


def test_stopped_judge_and_interrupt_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """SIGSTOP of the judge, then Ctrl-C in the wait for it: the run ends and says what it is."""
    metric = tmp_path / "spread.py"
    metric.write_text(METRIC.format(go=str(tmp_path / "never")))
    run = Run(tmp_path / "run")
    with train(tmp_path, "run", "--quality", str(metric), "--evaluate-interval", "96") as process:
        wait_for(run, 1)
        judges: list[psutil.Process] = []
        while not judges and process.poll() is None:
            judges = psutil.Process(process.pid).children()
        judges[0].suspend()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    assert psutil.wait_procs(judges, timeout=20)[1] == []
    assert [path.name for path in run_folder.unmeasured(run.checkpoints)] == [f"{96:012d}"]
