"""`aigc train` without Ray: what it refuses, what that leaves, and how signals end a run."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aigc import data
from aigc.training.lease import Lease
from aigc.training.run import Run
from cluster import train
from tests.cluster.runs import (
    close_terminal,
    finish,
    reported,
    start,
    start_in_terminal,
    wait_until_beyond,
)

pytestmark = pytest.mark.process

TINY = ("--samples", "64", "--threads", "1", "--report-interval", "0", "--grid-interval", "0")


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, home beside it."""
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--name", ""], "--name must be the name of a folder in --storage, 1 to 64 of a-z"),
        (["--name", "a/b"], "got 'a/b'; a run elsewhere wants another --storage"),
        (["--name", "../outside"], "got '../outside'"),
        (["--name", ".."], "got '..'"),
        (["--name", "a\\b"], "--name must be the name of a folder"),
        (["--name", "Run One"], "--name must be 1 to 64 of a-z 0-9 . _ - and start with"),
        (["--name", "-"], "--name must be 1 to 64"),
        (["--name", "x" * 65], "--name must be 1 to 64"),
        (["--preset", "dcgan:digits"], "run `aigc train dcgan:digits` for the other preset"),
        (["--preset", "fc_gan:mlp"], "contradicts fc_gan:ring"),
        (["--data.path", "photos"], "there is nothing at 'photos'"),
        (
            ["--data.source", "ring", "--data.path", "photos"],
            "data source ring reads no files; say what reads it",
        ),
        (["--data.source", "folder", "--data.path", "absent"], "absent"),
        (["--init-from", "absent"], "absent"),
        (["--init-from", "~nobody-of-that-name/run"], "no such home folder"),
    ],
)
def test_refused_start_leaves_nothing(flags: list[str], said: str, here: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        train.command(["fc_gan:ring", *TINY, "--storage", "deep/runs", *flags])
    assert everything(here.parent) == ["here", "home"]


def test_refused_start_on_a_store_leaves_nothing_local(
    bucket: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    flags = ["--storage", f"{bucket}/runs", "--data.source", "idx", "--data.path", "absent"]
    with pytest.raises(ValueError, match="absent"):
        train.command(["fc_gan:ring", *TINY, *flags])
    assert everything(here) == []
    assert train.command(["fc_gan:ring", *TINY, "--storage", f"{bucket}/runs"]) == 0


def test_refused_start_keeps_the_other_driver_s_lease(here: Path) -> None:
    folder = here / "runs" / "fc_gan-ring"
    folder.mkdir(parents=True)
    with Lease(folder, lost=lambda reason: None):
        held = (folder / "lease.json").read_bytes()
        with pytest.raises(ValueError, match="is being trained by process"):
            train.command(["fc_gan:ring", *TINY])
        assert (folder / "lease.json").read_bytes() == held


def test_refused_start_keeps_existing_folders(here: Path) -> None:
    folder = here / "runs" / "fc_gan-ring"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="absent"):
        train.command(["fc_gan:ring", *TINY, "--data.source", "idx", "--data.path", "absent"])
    assert everything(here) == ["runs", "runs/fc_gan-ring", "runs/fc_gan-ring/notes.txt"]


def test_train_expands_home_folders(here: Path) -> None:
    assert train.command(["fc_gan:ring", *TINY, "--storage=~/runs"]) == 0
    home = here.parent / "home"
    assert Run(home / "runs" / "fc_gan-ring").facts()["samples"] == 64
    assert everything(here) == []
    flags = [*TINY, "--storage=~/runs", "--name", "b", "--init-from=~/runs/fc_gan-ring"]
    assert train.command(["fc_gan:ring", *flags]) == 0
    assert Run(home / "runs" / "b").config().init_from == str(home / "runs" / "fc_gan-ring")


def test_runs_with_old_names_resume(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.command(["fc_gan:ring", *TINY]) == 0
    (here / "runs" / "fc_gan-ring").rename(here / "runs" / "My Run")
    flags = ["fc_gan:ring", *TINY, "--name", "My Run", "--samples", "128"]
    with pytest.raises(ValueError, match="My Run exists; continue it with --resume"):
        train.command(flags)
    assert train.command([*flags, "--resume"]) == 0
    assert Run(here / "runs" / "My Run").facts()["samples"] == 128


def test_train_command_reads_data_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, loaded = data.whole, []

    def whole(source: data.Source, *rest: object) -> data.Dataset:
        loaded.append(source)
        return real(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "whole", whole)
    assert train.command(["fc_gan:ring", *TINY]) == 0
    assert len(loaded) == 1


def test_existing_run_needs_resume_and_its_batch(here: Path) -> None:
    flags = ["fc_gan:ring", *TINY]
    assert train.command(flags) == 0
    with pytest.raises(ValueError, match="exists; continue it with --resume or give another --nam"):
        train.command(flags)
    with pytest.raises(ValueError, match="cannot resume with another batch: 64 -> 32"):
        train.command([*flags, "--resume", "--batch", "32"])


def test_finished_run_is_resumed_without_ray(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["fc_gan:ring", *TINY]
    assert train.command(flags) == 0
    run = Run(here / "runs" / "fc_gan-ring")
    before = run.history()
    assert train.command([*flags, "--resume", "--workers", "2", "--address", "nowhere:1"]) == 0
    stdout, stderr = capsys.readouterr()
    assert "all 64 samples are trained on; --samples adds more" in stderr
    assert stdout.splitlines()[-1] == "runs/fc_gan-ring"
    assert run.history() == before


def test_interrupt_stops_with_a_checkpoint_without_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge of digits is not in the cache: a measurement would take long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = ("dcgan:digits", "--samples", "1000000", "--evaluate-interval", "900000")
    process = start(tmp_path, "run", *flags, "--report-interval", "64", "--threads", "1")
    run = Run(tmp_path / "run")
    wait_until_beyond(run, 64, process)
    process.send_signal(signal.SIGINT)  # SIGTERM has the same handler, and is in test_faults.py
    _, stderr = finish(process)
    samples = run.facts()["samples"]
    assert f"stopped after {samples:,} samples; continue with --resume" in stderr
    assert not (run.folder / "quality.jsonl").exists()
    assert reported(run) == samples


def test_closed_terminal_stops_with_a_checkpoint(tmp_path: Path) -> None:
    flags = ("dcgan:digits", "--samples", "1000000", "--report-interval", "64", "--threads", "1")
    process, terminal = start_in_terminal(tmp_path, "run", *flags)
    run = Run(tmp_path / "run")
    wait_until_beyond(run, 64, process)
    close_terminal(process, terminal)
    assert run.facts()["samples"] > 64


def test_nohup_ignores_the_end_of_the_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aigc.cli", "train", "fc_gan:ring", *TINY]
    command += ["--samples", "64000", "--report-interval", "64"]
    process = subprocess.Popen(
        ["nohup", *command, "--storage", str(tmp_path), "--name", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Run(tmp_path / "run")
    wait_until_beyond(run, 64, process)
    os.kill(process.pid, signal.SIGHUP)
    finish(process)
    assert run.facts()["samples"] == 64000
