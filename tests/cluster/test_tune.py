"""A real search: killed, resumed, with a trial that fails, and a config that trains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aigc import recipe
from aigc.files import read_lines
from aigc.training.run import Run
from cluster.search import Search
from cluster.tune import command

pytestmark = pytest.mark.cluster

METRIC = """
import numpy as np

from aigc.metrics import Distance


def distance(real):
    ring = np.sqrt(np.square(real.samples).sum(1)).mean()
    return Distance(lambda points: float(abs(np.sqrt(np.square(points).sum(1)).mean() - ring)))
"""
RATE = "model.generator_optimizer.learning_rate"


def flags(tmp_path: Path, *more: str) -> list[str]:
    metric = tmp_path / "off_the_ring.py"
    metric.write_text(METRIC)
    return ["fc_gan:ring", "--quality", str(metric), "--storage", str(tmp_path), *more]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give at least one --over"),
        (("--over", "batch=32,64", "--over", "batch=16"), "--over batch is given twice"),
        (("--over", "batch=32,64", "--samples", "300"), "less than a batch of 64"),
        (("--over", "batch=32,4096", "--samples", "9000"), "less than a batch of 4096"),
        (
            (
                "--over",
                "model.objective=hinge,wasserstein",
                "--over",
                "model.penalty=none,gradient",
            ),
            "--over model.objective=hinge,wasserstein: objective wasserstein needs",
        ),
        (
            ("--over", "model.objective=hinge,relativistic", "--over", "model.lecam=0,1"),
            "a trial with model.objective=relativistic, model.lecam=1 is refused: .*lecam look at",
        ),
        (("--over", "batch=32,64", "--metric", "frechet"), "measured as 'off_the_ring' here"),
        (("--over", "batch=32,64", "--name", "A b"), "--name must be 1 to 64"),
    ],
)
def test_mistakes_are_refused_before_anything_is_created(
    more: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        command(flags(tmp_path, *more))
    assert [path.name for path in tmp_path.iterdir()] == ["off_the_ring.py"]


def test_unknown_search_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no search 'ring' in .*: it has no searches"):
        command(["--resume", "ring", "--storage", str(tmp_path)])


def test_data_without_a_quality_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing measures the quality of these data"):
        command(["fc_gan:ring", "--storage", str(tmp_path), "--over", "batch=32,64"])


@pytest.mark.timeout(600)
def test_killed_search_goes_on_and_its_best_config_trains(tmp_path: Path) -> None:
    """kill -9 of the driver after the first measurements; a trial that fails; the table."""
    more = ["--over", f"{RATE}=log:1e-6..1e-2", "--over", "model.latent=2,4", "--trials", "4"]
    more += ["--samples", "7200", "--batch", "16", "--threads", "1", "--name", "ring"]
    more += ["--parallel", "1", "--search-seed", "3", "--price-per-worker-hour", "1"]
    aigc = [sys.executable, "-m", "aigc.cli", "tune"]
    with subprocess.Popen([*aigc, *flags(tmp_path, *more)], stderr=subprocess.DEVNULL) as process:
        search = Search(tmp_path / "ring")
        deadline = time.monotonic() + 240
        while not any(search.folder.glob("trials/*/quality.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    psutil.wait_procs(family, timeout=60)
    before = {trial.number: trial.qualities for trial in search.trials()}
    assert any(before.values())
    # A trial that fails is said and ends nothing.
    broken = search.trial_folder(3) / "config.json"
    document = json.loads(broken.read_text())
    broken.write_text(json.dumps(document | {"data": document["data"] | {"source": "nowhere"}}))
    resumed = subprocess.run(
        [*aigc, "--resume", "ring", "--storage", str(tmp_path), "--parallel", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    trials = search.trials()
    ends = [trial.ended for trial in trials]
    assert ends[3] == "failed"
    assert {*ends[:3]} <= {"done", "halved"}
    assert "done" in ends
    assert "nowhere" in trials[3].reason
    assert f"trial 3 failed: {trials[3].reason}" in resumed.stderr
    for number, qualities in before.items():  # what was measured stands
        assert qualities.items() <= trials[number].qualities.items()
    for trial in trials[:3]:  # each rung is measured once
        lines = read_lines(search.trial_folder(trial.number) / "quality.jsonl")
        samples = [line["samples"] for line in lines]
        assert samples == [800, 2400, 7200][: len(samples)]
    *table, place = resumed.stdout.strip().splitlines()
    assert table[0].split()[:2] == ["trial", "off_the_ring"]
    assert len(table) == 6  # the head, four trials and a reason
    best = search.ranked()[0]
    assert table[1].split()[0] == str(best.number)
    assert best.quality == min(t.quality for t in trials[:3] if t.quality is not None)
    config = recipe.read(Path(place))
    assert config.samples == 7200
    assert config.price_per_worker_hour == 1
    assert config.model == Run(search.trial_folder(best.number)).config().model
    again = [sys.executable, "-m", "aigc.cli", "train", "--config", place, "--dry-run"]
    assert subprocess.run(again, capture_output=True, timeout=100, check=False).returncode == 0
    # There is nothing left to do, and no name to take.
    assert command(["--resume", "ring", "--storage", str(tmp_path)]) == 0
    with pytest.raises(ValueError, match="exists; continue it with --resume ring"):
        command(flags(tmp_path, *more))


@pytest.mark.timeout(400)
def test_interrupt_ends_cleanly(tmp_path: Path) -> None:
    more = ["--over", "model.latent=2,4", "--trials", "2", "--samples", "900000", "--threads", "1"]
    more += ["--parallel", "1", "--name", "ring"]
    aigc = [sys.executable, "-m", "aigc.cli", "tune", *flags(tmp_path, *more)]
    with subprocess.Popen(aigc, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "ring/trials/000/metrics.jsonl"
        while not metrics.exists() and process.poll() is None:
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        said = process.communicate(timeout=200)[1]
    assert "no trial of" in said or "continue with --resume ring" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert [trial.ended for trial in Search(tmp_path / "ring").trials()] == ["", ""]
