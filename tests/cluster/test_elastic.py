"""1 -> 2 -> 1 workers as nodes join and die: growth loses nothing, the result is that of one."""

import os
import signal
from pathlib import Path

import pytest
import torch

from aigc.training.run import Run
from cluster import train
from tests.cluster.conftest import Nodes
from tests.cluster.runs import finish, reported, start, state, wait_for

pytestmark = pytest.mark.cluster

BATCH, INTERVAL = 125, 2500
"""An odd batch: two workers cannot share it evenly."""
VAE = [
    *("fc_vae:digits", "--precision", "float64", "--batch", str(BATCH), "--threads", "1"),
    *("--report-interval", str(BATCH), "--checkpoint-interval", str(INTERVAL)),
    *("--grid-interval", "0"),
]


def test_growing_loses_nothing_and_shrinking_an_interval(tmp_path: Path, nodes: Nodes) -> None:
    nodes.add()
    flags = [*VAE, "--samples", "1000000000", "--workers", "1..2", "--resize-interval-s", "1"]
    process = start(tmp_path, "elastic", *flags, "--address", nodes.address)
    run = Run(tmp_path / "elastic")
    wait_for(lambda: reported(run) > INTERVAL, process, "a first interval")
    joined = nodes.add()
    wait_for(lambda: len(run.starts()) == 2, process, "two workers")
    grown = run.starts()[1]["samples"]
    wait_for(lambda: reported(run) > grown + INTERVAL, process, "an interval with two workers")
    nodes.kill_raylet(joined)
    wait_for(lambda: len(run.starts()) == 3, process, "one worker again")
    shrunk = run.starts()[2]["samples"]
    wait_for(lambda: reported(run) > shrunk + BATCH, process, "some batches with one worker")
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = finish(process)
    total = run.facts()["samples"]
    assert f"stopped after {total:,} samples" in stderr
    assert [start["workers"] for start in run.starts()] == [1, 2, 1]
    _, grow, shrink = run.starts()
    assert 0 < grow["samples"] < shrink["samples"] < total
    assert grow["work_lost_samples"] == 0
    assert shrink["samples"] % INTERVAL == 0  # the last checkpoint
    assert 0 <= shrink["work_lost_samples"] <= INTERVAL
    assert {start["environment"]["threads"] for start in run.starts()} == {1}

    flags = [*VAE, "--samples", str(total), "--storage", str(tmp_path), "--name", "alone"]
    assert train.command(flags) == 0
    a, b = state(run), state(Run(tmp_path / "alone"))
    assert a["model/decoder.layers.0.weight"].dtype == torch.float64
    worst = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    assert 0 < worst < 1e-9
