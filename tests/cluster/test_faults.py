"""Faults injected for real: what was killed and started again ends bit-equal to the undisturbed."""

import contextlib
import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from aigc.training.run import Run
from tests.cluster.conftest import Nodes, raylet_pid
from tests.cluster.runs import (
    DIGITS,
    INTERVAL,
    TOTAL,
    assert_bit_equal,
    assert_restarted,
    family,
    finish,
    start,
    wait_for,
    wait_until_beyond,
)
from tests.ports import free_port

pytestmark = pytest.mark.cluster


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
    assert_restarted(run)
    assert "workers restarted from" in stderr
    assert f"work_lost_samples {run.starts()[1]['work_lost_samples']}" in stderr
    assert_bit_equal(undisturbed, run)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    samples = [json.loads(line)["samples"] for line in lines]
    assert samples == list(range(320, TOTAL + 1, 320))  # none lost, none twice


@pytest.mark.timeout(600)  # three starts of Ray
def test_signals_stop_with_a_checkpoint_and_leave_no_process(
    undisturbed: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    stops = [0]
    for number in (signal.SIGTERM, signal.SIGHUP):
        process = start(tmp_path, "run", *DIGITS, *(["--resume"] if stops[-1] else []))
        wait_until_beyond(run, stops[-1] + 640, process)
        started = family(process)
        # A terminal that is closed tells all that it started; `start` makes them a group.
        (os.killpg if number == signal.SIGHUP else os.kill)(process.pid, number)
        _, stderr = finish(process)
        stopped = run.facts()["samples"]
        assert stops[-1] + 640 < stopped < TOTAL
        assert f"stopped after {stopped:,} samples; continue with --resume" in stderr
        _, alive = psutil.wait_procs(started, timeout=10)
        assert alive == []
        stops.append(stopped)
    finish(start(tmp_path, "run", *DIGITS, "--resume"))
    assert [start["samples"] for start in run.starts()] == stops
    assert_bit_equal(undisturbed, run)


def test_a_driver_killed_takes_its_processes_along_and_is_resumed(
    undisturbed: Run, tmp_path: Path
) -> None:
    process = start(tmp_path, "run", *DIGITS)
    run = Run(tmp_path / "run")
    wait_until_beyond(run, 640, process)
    started = family(process)
    workers = [p for p in started if "TrainWorker" in " ".join(p.cmdline())]
    wait_until_beyond(run, INTERVAL + INTERVAL // 3, process)
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
    assert run.starts()[1]["work_lost_samples"] > 0
    assert_bit_equal(undisturbed, run)


def test_a_node_killed_is_replaced_by_a_spare_one(
    undisturbed: Run, tmp_path: Path, nodes: Nodes
) -> None:
    three = [nodes.add() for _ in range(3)]
    process = start(tmp_path, "run", *DIGITS, "--address", nodes.address)
    run = Run(tmp_path / "run")
    wait_until_beyond(run, INTERVAL + INTERVAL // 3, process)
    busy = [node for node in three if _workers(raylet_pid(node))]
    assert len(busy) == 2
    nodes.kill_raylet(busy[0])
    _, stderr = finish(process)
    assert_restarted(run)
    assert "workers restarted from" in stderr
    assert_bit_equal(undisturbed, run)


def test_deaths_of_nodes_do_not_use_up_a_run_s_starts(nodes: Nodes) -> None:
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


def test_a_node_that_is_drained_loses_no_sample(
    undisturbed: Run, tmp_path: Path, nodes: Nodes
) -> None:
    three = [nodes.add() for _ in range(3)]
    process = start(tmp_path, "run", *DIGITS, "--address", nodes.address)
    run = Run(tmp_path / "run")
    wait_until_beyond(run, INTERVAL // 3, process)
    leaving = next(node for node in three if _workers(raylet_pid(node)))
    nodes.drain(leaving)
    wait_for(lambda: len(run.starts()) > 1, process, "a restart")
    assert not _workers(raylet_pid(leaving))
    finish(process)
    assert_restarted(run)
    assert [start["work_lost_samples"] for start in run.starts()] == [0, 0]
    assert_bit_equal(undisturbed, run)


def test_a_run_without_a_node_waits_for_one_and_its_metrics_say_so(
    tmp_path: Path, nodes: Nodes
) -> None:
    node, port = nodes.add(), free_port()
    flags = ["dcgan:digits", "--workers", "1", "--threads", "1", "--samples", "1000000000"]
    flags += ["--checkpoint-interval", "1600", "--report-interval", "320", "--grid-interval", "0"]
    flags += ["--address", nodes.address, "--metrics-port", str(port)]
    process = start(tmp_path, "run", *flags)

    def workers() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            found = answer.read().decode()
        return found.partition('aigc_training_workers{run="run"} ')[2].partition("\n")[0]

    run = Run(tmp_path / "run")
    wait_until_beyond(run, INTERVAL, process)
    wait_for(lambda: workers() == "1.0", process, "one worker")
    nodes.kill_raylet(node)
    wait_for(lambda: workers() == "0.0", process, "none")
    nodes.add()
    wait_for(lambda: workers() == "1.0", process, "one again")
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    assert len(run.starts()) == 2


def test_a_cluster_without_room_is_refused(tmp_path: Path, nodes: Nodes) -> None:
    flags = ["fc_gan:ring", "--workers", "1", "--address", nodes.address]
    _, stderr = finish(start(tmp_path, "run", *flags), status=1)
    assert "1 workers want 1 CPU each, which leaves room for 0 on this cluster of 1" in stderr


def _workers(raylet: int) -> list[psutil.Process]:
    children = psutil.Process(raylet).children()
    return [child for child in children if "TrainWorker" in " ".join(child.cmdline())]
