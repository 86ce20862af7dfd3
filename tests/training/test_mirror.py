"""A run and an artifact on S3 are what they are on disk; nothing torn or altered passes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aigc.artifact import Artifact, ArtifactError, Store
from aigc.artifact.manifest import parse, seal
from aigc.config import TrainConfig
from aigc.training import checkpoint, run_folder
from aigc.training.lease import Lease
from aigc.training.object_store import ObjectStore, filesystem, is_remote, local_folder
from aigc.training.run import Run
from tests.fixtures.make import write_run
from tests.ports import free_port
from tests.training.small_runs import continue_run, differing, small

pytestmark = pytest.mark.process

PUSH = """
import os, signal, sys
from pathlib import Path
from aigc.training.object_store import ObjectStore

uri, run, checkpoint = sys.argv[1:]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
ObjectStore(uri, Path(run)).push(Path(checkpoint), check=kill)
"""


@pytest.fixture
def uri(bucket: str) -> str:
    return f"{bucket}/runs/ring"


def ring(samples: int = 96) -> TrainConfig:
    config = small("fc_gan:ring", samples=samples, checkpoint_interval=32)
    return replace(config, report_interval=32)


def begin(folder: Path) -> Run:
    """A run of 96 samples with checkpoints at 32, 64 and 96."""
    return write_run(folder, ring())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def on_store(uri: str, below: str = "") -> list[str]:
    fs, root = filesystem(f"{uri}/{below}" if below else uri)
    return sorted(path.removeprefix(f"{root}/") for path in fs.find(root))


def push_all(mirror: ObjectStore, run: Run) -> None:
    for name in names(run.checkpoints):
        mirror.push(run.checkpoints / name)


def test_resume_on_another_machine_is_bit_equal(uri: str, tmp_path: Path) -> None:
    first = begin(tmp_path / "first")
    push_all(ObjectStore(uri, first.folder), first)
    second = Run(tmp_path / "second")
    newest = ObjectStore(uri, second.folder).pull()
    assert newest == second.checkpoints / f"{96:012d}"
    assert names(second.checkpoints) == names(first.checkpoints)
    for name in ("config.json", "history.jsonl", "metrics.jsonl"):
        assert (second.folder / name).read_bytes() == (first.folder / name).read_bytes()
    assert differing(*(checkpoint.tensors(run.load_state()) for run in (first, second))) == []
    longer = ring(samples=160)
    for run in (first, second):
        continue_run(run, longer)
    assert differing(*(checkpoint.tensors(run.load_state()) for run in (first, second))) == []


def test_kill_before_the_certificate_leaves_no_checkpoint(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(tmp_path / "run")
    older, newest = sorted(run.checkpoints.iterdir())[-2:]
    ObjectStore(uri, run.folder).push(older)
    command = [sys.executable, "-c", PUSH, uri, str(run.folder), str(newest)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert on_store(uri, f"checkpoints/{newest.name}") == ["state.safetensors", "trainer.json"]
    found = ObjectStore(uri, tmp_path / "other").pull()
    assert found.name == older.name
    assert f"{newest.name} is passed over: its upload was not finished" in caplog.text
    ObjectStore(uri, run.folder).push(newest)  # and the next attempt completes it
    again = ObjectStore(uri, tmp_path / "third").pull()
    assert again.name == newest.name


def truncate(uri: str, name: str) -> None:
    fs, root = filesystem(uri)
    path = f"{root}/checkpoints/{name}/state.safetensors"
    fs.pipe_file(path, fs.cat_file(path)[:-1])


def lose(uri: str, name: str) -> None:
    fs, root = filesystem(uri)
    fs.rm_file(f"{root}/checkpoints/{name}/trainer.json")


def garble(uri: str, name: str) -> None:
    fs, root = filesystem(uri)
    fs.pipe_file(f"{root}/checkpoints/{name}/certificate.json", b"{}")


def climb(uri: str, name: str) -> None:
    fs, root = filesystem(uri)
    text = b'{"../../config.json": "0000"}'
    fs.pipe_file(f"{root}/checkpoints/{name}/certificate.json", text)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (truncate, "state.safetensors does not match the certificate"),
        (lose, "trainer.json is missing"),
        (garble, "certificate.json is not a certificate"),
        (climb, "certificate.json is not a certificate"),
    ],
)
def test_pull_falls_back_from_an_altered_checkpoint(
    harm: Callable[[str, str], None],
    reason: str,
    uri: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = begin(tmp_path / "run")
    push_all(ObjectStore(uri, run.folder), run)
    older, newest = names(run.checkpoints)[-2:]
    harm(uri, newest)
    other = Run(tmp_path / "other")
    found = ObjectStore(uri, other.folder).pull()
    assert found == other.checkpoints / older
    assert run_folder.newest(other.checkpoints) == found
    assert newest not in names(other.checkpoints)
    assert f"{newest} is passed over: {reason}" in caplog.text


def test_failed_push_is_an_os_error_and_leaves_nothing_whole(uri: str, tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    newest = sorted(run.checkpoints.iterdir())[-1]
    mirror = ObjectStore(uri, run.folder)
    mirror.push(newest)
    (newest / "trainer.json").rename(newest / "aside")
    (newest / "trainer.json").symlink_to("nowhere")
    with pytest.raises(OSError, match=r"trainer\.json"):
        mirror.push(newest)
    assert "certificate.json" not in on_store(uri, f"checkpoints/{newest.name}")
    assert ObjectStore(uri, tmp_path / "other").pull() is None


def test_store_that_does_not_answer_is_an_os_error(tmp_path: Path, s3: str) -> None:
    script = (
        "import sys; from pathlib import Path; from aigc.training.object_store import ObjectStore\n"
        "mirror = ObjectStore('s3://bucket/run', Path(sys.argv[1]))\n"
        "for call in (mirror.pull, mirror.push_files):\n"
        "    try: call()\n"
        "    except OSError as error: print(error)\n"
    )
    (tmp_path / "config.json").write_text("{}")
    # Port 9 of loopback is nobody's.
    gone = os.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=gone, timeout=120, capture_output=True, text=True)
    assert done.stdout.count("s3://bucket/run does not answer: ") == 2, done.stderr


def test_pull_sets_local_checkpoints_aside(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(tmp_path / "run")
    first, *_, last = names(run.checkpoints)
    mirror = ObjectStore(uri, run.folder)
    with Lease(uri, pytest.fail):
        assert mirror.pull() is None
    assert names(run.checkpoints)[-1] == last  # the store has no run: nothing changes
    mirror.push(run.checkpoints / first)
    lines = (run.folder / "metrics.jsonl").read_bytes()
    (run.folder / "metrics.jsonl").write_bytes(lines + b'{"samples": 128}\n')
    assert ObjectStore(uri, run.folder).pull() == run.checkpoints / first
    assert (run.folder / "metrics.jsonl").read_bytes() == lines
    assert run_folder.newest(run.checkpoints) == run.checkpoints / first
    assert f"{last}.unpublished" in names(run.checkpoints)
    assert f"no checkpoint {last}" in caplog.text


def test_pull_downloads_only_missing_checkpoints(uri: str, tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    push_all(ObjectStore(uri, run.folder), run)
    other = Run(tmp_path / "other")
    found = ObjectStore(uri, other.folder).pull()
    assert found is not None
    state = found / run_folder.STATE
    before = state.stat().st_ino
    assert ObjectStore(uri, other.folder).pull() == found
    assert state.stat().st_ino == before
    state.write_bytes(b"altered here")
    assert ObjectStore(uri, other.folder).pull() == found
    assert run_folder.invalid(found) is None


def test_prune_keeps_the_named_checkpoints_and_the_files(uri: str, tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    mirror = ObjectStore(uri, run.folder)
    push_all(mirror, run)
    last = names(run.checkpoints)[-1]
    before = on_store(uri)
    mirror.prune([last])
    kept = [n for n in before if not n.startswith("checkpoints/") or last in n]
    assert on_store(uri) == kept
    assert len(kept) < len(before)


def test_publish_deletes_only_pruned_checkpoints(uri: str, tmp_path: Path) -> None:
    first = begin(tmp_path / "first")
    push_all(ObjectStore(uri, first.folder), first)
    there = on_store(uri, "checkpoints")
    other = Run(tmp_path / "other")
    mirror = ObjectStore(uri, other.folder)
    newest = mirror.pull()
    assert newest is not None
    mirror.publish(newest)
    assert on_store(uri, "checkpoints") == there
    oldest = min(other.checkpoints.iterdir())
    shutil.rmtree(oldest)
    mirror.publish(newest)
    left = [name for name in there if not name.startswith(oldest.name)]
    assert on_store(uri, "checkpoints") == left


def test_push_files_uploads_changed_files_of_the_run_only(uri: str, tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    (run.folder / "grids").mkdir()
    for name in (".lock", "lease.json", "ray/state", "grids/000000000032.png", "grids/.half.tmp"):
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text("x")
    mirror = ObjectStore(uri, run.folder)
    mirror.push_files()
    events = next(run.folder.glob("events.*")).name
    expected = ["config.json", "data.json", events, "history.jsonl", "metrics.jsonl"]
    assert on_store(uri) == sorted([*expected, "grids/000000000032.png"])
    fs, root = filesystem(uri)
    fs.pipe_file(f"{root}/config.json", b"as it was")
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write("more\n")
    mirror.push_files()
    assert fs.cat_file(f"{root}/metrics.jsonl").endswith(b"more\n")
    assert fs.cat_file(f"{root}/config.json") == b"as it was"


def test_stores_that_cannot_hold_runs_are_refused(s3: str, tmp_path: Path) -> None:
    assert not is_remote("runs")
    assert not is_remote(tmp_path)
    assert is_remote("s3://bucket/runs")
    for uri in ("memory://runs", "gs://bucket/runs", "file:///runs"):
        with pytest.raises(ValueError, match=r"a folder or s3://BUCKET/PREFIX, got"):
            is_remote(uri)
    for uri in ("runs", "s3://", "s3:///"):
        with pytest.raises(ValueError, match=r"must be s3://BUCKET/PREFIX, got"):
            ObjectStore(uri, tmp_path)
    with pytest.raises(ValueError, match="no bucket 'absent'; create it first"):
        ObjectStore("s3://absent/run", tmp_path).pull()


def test_local_folder_is_unique_per_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = local_folder("s3://bucket/runs/ring")
    assert folder == local_folder("s3://bucket/runs/ring/")
    assert folder != local_folder("s3://other/runs/ring")
    assert folder != local_folder("s3://bucket/runs/ring", "looks")
    assert folder.name == "ring"
    assert folder.is_relative_to(tmp_path / "aigc" / "runs")


def test_an_artifact_on_s3_is_the_artifact(bucket: str, sealed: Path, tmp_path: Path) -> None:
    store = Store(f"{bucket}/artifacts")
    uri = store.publish(sealed)
    assert uri == f"{bucket}/artifacts/tiny/1"
    for where in (uri, f"{bucket}/artifacts/tiny", f"{bucket}/artifacts/tiny@1"):
        assert Artifact.open(where).manifest == Artifact.open(sealed).manifest
    before = on_store(f"{bucket}/artifacts")
    other = tmp_path / "other"
    shutil.copytree(sealed, other)
    (other / "note.txt").write_text("another tiny@1")
    seal(other, parse((other / "manifest.json").read_bytes()))
    with pytest.raises(ArtifactError, match=r"tiny@1 exists already.*versions never change"):
        Store(f"{bucket}/artifacts").publish(other)
    assert on_store(f"{bucket}/artifacts") == before
    assert Artifact.open(uri).manifest.digest == Artifact.open(sealed).manifest.digest


def test_samples_of_an_artifact_on_s3_are_those_of_the_one_on_disk(
    bucket: str, sealed: Path, tmp_path: Path
) -> None:
    uri = Store(f"{bucket}/artifacts").publish(sealed)
    written = []
    for source, out in ((uri, tmp_path / "s3"), (str(sealed), tmp_path / "disk")):
        flags = ["-n", "3", "--seed", "7", "--label", "3", "--out", str(out)]
        command = [sys.executable, "-m", "aigc.cli", "sample", source, *flags]
        subprocess.run(command, check=True, timeout=120, capture_output=True)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(written[0]) == 4
    assert written[0] == written[1]


def test_serving_prepares_an_artifact_on_s3(bucket: str, sealed: Path) -> None:
    pytest.importorskip("ray")
    from serve.cli import prepare
    from serve.options import ServeConfig

    uri = Store(f"{bucket}/artifacts").publish(sealed)
    config = ServeConfig(artifacts=(f"{bucket}/artifacts/tiny",), port=free_port(), metrics_port=0)
    settings, manifests = prepare(config)
    assert settings.artifacts == (uri,)
    assert [manifest.id for manifest in manifests] == ["tiny@1"]
    with pytest.raises(ArtifactError, match="no artifact 'absent'"):
        prepare(replace(config, artifacts=(f"{bucket}/artifacts/absent",)))
