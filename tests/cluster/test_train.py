"""Training on real Ray: equal to one process, unharmed by kill -9 and Ctrl-C, clean at its end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from aigc import checkpoint
from aigc.run import Run

pytestmark = pytest.mark.cluster

TOTAL, INTERVAL = 6400, 1600
DIGITS = [
    *("dcgan:digits", "--workers", "2", "--samples", str(TOTAL), "--threads", "1"),
    *("--checkpoint-interval", str(INTERVAL), "--report-interval", "320"),
    *("--grid-interval", "0"),
]


def start(storage: Path, name: str, *flags: str) -> "subprocess.Popen[str]":
    """`aigc train` as a user starts it."""
    command = [sys.executable, "-m", "aigc.cli", "train", *flags]
    return subprocess.Popen(
        [*command, "--storage", str(storage), "--name", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", status: int = 0) -> tuple[str, str]:
    """Wait for its end; returns stdout and stderr."""
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == status, stderr
    return stdout, stderr


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Every process that a run started."""
    return psutil.Process(process.pid).children(recursive=True)


def wait_until_beyond(run: Run, samples: int, process: "subprocess.Popen[str]") -> None:
    """Wait for a report beyond `samples`."""
    path, deadline = run.folder / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and lines[-1].endswith("}") and json.loads(lines[-1])["samples"] > samples:
            return
        time.sleep(0.02)
    raise AssertionError(f"the run never came beyond {samples} samples")


def state(run: Run) -> dict[str, Tensor]:
    return checkpoint.tensors(run.trained())


def assert_bit_equal(a: Run, b: Run) -> None:
    one, other = state(a), state(b)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert a.facts()["samples"] == TOTAL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    storage = tmp_path_factory.mktemp("undisturbed")
    process = start(storage, "run", *DIGITS)
    stdout, stderr = finish(process)
    run = Run(storage / "run")
    assert Path(stdout.splitlines()[-1]).resolve() == run.folder.resolve()
    assert f"{TOTAL:,} of {TOTAL:,} samples" in stderr
    assert [start["samples"] for start in run.starts()] == [0]
    assert run.facts()["workers"] == 2
    return run


def test_a_worker_killed_between_checkpoints_changes_nothing(
    undisturbed: Run, tmp_path: Path
) -> None:
    process = start(tmp_path, "run", *DIGITS)
    run = Run(tmp_path / "run")
    wait_until_beyond(run, INTERVAL + INTERVAL // 3, process)
    workers = [p for p in family(process) if "TrainWorker" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    _, stderr = finish(process)
    starts = [start["samples"] for start in run.starts()]
    assert len(starts) == 2
    assert 0 < starts[1] < TOTAL
    assert "workers restarted from" in stderr
    assert_bit_equal(undisturbed, run)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    samples = [json.loads(line)["samples"] for line in lines]
    assert samples == list(range(320, TOTAL + 1, 320))  # none lost, none twice


def test_ctrl_c_stops_with_a_checkpoint_and_leaves_no_process(
    undisturbed: Run, tmp_path: Path
) -> None:
    process = start(tmp_path, "run", *DIGITS)
    run = Run(tmp_path / "run")
    wait_until_beyond(run, 640, process)
    started = family(process)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = finish(process)
    stopped = run.facts()["samples"]
    assert 640 < stopped < TOTAL
    assert stopped % INTERVAL  # between two checkpoints
    assert f"stopped after {stopped:,} samples; continue with --resume" in stderr
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    finish(start(tmp_path, "run", *DIGITS, "--resume"))
    assert [start["samples"] for start in run.starts()] == [0, stopped]
    assert_bit_equal(undisturbed, run)


def test_two_workers_are_one_up_to_rounding_in_float64(tmp_path: Path) -> None:
    flags = ["fc_gan:mlp", "--precision", "float64", "--batch", "16", "--samples", "400"]
    flags += ["--threads", "1", "--report-interval", "16", "--grid-interval", "0"]
    one, two = (start(tmp_path, f"on{n}", *flags, "--workers", n) for n in ("0", "2"))
    finish(one)
    finish(two)
    a, b = state(Run(tmp_path / "on0")), state(Run(tmp_path / "on2"))
    assert a["model/generator.layers.0.weight"].dtype == torch.float64
    worst = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    assert 0 < worst < 1e-9  # 25 batches; not 0: the sums are added in another order


def test_a_loss_that_is_not_finite_ends_the_run_without_a_retry(tmp_path: Path) -> None:
    rates = [f"--model.{side}-optimizer.learning-rate" for side in ("generator", "discriminator")]
    flags = ["fc_gan:ring", "--workers", "2", "--model.objective", "least_squares"]
    flags += [flag for rate in rates for flag in (rate, "1000")]
    process = start(tmp_path, "run", *flags, "--checkpoint-interval", "64", "--samples", "6400")
    _, stderr = finish(process, status=1)
    assert "loss of phase 'discriminator' is not finite after 64 samples" in stderr
    assert "Traceback" not in stderr
    run = Run(tmp_path / "run")
    assert len(run.starts()) == 1
    assert run.facts()["samples"] == 64


def test_an_existing_run_is_refused_without_resume(undisturbed: Run) -> None:
    storage = undisturbed.folder.parent
    _, stderr = finish(start(storage, "run", *DIGITS), status=1)
    assert "exists; continue it with --resume or give another --name" in stderr
    _, stderr = finish(start(storage, "run", *DIGITS, "--resume", "--batch", "32"), status=1)
    assert "cannot resume with another batch: 64 -> 32" in stderr
