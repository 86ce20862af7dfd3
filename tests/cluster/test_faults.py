"""Faults injected for real: what was killed and started again ends bit-equal to the undisturbed."""

import contextlib
import json
import os
import re
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from aigc.training.run import Run
from cluster import train
from tests.cluster.conftest import Nodes, raylet_pid
from tests.cluster.runs import (
    DIGITS,
    IMPATIENT,
    INTERVAL,
    REPORT,
    TOTAL,
    assert_bit_equal,
    assert_restarted,
    family,
    finish,
    reported,
    start,
    train_workers,
    wait_for,
    wait_until_beyond,
)
from tests.ports import free_port

pytestmark = pytest.mark.cluster


@pytest.mark.timeout(900)  # four starts of Ray
def test_killed_worker_stopped_and_killed_driver_change_no_bit(
    undisturbed: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")

    # A worker is killed between two checkpoints.
    process = start(tmp_path, "run", *DIGITS)
    wait_until_beyond(run, INTERVAL + INTERVAL // 3, process)
    workers = train_workers(psutil.Process(process.pid))
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    wait_for(lambda: len(run.starts()) == 2, process, "a restart")
    wait_for(lambda: reported(run) > run.starts()[1]["samples"], process, "a report after it")

    # The driver is told to stop.
    started = family(process)
    process.send_signal(signal.SIGTERM)
    _, stderr = finish(process)
    stopped = run.facts()["samples"]
    assert INTERVAL < stopped < TOTAL
    assert f"stopped after {stopped:,} samples; continue with --resume" in stderr
    assert "workers restarted from" in stderr
    assert f"work_lost_samples {run.starts()[1]['work_lost_samples']}" in stderr
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []

    # The driver is killed between two checkpoints.
    process = start(tmp_path, "run", *DIGITS, "--resume")
    wait_until_beyond(run, stopped, process)
    started = family(process)
    workers = train_workers(psutil.Process(process.pid))
    wait_for(
        lambda: 1 / 5 < reported(run) / INTERVAL % 1 < 2 / 3,
        process,
        "a report between two checkpoints",
    )
    # Rank 0 notices the death within a second or so, and could reach the next checkpoint by then;
    # now it waits for this one.
    workers[1].suspend()
    process.kill()
    finish(process, status=-signal.SIGKILL)
    psutil.wait_procs([p for p in started if p != workers[1]], timeout=60)
    with contextlib.suppress(psutil.NoSuchProcess):  # a raylet that outlived the driver killed it
        workers[1].resume()  # a stopped process cannot notice that its raylet is gone
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []

    finish(start(tmp_path, "run", *DIGITS, "--resume"))
    assert_restarted(run)
    starts = run.starts()
    assert len(starts) == 4
    assert starts[1]["samples"] % INTERVAL == 0  # the last checkpoint
    assert starts[2]["samples"] == stopped
    assert starts[2]["work_lost_samples"] == 0
    assert starts[3]["work_lost_samples"] > 0
    assert_bit_equal(undisturbed, run)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    samples = [json.loads(line)["samples"] for line in lines]
    assert samples == sorted({*range(REPORT, TOTAL + 1, REPORT), stopped})  # none lost, none twice


def test_workers_without_room_are_refused(tmp_path: Path, nodes: Nodes) -> None:
    flags = ["fc_gan:ring", "--threads", "1", "--storage", str(tmp_path), "--name", "run"]
    flags += ["--address", nodes.address]
    said = "1 workers want 1 CPU each, which leaves room for 0 on this cluster of 1"
    with pytest.raises(ValueError, match=said):
        train.command([*flags, "--workers", "1"])
    said = r"2 workers want 1 CPU and 1 GPU each, which leaves room for 0 .* or --device cpu"
    with pytest.raises(ValueError, match=said):
        train.command([*flags, "--workers", "2", "--device", "cuda"])
    assert not Run(tmp_path / "run").exists


def test_deaths_of_nodes_do_not_use_up_the_starts_of_a_run(nodes: Nodes) -> None:
    import ray
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2._internal.execution.failure_handling import FailureDecision
    from ray.train.v2.api.exceptions import WorkerGroupError

    from cluster import coordinator
    from cluster.failure_policy import ProgressPolicy

    @ray.remote(num_cpus=1)
    class Worker:
        def ready(self) -> bool:
            return True

        def end(self) -> None:
            os._exit(1)

    def failed(call: Any) -> WorkerGroupError:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                ray.get(call.remote(), timeout=60)
            except ray.exceptions.ActorDiedError as error:
                died = WorkerHealthCheckFailedError("a worker died", error)
                return WorkerGroupError("a worker died", {0: died})
            except ray.exceptions.ActorUnavailableError:
                pass
            time.sleep(0.1)
        raise AssertionError("the worker did not die")

    node = nodes.add()
    ray.init(nodes.address, log_to_driver=False)
    try:
        policy = ProgressPolicy(coordinator.create())
        worker = Worker.remote()
        assert ray.get(worker.ready.remote())
        died = failed(worker.end)
        assert [policy.make_decision(died) for _ in range(2)] == [FailureDecision.RETRY] * 2
        worker = Worker.remote()
        assert ray.get(worker.ready.remote())
        nodes.kill_raylet(node)
        gone = failed(worker.ready)
        assert [policy.make_decision(gone) for _ in range(5)] == [FailureDecision.RETRY] * 5
        assert policy.make_decision(died) == FailureDecision.RAISE
    finally:
        ray.shutdown()


@pytest.mark.timeout(900)  # a cluster of four nodes, three groups of workers
def test_killed_drained_and_missing_nodes_change_no_bit(
    undisturbed: Run, tmp_path: Path, nodes: Nodes
) -> None:
    three, port = [nodes.add() for _ in range(3)], free_port()
    flags = [*DIGITS, "--address", nodes.address, "--metrics-port", str(port)]
    process = start(tmp_path, "run", *flags, program=("-c", IMPATIENT))
    run = Run(tmp_path / "run")

    def workers_of(node: Any) -> list[psutil.Process]:
        try:
            return train_workers(psutil.Process(raylet_pid(node)))
        except psutil.NoSuchProcess:
            return []

    def working() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            found = answer.read().decode()
        return re.findall(r'^aigc_training_workers{run="run"} (\S+)', found, re.MULTILINE)[0]

    # A node dies, and the third one takes its place.
    wait_until_beyond(run, INTERVAL + INTERVAL // 3, process)
    wait_for(lambda: working() == "2.0", process, "two workers in the metrics")
    killed, leaving = [node for node in three if workers_of(node)]
    nodes.kill_raylet(killed)
    wait_for(lambda: len(run.starts()) == 2, process, "a restart")
    wait_for(lambda: reported(run) > run.starts()[1]["samples"], process, "a report after it")

    # A node is drained, and nobody takes its place until one joins.
    nodes.drain(leaving)
    wait_for(lambda: working() == "0.0", process, "no workers in the metrics")
    assert workers_of(leaving) == []
    nodes.add()
    wait_for(lambda: working() == "2.0", process, "two workers in the metrics again")
    _, stderr = finish(process)
    assert stderr.count("workers restarted from") == 2
    assert "no worker is running yet; free are" in stderr
    assert_restarted(run)
    starts = run.starts()
    assert len(starts) == 3
    assert starts[1]["samples"] % INTERVAL == 0  # the last checkpoint
    assert starts[2]["work_lost_samples"] == 0
    assert_bit_equal(undisturbed, run)
