"""`aigc train` as a user starts it, its processes, and what it left behind."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor

from aigc.training import checkpoint
from aigc.training.run import Run

TOTAL, INTERVAL, REPORT = 5120, 640, 64
"""Long enough that a run is still under way when it stops, a second or two after it was told to."""
DIGITS = [
    *("dcgan:digits", "--workers", "2", "--samples", str(TOTAL), "--threads", "1"),
    *("--checkpoint-interval", str(INTERVAL), "--report-interval", str(REPORT)),
    *("--grid-interval", "0"),
]

IMPATIENT = (
    "import sys; from aigc import cli; from cluster import trainer;"
    "trainer.SILENCE_S = 8.0; sys.exit(cli.main())"
)
"""`aigc` that says sooner that no worker is running."""


def start(
    storage: Path, name: str, *flags: str, program: tuple[str, ...] = ("-m", "aigc.cli")
) -> "subprocess.Popen[str]":
    """`aigc train` as a user starts it."""
    command = [sys.executable, *program, "train", *flags]
    return subprocess.Popen(
        [*command, "--storage", str(storage), "--name", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_in_terminal(storage: Path, name: str, *flags: str) -> tuple["subprocess.Popen[str]", int]:
    """`aigc train` in a terminal of its own; closing the descriptor closes the terminal."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "aigc.cli", "train", *flags]
    process = subprocess.Popen(
        [*command, "--storage", str(storage), "--name", name],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        text=True,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    return process, ours


def close_terminal(process: "subprocess.Popen[str]", terminal: int) -> None:
    """Close the terminal of a run, and wait until the run has stopped."""
    os.close(terminal)
    process.send_signal(signal.SIGHUP)  # as its shell does
    assert process.wait(60) == 0


def finish(process: "subprocess.Popen[str]", status: int = 0) -> tuple[str, str]:
    """Wait for its end; returns stdout and stderr."""
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == status, stderr
    return stdout, stderr


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Every process that a run started."""
    return psutil.Process(process.pid).children(recursive=True)


def train_workers(of: psutil.Process) -> list[psutil.Process]:
    """Ray Train's workers among the descendants of a process; none once it has ended."""
    try:
        children = of.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in children:
        with suppress(psutil.Error):  # Ray ends idle workers as it likes
            if "TrainWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def wait_until_beyond(run: Run, samples: int, process: "subprocess.Popen[str]") -> None:
    """Wait for a report beyond `samples`."""
    wait_for(lambda: reported(run) > samples, process, f"a report beyond {samples} samples")


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[str]", name: str) -> None:
    """Wait until something is so, as long as the run lives."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if what():
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the run never came to {name}: {process.communicate()[1]}")


def reported(run: Run) -> int:
    """Samples of the last whole report; 0 before the first."""
    path = run.folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return int(json.loads(whole[-1])["samples"]) if whole else 0


def state(run: Run) -> dict[str, Tensor]:
    """Every tensor of its newest checkpoint."""
    return checkpoint.tensors(run.load_state())


def assert_bit_equal(a: Run, b: Run) -> None:
    """Both have trained to the end and hold the same state."""
    one, other = state(a), state(b)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert a.facts()["samples"] == b.facts()["samples"] == TOTAL


def assert_restarted(run: Run) -> None:
    """At least once, from a checkpoint in the middle, and it says what was lost."""
    starts = run.starts()
    assert len(starts) > 1
    for start in starts[1:]:
        assert 0 < start["samples"] < TOTAL
        assert 0 <= start["work_lost_samples"] <= INTERVAL
