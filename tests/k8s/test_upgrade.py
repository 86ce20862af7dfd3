"""A new cluster takes over, and a node is drained, under load and with the manifests' own timings.

Nothing is scaled; the old cluster is deleted the moment the load has moved, not after
rayClusterDeletionDelaySeconds, which is harder.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.artifacts import untrained
from tests.k8s.kuberay import RayCluster, new_key
from tests.k8s.load import Load
from tests.k8s.pod import Network
from tests.k8s.rendered import Rendered, service

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

HEARD_S = 15
"""Seconds after which the last load balancer has heard that a pod goes: less than preStop."""


class Service:
    """Clusters of one RayService, by and by."""

    def __init__(self, rendered: Rendered, folder: Path, clusters: ExitStack) -> None:
        self.objects = rendered.objects("overlays/kind")
        self.spec = service(self.objects)
        self.secret, self._entry = new_key()
        (group,) = self.spec["rayClusterConfig"]["workerGroupSpecs"]
        worker = group["template"]["spec"]["containers"][0]
        self.pre_stop_s = int(worker["lifecycle"]["preStop"]["exec"]["command"][1])
        self._store = Path(untrained()).parents[1]
        self._folder, self._clusters = folder, clusters
        self._network = clusters.enter_context(Network())

    def cluster(self, workers: int) -> RayCluster:
        """One more, that answers."""
        made = RayCluster(
            self._network,
            self.objects,
            self.spec["rayClusterConfig"],
            claims={"artifacts": self._store},
            secrets={"api-keys": {"keys.toml": self._entry}},
            workers=workers,
        )
        self._clusters.enter_context(made)
        made.start()
        made.deploy(self.spec["serveConfigV2"], self._folder)
        return made


@pytest.fixture
def sampling(rendered: Rendered, tmp_path: Path) -> Iterator[Service]:
    with ExitStack() as clusters:
        yield Service(rendered, tmp_path, clusters)


def ips(cluster: RayCluster) -> list[str]:
    return [worker.ip for worker in cluster.workers]


def test_an_upgrade_fails_no_request(sampling: Service) -> None:
    old = sampling.cluster(workers=1)
    with Load(sampling.secret, ips(old)) as load:
        new = sampling.cluster(workers=1)
        # The Service is of the new pods now; one load balancer does not know it yet.
        load.known[:-1] = [ips(new)] * (len(load.known) - 1)
        with ThreadPoolExecutor(1) as operator:
            ended = operator.submit(old.delete)
            time.sleep(HEARD_S)
            load.known[-1] = ips(new)
            # Requests that are under way, when the pod is told to end.
            time.sleep(sampling.pre_stop_s - HEARD_S - 0.3)
            load.crowd_at(old.workers[0].ip)
            ended.result()
    assert load.failures() == {}
    assert {ip for ip, _ in load.seen} == {*ips(old), *ips(new)}
    assert sum(load.seen.values()) > 500


def test_a_drained_node_fails_no_request(sampling: Service) -> None:
    """Replicas of the other node take requests all the time; those that went are replaced there."""
    cluster = sampling.cluster(workers=2)
    going, staying = cluster.workers
    with Load(sampling.secret, ips(cluster)) as load, ThreadPoolExecutor(1) as kubelet:
        time.sleep(5)
        ended = kubelet.submit(going.stop, "ray-worker")
        time.sleep(HEARD_S)
        load.known[:] = [[staying.ip]] * len(load.known)
        time.sleep(sampling.pre_stop_s - HEARD_S - 0.3)
        load.crowd_at(going.ip)
        ended.result()
        time.sleep(5)
    assert load.failures() == {}
    assert [*cluster.replicas().values()] == [staying.ip] * 2
