"""`aigc runs`: states of real runs, told without torch; prune leaves what a resume needs."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from aigc import data, models
from aigc.commands import runs
from aigc.files import replacing
from aigc.training import checkpoint, run_folder
from aigc.training.lease import Lease
from aigc.training.loop import TrainState
from aigc.training.object_store import ObjectStore
from aigc.training.run import Run
from tests.training.small_runs import begin_run, continue_run

CONFIG = replace(
    models.preset("fc_gan:ring"),
    samples=1280,
    report_interval=320,
    checkpoint_interval=320,
    grid_interval=0,
    keep_checkpoints=99,
    price_per_worker_hour=7.0,
)


def train(folder: Path, stop_at: int = CONFIG.samples) -> Run:
    """A real run, to its end or stopped at a sample."""
    run = begin_run(folder, CONFIG)
    source = data.load(CONFIG.data, CONFIG.model)
    continue_run(run, CONFIG, source, stop=lambda samples: samples >= stop_at - CONFIG.batch)
    return run


def rated(folder: Path, qualities: dict[int, float]) -> None:
    """Whole checkpoints of these samples and qualities."""
    state = TrainState(CONFIG)
    for samples, quality in qualities.items():
        state.samples = samples
        checkpoint.save(folder, checkpoint.snapshot(state, {"quality": quality}), keep=99)


def names(run: Run) -> list[str]:
    return sorted(path.name.lstrip("0") for path in run.checkpoints.iterdir())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in each state, the folders in no order of age; and what is no run."""
    folder = tmp_path_factory.mktemp("storage")
    train(folder / "done")
    train(folder / "stopped", 704)
    killed = train(folder / "killed", 1088)
    for path in killed.checkpoints.iterdir():  # as if it had been killed before its checkpoint
        if int(path.name) > 960:
            path.rename(path.with_name(f"{path.name}.broken"))
    begin_run(folder / "begun", CONFIG)
    (folder / "notes").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"not": "ours"}')
    for age, run in enumerate(("begun", "stopped", "done", "killed")):
        for path in (folder / run, *(folder / run).iterdir()):
            os.utime(path, (2e9 - age, 2e9 - age))
    return folder


