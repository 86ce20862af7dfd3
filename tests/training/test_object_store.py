"""Runs and artifacts on a real S3 server: mirrored whole, resumed from, never half there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aigc import data
from aigc.artifact import Artifact, ArtifactError, Store
from aigc.commands.export import export
from aigc.training import checkpoint, run_folder
from aigc.training.loop import TrainState
from aigc.training.object_store import ObjectStore, is_remote
from aigc.training.run import Run, load_initial_weights, train_run
from aigc.training.run_context import RunContext
from cluster.train import command as train_command
from tests.training.small_runs import differing, small

pytestmark = pytest.mark.process


def trained(folder: Path, uri: str, samples: int = 96) -> ObjectStore:
    """A run with checkpoints at 32, 64 and 96, mirrored as it trains."""
    config = small("fc_gan:ring", checkpoint_interval=32, report_interval=16, samples=samples)
    run, mirror = Run(folder), ObjectStore(uri, folder)
    mirror.pull()
    run.create(config)
    dataset = data.load(config.data, config.model)
    assert train_run(RunContext(store=mirror), config, dataset) == "done"
    return mirror


def names(bucket: str, name: str) -> list[str]:
    mirror = ObjectStore(f"{bucket}/{name}", Path("unused"))
    found = mirror.filesystem.ls(f"{mirror.root}/checkpoints", detail=False)
    return sorted((path.rpartition("/")[2] for path in found), reverse=True)


def test_run_resumes_from_its_store(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/whole"
    trained(tmp_path / "a", uri)
    assert names(bucket, "whole") == [f"{n:012d}" for n in (96, 64, 32)]
    trained(tmp_path / "b", uri, samples=192)  # on another machine
    trained(tmp_path / "c", f"{bucket}/undisturbed", samples=192)
    b, c = Run(tmp_path / "b"), Run(tmp_path / "c")
    assert [start["samples"] for start in b.starts()] == [0, 96]
    states = [checkpoint.tensors(run.load_state()) for run in (b, c)]
    assert differing(*states) == []
    lines = [
        [(r["samples"], r["values"]) for r in map(json.loads, path.read_text().splitlines())]
        for path in (b.folder / "metrics.jsonl", c.folder / "metrics.jsonl")
    ]
    assert lines[0] == lines[1]
    assert names(bucket, "whole") == [f"{n:012d}" for n in (192, 160, 128)]  # pruned there too


def test_pull_passes_over_torn_and_altered_checkpoints(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"{bucket}/torn"
    mirror = trained(tmp_path / "a", uri)
    root = f"{mirror.root}/checkpoints"
    mirror.filesystem.rm_file(f"{root}/{96:012d}/{run_folder.CERTIFICATE}")
    state = mirror.filesystem.cat_file(f"{root}/{64:012d}/{run_folder.STATE}")
    mirror.filesystem.pipe_file(f"{root}/{64:012d}/{run_folder.STATE}", state[:-1])
    ObjectStore(uri, tmp_path / "b").pull()
    assert Run(tmp_path / "b").facts()["samples"] == 32
    assert "its upload was not finished" in caplog.text
    assert "state.safetensors does not match the certificate" in caplog.text


def test_publishing_to_a_missing_bucket_is_retried(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    trained(tmp_path / "a", f"{bucket}/gone")
    newest = run_folder.newest(tmp_path / "a" / "checkpoints")
    assert newest is not None
    lost = ObjectStore("s3://no-such-bucket/run", tmp_path / "a")
    with pytest.raises(OSError, match="bucket"):
        lost.push(newest)
    config = small("fc_gan:ring", checkpoint_interval=32, samples=128)
    with pytest.raises(OSError, match="bucket"):
        train_run(RunContext(store=lost), config, data.load(config.data, config.model))
    assert "was not written (4)" in caplog.text
    assert Run(tmp_path / "a").facts()["samples"] == 128  # whole on the local disk
    assert names(bucket, "gone")[0] == f"{96:012d}"


def test_artifacts_are_published_opened_and_served_from_a_store(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.cli import prepare
    from serve.options import ServeConfig

    trained(tmp_path / "a", f"{bucket}/art")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = Run.open(f"{bucket}/art")
    assert run.folder.is_relative_to(tmp_path / "cache")
    uri = export(run, name="ring", store=Store(f"{bucket}/store"))
    fresh = TrainState(run.config())
    load_initial_weights(fresh, f"{bucket}/art")
    assert fresh.ema.state_dict().keys() == run.load_state().ema.state_dict().keys()
    local = export(run, name="ring", store=Store(tmp_path / "store"))
    remote = Artifact.open(f"{bucket}/store/ring@1")
    expected = Artifact.open(local).sample(seed=3, n=5)["vector"]
    assert (remote.sample(seed=3, n=5)["vector"] == expected).all()
    with pytest.raises(ArtifactError, match="ring@1 exists already"):
        export(run, name="ring", version="1", store=Store(f"{bucket}/store"))
    settings, _ = prepare(ServeConfig(artifacts=(f"{bucket}/store/ring",), port=1, metrics_port=0))
    assert settings.artifacts == (uri,)


@pytest.mark.cluster
def test_train_command_resumes_on_a_store(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = ["train", "fc_gan:ring", "--name", "run", "--storage", f"{bucket}/command"]
    flags += ["--threads", "1", "--checkpoint-interval", "640", "--report-interval", "640"]

    def train(*more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "aigc.cli", *flags, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=200)

    first = train("--samples", "1280", "--workers", "2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == f"{bucket}/command/run"
    with pytest.raises(ValueError, match="exists; continue it with --resume"):
        train_command([*flags[1:], "--samples", "1280"])
    shutil.rmtree(tmp_path / "aigc" / "runs")  # another machine
    second = train("--samples", "2560", "--workers", "1", "--resume")
    assert second.returncode == 0, second.stderr
    # A warning of the worker, passed on by the driver.
    assert "no longer bit-exact: {'workers': (2, 1)}" in second.stderr
    ObjectStore(f"{bucket}/command/run", tmp_path / "look").pull()
    look = Run(tmp_path / "look")
    assert look.facts()["samples"] == 2560
    # Uploaded after the last checkpoint, which is written before its line.
    last = (tmp_path / "look" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["samples"] == 2560
    assert [start["samples"] for start in look.starts()] == [0, 1280]
    lease = ObjectStore(f"{bucket}/command/run", tmp_path).filesystem
    assert json.loads(lease.cat_file(f"{bucket}/command/run/lease.json"))["released"]


def test_is_remote_knows_s3_only() -> None:
    assert is_remote("s3://bucket/runs")
    assert not is_remote("runs")
    for uri in ("memory://runs", "file:///runs"):
        with pytest.raises(ValueError, match="a folder or s3://"):
            is_remote(uri)
