"""A Ray cluster of several nodes on this machine, and one run that nothing disturbed."""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aigc.training.run import Run
from tests.cluster.runs import DIGITS, TOTAL, finish, start

TOKEN = secrets.token_hex(32)
"""One for all clusters of this process: Ray reads it once."""


class Nodes:
    """Nodes that join and die. The first one gives no CPU to workers: a driver lives there."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._cluster.add_node(
            num_cpus=0,
            include_dashboard=False,
            _system_config={"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        )
        self.address: str = self._cluster.address

        self._added: list[Any] = []

    def add(self) -> Any:
        """A node with room for one worker."""
        self._added.append(self._cluster.add_node(num_cpus=1))
        return self._added[-1]

    def remove_added(self) -> None:
        """End all nodes but the first."""
        while self._added:
            self._cluster.remove_node(self._added.pop(), allow_graceful=False)

    def kill_raylet(self, node: Any) -> None:
        """kill -9: its workers die with it."""
        raylet = psutil.Process(raylet_pid(node))
        raylet.kill()
        raylet.wait(10)

    def drain(self, node: Any) -> None:
        """Drain a node, as Ray sees the end of a pod or the notice of a spot instance."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

        ends_ms = int((time.time() + 60) * 1000)
        client = GcsClient(address=self.address)
        accepted, why_not = client.drain_node(
            node.node_id, DRAIN_NODE_REASON_PREEMPTION, "a test", ends_ms
        )
        assert accepted, why_not

    def shutdown(self) -> None:
        """End every node."""
        self._cluster.shutdown()


def raylet_pid(node: Any) -> int:
    """Process id of the raylet of a node."""
    return int(node.all_processes["raylet"][0].process.pid)


@pytest.fixture(scope="module")
def _cluster() -> Iterator[Nodes]:
    """A cluster of its own folder, ports and token, gone at the end with all its processes."""
    before = set(psutil.Process().children(recursive=True))
    folder = tempfile.mkdtemp(prefix="aigc-")
    (Path(folder) / "ray").mkdir()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN") or TOKEN)
        environment.setenv("RAY_worker_niceness", "0")
        cluster = Nodes()
        yield cluster
        started = set(psutil.Process().children(recursive=True)) - before
        cluster.shutdown()
    _, alive = psutil.wait_procs(list(started), timeout=10)
    shutil.rmtree(folder, ignore_errors=True)
    assert alive == []


@pytest.fixture
def nodes(_cluster: Nodes) -> Iterator[Nodes]:
    """The cluster with its first node alone."""
    yield _cluster
    _cluster.remove_added()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """DIGITS to its end."""
    storage = tmp_path_factory.mktemp("undisturbed")
    process = start(storage, "run", *DIGITS)
    stdout, stderr = finish(process)
    run = Run(storage / "run")
    assert Path(stdout.splitlines()[-1]).resolve() == run.folder.resolve()
    assert f"{TOTAL:,} of {TOTAL:,} samples" in stderr
    assert [start["samples"] for start in run.starts()] == [0]
    assert run.facts()["workers"] == 2
    return run
