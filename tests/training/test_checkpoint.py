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

from aigc import data
from aigc.files import sha256
from aigc.training import checkpoint, run_folder
from aigc.training.loop import TrainState
from aigc.training.quality_log import append_quality
from aigc.training.run import Run
from tests.training.small_runs import (
    begin_run,
    continue_run,
    differing,
    finish,
    small,
    write_checkpoint,
)


def there(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for number, quality in enumerate([9.0, 3.0, 5.0, 6.0, 7.0, 4.0]):
        write_checkpoint(tmp_path, number, keep=2, quality=quality)
    assert there(tmp_path) == [1, 4, 5]
    best = run_folder.best(tmp_path)
    assert best.name == f"{1:012d}"


def test_prune_without_quality_keeps_the_newest(tmp_path: Path) -> None:
    for number in range(5):
        write_checkpoint(tmp_path, number, keep=2)
    assert there(tmp_path) == [3, 4]
    assert run_folder.best(tmp_path) is None


@pytest.mark.parametrize("newest", [float("nan"), float("inf"), -float("inf")])
def test_best_ignores_quality_that_is_not_finite(tmp_path: Path, newest: float) -> None:
    for number, quality in enumerate([9.0, 3.0, 5.0, newest]):
        write_checkpoint(tmp_path, number, keep=1, quality=quality)
    assert there(tmp_path) == [1, 3]
    best = run_folder.best(tmp_path)
    assert int(best.name) == 1


def test_best_ignores_quality_of_an_earlier_state(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoint(folder, 32, quality=9.0, quality_samples=32)
    write_checkpoint(folder, 64, quality=1.0, quality_samples=48)
    best = run_folder.best(folder)
    assert int(best.name) == 32
    append_quality(tmp_path, 64, 2.0)
    best = run_folder.best(folder)
    assert int(best.name) == 64


FOREIGN = ("9", "20", "000000000999", "0000000000032", "notes", "000000000064.mine", ".mine.tmp")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_foreign_folders_are_not_checkpoints(tmp_path: Path, kind: str) -> None:
    config = small("fc_gan:ring", checkpoint_interval=32, samples=96, keep_checkpoints=1)
    run = begin_run(tmp_path / "run", config)
    run.checkpoints.mkdir()
    for name in FOREIGN:
        if kind == "folder":
            (run.checkpoints / name).mkdir()
            (run.checkpoints / name / "thesis.txt").write_text(name)
        else:
            (run.checkpoints / name).write_text(name)
    source = data.load(config.data, config.model)
    continue_run(run, config, source, stop=lambda samples: samples >= 48)
    assert run.facts()["samples"] == 64
    continue_run(run, config, source)
    assert [entry["samples"] for entry in run.starts()] == [0, 64]
    assert run.facts()["samples"] == 96
    assert {path.name for path in run.checkpoints.iterdir()} == {*FOREIGN, f"{96:012d}"}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_save_renames_a_foreign_folder_in_its_place(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"{64:012d}").mkdir() if kind == "folder" else None
    own = tmp_path / f"{64:012d}" / "thesis.txt" if kind == "folder" else tmp_path / f"{64:012d}"
    own.write_text("mine")
    path = write_checkpoint(tmp_path, 64)
    assert run_folder.invalid(path) is None
    aside = tmp_path / f"{64:012d}.foreign"
    assert (aside / "thesis.txt" if kind == "folder" else aside).read_text() == "mine"


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    for samples in (10**12 - 1, 10**12, 10**13):
        write_checkpoint(tmp_path, samples, keep=2)
    assert there(tmp_path) == [10**12, 10**13]
    newest = run_folder.newest(tmp_path)
    assert int(newest.name) == 10**13


def test_load_names_a_damaged_trainer_json(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 64)
    for text in ("", "[]", "{}", '{"samples": 64'):
        (path / run_folder.TRAINER).write_text(text)
        certificate = json.loads((path / run_folder.CERTIFICATE).read_text())
        certificate[run_folder.TRAINER] = sha256(path / run_folder.TRAINER)
        (path / run_folder.CERTIFICATE).write_text(json.dumps(certificate))
        with pytest.raises(ValueError, match=rf"{path}/trainer.json is damaged: .*delete"):
            checkpoint.load(path, TrainState(small("fc_gan:ring")))


def test_tidy_sets_broken_newer_checkpoints_aside(tmp_path: Path) -> None:
    config = small("fc_gan:ring", checkpoint_interval=32, samples=96, keep_checkpoints=1)
    run = begin_run(tmp_path / "run", config)
    dataset = data.load(config.data, config.model)
    continue_run(run, config, dataset)
    file = run.checkpoints / f"{96:012d}" / run_folder.STATE
    file.write_bytes(file.read_bytes()[:-1])
    (run.checkpoints / f".{128:012d}.7.tmp").mkdir()
    asked = iter([False, False, True])
    continue_run(run, config, dataset, stop=lambda samples: next(asked))
    assert run.facts()["samples"] == 48
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == [f"{48:012d}", f"{96:012d}.broken"]


def test_load_refuses_an_altered_part(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 64)
    certificate = json.loads((path / run_folder.CERTIFICATE).read_text())
    assert set(certificate["parts"]) == {"model", "average"}  # no optimizer has taken a step yet
    named = load_file(path / run_folder.STATE)
    named["average/layers.0.bias"][0] += 1
    save_file(named, path / run_folder.STATE)
    certificate[run_folder.STATE] = sha256(path / run_folder.STATE)
    (path / run_folder.CERTIFICATE).write_text(json.dumps(certificate))
    with pytest.raises(ValueError, match="average was altered"):
        checkpoint.load(path, TrainState(small("fc_gan:ring")))


def test_certificates_of_equal_states_are_equal(tmp_path: Path) -> None:
    a, b = write_checkpoint(tmp_path / "a", 64), write_checkpoint(tmp_path / "b", 64)
    assert (a / run_folder.CERTIFICATE).read_text() == (b / run_folder.CERTIFICATE).read_text()
    state = TrainState(small("fc_gan:ring", seed=1))
    other = checkpoint.fingerprints(checkpoint.tensors(state))
    own = json.loads((a / run_folder.CERTIFICATE).read_text())["parts"]
    assert all(own[part] != other[part] for part in own)


def test_snapshot_copies_the_state(tmp_path: Path) -> None:
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
def test_save_leaves_nothing_behind_on_a_full_disk(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("fc_gan:ring", checkpoint_interval=32, samples=160, keep_checkpoints=1)
    dataset = data.load(config.data, config.model)
    whole = begin_run(tmp_path / "whole", config)
    continue_run(whole, config, dataset)
    run = begin_run(small_disk / "run", config)
    ballast: list[Path] = []

    def stop(samples: int) -> bool:
        if samples == 80:
            ballast.append(fill(small_disk))
        if samples == 144:
            ballast[0].unlink()  # in time for the last one
        return False

    assert continue_run(run, config, dataset, stop=stop) == "done"
    assert "was not written (1)" in caplog.text
    assert differing(*[checkpoint.tensors(r.load_state()) for r in (whole, run)]) == []


@pytest.mark.process
def test_training_survives_a_disk_that_is_full_for_a_while(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    intervals = {"report_interval": 16, "grid_interval": 16, "evaluate_interval": 0}
    config = small("dcgan:digits", samples=160, **intervals)
    dataset = data.load(config.data, config.model)
    run = Run(small_disk / "run")
    (tmp_path / "checkpoints").mkdir()
    run.create(config)
    run.checkpoints.symlink_to(tmp_path / "checkpoints")  # there is room for those
    ballast: list[Path] = []

    def stop(samples: int) -> bool:
        if samples == 48:
            ballast.append(fill(small_disk))
        if samples == 112:
            ballast[0].unlink()
        return False

    assert continue_run(run, config, dataset, stop=stop) == "done"
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_bytes().splitlines()]
    samples = [line["samples"] for line in lines]
    assert samples == sorted(samples)
    assert {16, 32, 48, 128, 144, 160} <= set(samples)
    assert caplog.text.count("training goes on without TensorBoard's report") == 1
    assert caplog.text.count("training goes on without the grid of samples") == 1
    grids = {int(path.stem) for path in (run.folder / "grids").glob("*.png")}
    assert {16, 32, 48, 128, 144, 160} == grids
    assert differing(finish(config), checkpoint.tensors(run.load_state())) == []


def test_a_disk_that_stays_full_is_an_error_and_keeps_the_last_checkpoint(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    config = small("fc_gan:ring", checkpoint_interval=32, report_interval=16, samples=96)
    run = begin_run(small_disk / "run", config)

    def stop(samples: int) -> bool:
        if samples == 48:
            fill(small_disk)
        return False

    with pytest.raises(OSError, match=r"cannot write|No space left"):
        continue_run(run, config, stop=stop)
    assert run.facts()["samples"] == 32
    assert not list(run.checkpoints.glob(".*.tmp"))


@pytest.mark.process
def test_kill_9_during_a_save_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from aigc.training import checkpoint
from tests.training.small_runs import write_checkpoint
folder = Path({str(tmp_path)!r})
write_checkpoint(folder, 64)
save = checkpoint.save_file
def die(named, path):
    save(named, path)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = die
write_checkpoint(folder, 128)
"""
    killed = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert killed.returncode == -9
    newest = run_folder.newest(tmp_path)
    assert newest.name == f"{64:012d}"
    assert list(tmp_path.glob(".*.tmp"))
    checkpoint.tidy(tmp_path, 64)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("content", ["null", "[1]", "3", '{"parts": null}', "{"])
def test_a_certificate_without_hashes_is_passed_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_text(content)
    reason = checkpoint.invalid(tmp_path)
    assert reason == "certificate.json holds no hashes" or content == "{"
    assert "object" not in str(reason)
