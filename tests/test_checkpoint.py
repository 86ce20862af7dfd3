"""Checkpoints: whole or not there, kept by rule, written beside training, proof against damage."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc import checkpoint, data
from aigc.run import Run, work
from aigc.train import Alone, TrainState
from tests.test_train import differing, small


def write(folder: Path, samples: int, keep: int = 3, **facts: Any) -> Path:
    """A checkpoint of an untrained tiny model."""
    state = TrainState(small("fc_gan:ring"))
    state.samples = samples
    return checkpoint.save(folder, checkpoint.snapshot(state, facts), keep)


def there(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_the_last_few_and_the_best_stay(tmp_path: Path) -> None:
    for number, quality in enumerate([9.0, 3.0, 5.0, 6.0, 7.0, 4.0]):
        write(tmp_path, number, keep=2, quality=quality)
    assert there(tmp_path) == [1, 4, 5]
    best = checkpoint.best(tmp_path)
    assert best is not None
    assert best.name == f"{1:012d}"


def test_nothing_but_the_last_few_stay_without_quality(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path, number, keep=2)
    assert there(tmp_path) == [3, 4]
    assert checkpoint.best(tmp_path) is None


def test_a_checkpoint_after_broken_newer_ones_survives(tmp_path: Path) -> None:
    config = small("fc_gan:ring", checkpoint_interval=32, samples=96, keep_checkpoints=1)
    run = Run(tmp_path / "run")
    run.create(config)
    dataset = data.load(config.data, config.model)
    work(run, config, dataset, Alone())
    file = run.checkpoints / f"{96:012d}" / checkpoint.STATE
    file.write_bytes(file.read_bytes()[:-1])
    (run.checkpoints / f".{128:012d}.7.tmp").mkdir()
    asked = iter([False, False, True])
    work(run, config, dataset, Alone(), stop=lambda samples: next(asked))
    assert run.facts()["samples"] == 48
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == [f"{48:012d}", f"{96:012d}.broken"]


def test_the_certificate_covers_every_part(tmp_path: Path) -> None:
    path = write(tmp_path, 64)
    certificate = json.loads((path / checkpoint.CERTIFICATE).read_text())
    assert set(certificate["parts"]) == {"model", "average"}  # no optimizer has taken a step yet
    named = load_file(path / checkpoint.STATE)
    named["average/layers.0.bias"][0] += 1
    save_file(named, path / checkpoint.STATE)
    certificate[checkpoint.STATE] = checkpoint.sha256(path / checkpoint.STATE)
    (path / checkpoint.CERTIFICATE).write_text(json.dumps(certificate))
    with pytest.raises(ValueError, match="average was altered"):
        checkpoint.load(path, TrainState(small("fc_gan:ring")))


def test_equal_states_have_equal_certificates(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 64), write(tmp_path / "b", 64)
    assert (a / checkpoint.CERTIFICATE).read_text() == (b / checkpoint.CERTIFICATE).read_text()
    state = TrainState(small("fc_gan:ring", seed=1))
    other = checkpoint.fingerprints(checkpoint.tensors(state))
    own = json.loads((a / checkpoint.CERTIFICATE).read_text())["parts"]
    assert all(own[part] != other[part] for part in own)


def test_a_snapshot_is_of_its_moment(tmp_path: Path) -> None:
    state = TrainState(small("dcgan:digits"))
    taken = checkpoint.snapshot(state, {})
    before = {name: value.clone() for name, value in checkpoint.tensors(state).items()}
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter += 1
    assert differing(before, taken.tensors) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command).returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take what is left of a disk."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass
    return path


@pytest.mark.process
def test_a_full_disk_in_the_middle_of_a_checkpoint_costs_nothing(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("fc_gan:ring", checkpoint_interval=32, samples=160, keep_checkpoints=1)
    dataset = data.load(config.data, config.model)
    whole = Run(tmp_path / "whole")
    whole.create(config)
    work(whole, config, dataset, Alone())
    run = Run(small_disk / "run")
    run.create(config)
    ballast: list[Path] = []

    def stop(samples: int) -> bool:
        if samples == 80:
            ballast.append(fill(small_disk))
        if samples == 144:
            ballast[0].unlink()  # in time for the last one
        return False

    assert work(run, config, dataset, Alone(), stop=stop) == "done"
    assert "was not written (1)" in caplog.text
    assert differing(*[checkpoint.tensors(r.trained()) for r in (whole, run)]) == []


# TensorBoard's own thread ends with what it met; the next report begins a new file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_stays_full_is_said_and_the_last_good_checkpoint_stays(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    config = small("fc_gan:ring", checkpoint_interval=32, report_interval=16, samples=96)
    run = Run(small_disk / "run")
    run.create(config)

    def stop(samples: int) -> bool:
        if samples == 48:
            fill(small_disk)
        return False

    with pytest.raises(OSError, match=r"cannot write|No space left"):
        work(run, config, data.load(config.data, config.model), Alone(), stop=stop)
    assert run.facts()["samples"] == 32
    assert not list(run.checkpoints.glob(".*.tmp"))


@pytest.mark.process
def test_kill_9_in_the_middle_of_a_write_leaves_the_one_before(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from aigc import checkpoint
from tests.test_checkpoint import write
folder = Path({str(tmp_path)!r})
write(folder, 64)
real = checkpoint._write_state
def die(path, named):
    real(path, named)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint._write_state = die
write(folder, 128)
"""
    killed = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert killed.returncode == -9
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.name == f"{64:012d}"
    assert list(tmp_path.glob(".*.tmp"))
    checkpoint.tidy(tmp_path, 64)
    assert not list(tmp_path.glob(".*.tmp"))