def test_summaries_tell_the_states_of_runs_apart(storage: Path) -> None:
    found = {summary.name: summary for summary in runs.summaries(storage)}
    assert list(found) == ["begun", "stopped", "done", "killed"], "what changed last comes first"
    assert {name: (s.state, s.samples) for name, s in found.items()} == {
        "begun": ("failed", 0),
        "stopped": ("stopped", 704),
        "done": ("done", 1280),
        "killed": ("failed", 960),
    }
    done = found["done"]
    report = json.loads((storage / "done" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (done.preset, done.total) == ("fc_gan:ring", 1280)
    assert done.samples_per_second == report["samples_per_second"]
    assert done.cost >= report["host"]["cost"] > 0
    assert done.best_quality is None


def test_run_with_a_held_lock_is_in_training(storage: Path) -> None:
    with FileLock(storage / "killed" / ".lock", timeout=0):
        (training,) = (s for s in runs.summaries(storage) if s.name == "killed")
        assert (training.state, training.samples) == ("training", 1088), "that of its last report"
    (idle,) = (s for s in runs.summaries(storage) if s.name == "killed")
    assert idle.state == "failed"


@pytest.mark.process
def test_summaries_of_s3_equal_those_of_a_folder(storage: Path, bucket: str) -> None:
    here = {s.name: s for s in runs.summaries(storage)}
    for name in here:
        mirror = ObjectStore(f"{bucket}/runs/{name}", storage / name)
        for path in sorted((storage / name / "checkpoints").glob("*")):
            mirror.push(path)
        mirror.push_files()
    held = f"{bucket}/runs/killed"
    with Lease(held, lost=lambda reason: None):
        there = {s.name: s for s in runs.summaries(f"{bucket}/runs")}
        assert there["killed"].state == "training"
    there = {s.name: replace(s, changed=0.0) for s in runs.summaries(f"{bucket}/runs")}
    assert there == {name: replace(s, changed=0.0) for name, s in here.items()}
    with pytest.raises(ValueError, match="there is no bucket 'absent'"):
        runs.summaries("s3://absent/runs")
    with pytest.raises(ValueError, match="prune works on folders"):
        runs.command(["prune", held])


def test_run_with_a_live_lease_is_in_training(storage: Path, tmp_path: Path) -> None:
    shutil.copytree(storage / "killed", tmp_path / "killed")
    with Lease(tmp_path / "killed", lost=lambda reason: None):
        (summary,) = runs.summaries(tmp_path)
        assert summary.state == "training"
    (summary,) = runs.summaries(tmp_path)
    assert summary.state == "failed"


def test_best_quality_is_of_an_existing_checkpoint(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "run", CONFIG)
    rated(run.checkpoints, {64: 9.0, 128: 4.0, 192: 6.0})
    (summary,) = runs.summaries(tmp_path)
    assert summary.best_quality == 4.0
    (run.checkpoints / f"{128:012d}" / "certificate.json").unlink()
    (summary,) = runs.summaries(tmp_path)
    assert summary.best_quality == 6.0, "that one was never finished"


def test_summaries_name_a_damaged_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "list", "whole"):
        Run(tmp_path / name).create(CONFIG)
    (tmp_path / "empty" / "config.json").write_text("")
    (tmp_path / "list" / "config.json").write_text("[]")
    for line in ("[]", "null", '{"samples": "many", "host": 3}'):
        (tmp_path / "whole" / "metrics.jsonl").write_text(line + "\n")
        assert [summary.name for summary in runs.summaries(tmp_path)] == ["whole"]
        said = capsys.readouterr().err
        assert f"{tmp_path}/empty/config.json is damaged" in said
        assert f"{tmp_path}/list/config.json is damaged" in said


@pytest.mark.process
def test_runs_command_loads_no_torch(storage: Path) -> None:
    code = (
        "import sys; from aigc.commands.runs import command\n"
        "command(sys.argv[1:]); print('torch' in sys.modules)"
    )
    listed = [
        subprocess.run(
            [sys.executable, "-c", code, str(storage), *flags],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for flags in ((), ("--json",))
    ]
    *lines, torch = listed[0].splitlines()
    assert torch == "False"
    assert re.split(r"  +", lines[0].strip()) == [
        *("run", "preset", "state", "samples", "samples/s", "quality", "cost", "last change")
    ]
    assert re.match(r"stopped +fc_gan:ring +stopped +704 of 1,280 +[\d,]+ +- +\d", lines[2])
    assert len(lines) == 5
    document, _, torch = listed[1].rpartition("]\n")
    assert torch == "False\n"
    assert [run["name"] for run in json.loads(document + "]")] == [
        *("begun", "stopped", "done", "killed")
    ]


def test_summaries_read_metrics_from_the_end(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "run", CONFIG)
    lines = [json.dumps({"samples": n, "samples_per_second": n / 2}) for n in range(9000)]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"samples": 9999, "samp')
    (summary,) = runs.summaries(tmp_path)
    assert summary.samples_per_second == 8999 / 2


@pytest.fixture
def littered(tmp_path: Path) -> Run:
    """Qualities best at 128; the newest checkpoint is torn; left-overs of killed writers."""
    run = begin_run(tmp_path / "runs" / "run", CONFIG)
    rated(run.checkpoints, {64: 9.0, 128: 4.0, 192: 6.0, 256: 5.0, 320: 7.0, 384: 1.0})
    state = run.checkpoints / f"{384:012d}" / run_folder.STATE
    state.write_bytes(state.read_bytes()[:-1])
    for left in ("000000000448.broken", ".000000000448.77.tmp"):
        (run.checkpoints / left).mkdir()
        (run.checkpoints / left / run_folder.STATE).write_bytes(b"x" * 1000)
    (run.folder / ".metrics.jsonl.tmp").write_bytes(b"y" * 100)
    (run.folder / "ray" / "attempt").mkdir(parents=True)
    (run.folder / "ray" / "attempt" / "snapshot.json").write_bytes(b"z" * 10)
    return run


@pytest.mark.parametrize(("keep", "left"), [(1, ["128", "320"]), (2, ["128", "256", "320"])])
def test_prune_keeps_the_newest_whole_checkpoints_and_the_best(
    littered: Run, capsys: pytest.CaptureFixture[str], keep: int, left: list[str]
) -> None:
    newest, best = run_folder.newest(littered.checkpoints), run_folder.best(littered.checkpoints)
    before, there = size(littered.folder), names(littered)
    arguments = ["prune", str(littered.folder), "--keep", str(keep)]

    assert runs.command([*arguments, "--dry-run"]) == 0
    promised = capsys.readouterr().out
    assert size(littered.folder) == before, "a dry run deletes nothing"
    assert names(littered) == there

    assert runs.command(arguments) == 0
    said = capsys.readouterr().out
    assert said == promised.replace("would free", "freed")
    freed = int(said.splitlines()[-1].split()[1].replace(",", ""))
    assert freed == before - size(littered.folder) > 0
    assert names(littered) == [*left, "384"], "the torn one is newer: the next start looks at it"
    assert not (littered.folder / "ray").exists()
    assert not (littered.folder / ".metrics.jsonl.tmp").exists()
    assert run_folder.newest(littered.checkpoints) == newest
    assert run_folder.best(littered.checkpoints) == best

    assert runs.command(arguments) == 0
    assert capsys.readouterr().out.split()[1] == "0", "nothing is left to free"


def test_prune_keeps_foreign_files(littered: Run) -> None:
    foreign = ("9", "000000000001", "mine.broken", ".mine.tmp", "notes")
    for name in foreign:
        (littered.checkpoints / name).mkdir()
        (littered.checkpoints / name / "thesis.txt").write_text(name)
    runs.command(["prune", str(littered.folder)])
    assert {*foreign, f"{128:012d}", f"{320:012d}"} <= {
        path.name for path in littered.checkpoints.iterdir()
    }


def test_prune_without_a_whole_checkpoint_deletes_none(littered: Run) -> None:
    for path in littered.checkpoints.glob("*/state.safetensors"):
        path.write_bytes(b"torn")
    runs.command(["prune", str(littered.folder)])
    assert names(littered) == ["128", "192", "256", "320", "384", "64"]


def test_prune_refuses_a_run_in_training(littered: Run, tmp_path: Path) -> None:
    other = begin_run(tmp_path / "runs" / "other", CONFIG)
    before = size(littered.folder)
    with (
        FileLock(other.folder / ".lock", timeout=0),
        pytest.raises(ValueError, match="other is being trained; stop it"),
    ):
        runs.command(["prune", str(littered.folder), str(other.folder)])
    assert size(littered.folder) == before
    runs.command(["prune", str(littered.folder), str(littered.folder)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/storage"], "no/storage is not a folder"),
        (["prune", "no/run"], "no/run is not a run"),
    ],
)
def test_runs_command_names_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs.command(arguments)


def test_prune_leaves_the_lock_usable(littered: Run) -> None:
    runs.command(["prune", str(littered.folder), "--dry-run"])
    with FileLock(littered.folder / ".lock", timeout=0):
        assert runs.being_trained(littered.folder)


def test_prune_knows_the_names_of_temporary_files(tmp_path: Path) -> None:
    with replacing(tmp_path / "grid.png") as temporary:
        assert list(tmp_path.glob(".*.tmp")) == []
        temporary.write_bytes(b"what a killed writer leaves")
        assert list(tmp_path.glob(".*.tmp")) == [temporary]
