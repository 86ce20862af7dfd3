"""The serveConfigV2 of the manifests, to the letter, on pods that are what the manifests say.

`serve deploy` takes it, two replicas come up as a user without rights on a root that nobody may
write to, keys are asked for, and a full queue is told of.
"""

import asyncio
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from aigc.artifact import Artifact, Store
from aigc.commands.export import export
from tests.fixtures.make import config, write_run
from tests.k8s.kuberay import GCS, PROXY, RAYLET, RayCluster, new_key, passes, redis
from tests.k8s.load import Load
from tests.k8s.pod import Network, Pod, until
from tests.k8s.rendered import Rendered, service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


class Deployed:
    """A running RayService, and somebody who may ask it."""

    def __init__(
        self, cluster: RayCluster, config: str, folder: Path, secret: str, redis: Pod | None
    ) -> None:
        self.cluster, self.config, self.folder = cluster, config, folder
        self.secret, self._redis = secret, redis
        self.worker = cluster.workers[0]
        self.url = f"http://{self.worker.ip}:8000"
        self.key = {"authorization": f"Bearer {secret}"}

    @property
    def redis(self) -> Pod:
        if self._redis is None:
            pytest.skip("redis-server is not on this machine")
        return self._redis

    def counted(self, name: str) -> float:
        """Sum of a metric over all labels, from the worker's sidecar."""
        body = httpx.get(f"http://{self.worker.ip}:9464/metrics", timeout=30).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.name == name
        )

    def ask(self, headers: dict[str, str], **fields: Any) -> httpx.Response:
        body = {"model": "digits", "seed": 7, "format": "npy"} | fields
        return httpx.post(f"{self.url}/v1/samples", json=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits@1 in a store of its own, wide enough that a crowd fills the queue."""
    folder = tmp_path_factory.mktemp("artifacts")
    small = config()
    wide = replace(small, model=replace(small.model, generator_widths=(2048, 2048)))
    run = write_run(folder / "run", wide)
    return Path(export(run, name="digits", store=Store(folder / "store")))


@pytest.fixture(scope="module")
def deployed(
    network: Network, artifact: Path, rendered: Rendered, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    objects = rendered.objects("overlays/kind")
    spec = service(objects)
    secret, entry = new_key()
    with ExitStack() as stack:
        tables = None
        if shutil.which("redis-server"):
            tables = stack.enter_context(redis(network, objects))
            tables.start("redis")
        cluster = RayCluster(
            network,
            objects,
            spec["rayClusterConfig"],
            claims={"artifacts": artifact.parents[1]},
            secrets={"api-keys": {"keys.toml": entry}},
            redis=tables,
        )
        stack.enter_context(cluster)
        cluster.start()
        config, folder = spec["serveConfigV2"], tmp_path_factory.mktemp("deployed")
        cluster.deploy(config, folder)
        yield Deployed(cluster, config, folder, secret, tables)


def test_replicas_run_on_both_workers(deployed: Deployed) -> None:
    nodes = sorted(deployed.cluster.replicas().values())
    assert nodes == [worker.ip for worker in deployed.cluster.workers]
    assert deployed.cluster.applications()["http_options"]["keep_alive_timeout_s"] == 620


def test_requests_with_a_key_get_samples_and_others_401(deployed: Deployed, artifact: Path) -> None:
    answer = deployed.ask(deployed.key, n=4)
    assert answer.status_code == 200, answer.text
    offline = Artifact.open(str(artifact))
    expected = offline.uint8("sample", offline.sample(seed=7, n=4))
    assert np.array_equal(np.load(io.BytesIO(answer.content)), expected)
    refused = [deployed.ask(headers) for headers in ({}, {"x-api-key": "guessed"})]
    assert [each.status_code for each in refused] == [401, 401]


def test_replica_logs_reach_the_pod_log_and_ray_files(deployed: Deployed) -> None:
    keys = deployed.worker.volume("keys") / "keys.toml"
    good = keys.read_text()
    keys.write_text("[[key]]\nname = 'broken'\n")
    try:
        log = deployed.worker.log("ray-worker")
        text = "a changed keys file is refused"
        until(lambda: text in log.read_text(), 60, lambda: log.read_text()[-3000:])
    finally:
        keys.write_text(good)
    (line, *_) = [x for x in log.read_text().splitlines() if text in x]
    record = json.loads(line)
    assert (record["level"], record["logger"]) == ("ERROR", "serve.ingress")
    found = deployed.worker.execute(
        "ray-worker", ["grep", "-rlF", line, "/tmp/ray/session_latest/logs"]
    )
    assert re.search(r"/worker-\S+\.err$", found.stdout.strip()), found


def test_the_dashboard_needs_the_token(deployed: Deployed) -> None:
    url = f"{deployed.cluster.dashboard}/api/serve/applications/"
    assert httpx.get(url, timeout=30).status_code == 401


def test_probes_of_kuberay_pass(deployed: Deployed) -> None:
    assert passes(deployed.worker, "ray-worker", f"{RAYLET} && {PROXY}")
    assert passes(deployed.cluster.head, "ray-head", f"{RAYLET} && {GCS}")


def test_a_full_queue_refuses_with_503_and_recovers(deployed: Deployed) -> None:
    async def crowd() -> list[httpx.Response]:
        body = {"model": "digits", "n": 1024, "format": "npy"}
        async with httpx.AsyncClient(headers=deployed.key, timeout=120) as client:
            url = f"{deployed.url}/v1/samples"
            return await asyncio.gather(*(client.post(url, json=body) for _ in range(64)))

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert deployed.ask(deployed.key).status_code == 200


def test_the_sidecar_shows_metrics_of_the_replica(deployed: Deployed) -> None:
    deployed.ask(deployed.key)
    assert deployed.counted("aigc_ready") == 1
    assert deployed.counted("aigc_requests_total") >= 1
    sidecar = deployed.worker.execute("metrics", ["ps", "-eo", "args"]).stdout
    assert "aigc metrics" in sidecar
    assert not re.search(r"raylet|ray::", sidecar)


def test_workers_use_only_ports_of_the_network_policy(deployed: Deployed) -> None:
    deployed.ask(deployed.key, n=4)
    head, workers = deployed.cluster.head, {worker.ip for worker in deployed.cluster.workers}
    listed = head.execute("ray-head", ["ss", "-Htna"]).stdout.splitlines()
    columns = [line.split() for line in listed]
    listening = {_port(local) for state, _, _, local, *_ in columns if state == "LISTEN"}
    came = {
        _port(local)
        for state, _, _, local, peer, *_ in columns
        if state == "ESTAB"
        and peer.rpartition(":")[0].removeprefix("[::ffff:").strip("[]") in workers
        if _port(local) in listening
    }
    assert 6379 in came
    assert came <= {6379, 6380, 6381, *range(11000, 12000)}
    assert {6380, 6381, 8265} <= listening


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_containers_have_no_rights_and_a_read_only_root(deployed: Deployed) -> None:
    seen = 0
    for pod, name in ((deployed.cluster.head, "ray-head"), (deployed.worker, "ray-worker")):
        first = psutil.Process(pod.init_of(name))
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, FileNotFoundError):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                assert set(status["Uid"].split()) == {"1000"}, process
                assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0, process
                assert status["NoNewPrivs"] == "1", process
                seen += 1
        for place, writable in (("/", 0), ("/tmp", 1), ("/dev/shm", 1), ("/opt/aigc", 0)):
            done = pod.execute(name, ["touch", f"{place}/file"])
            assert (done.returncode == 0) == bool(writable), (name, place, done.stderr)
    assert seen > 12


def test_a_changed_config_replaces_no_replica_and_a_bad_artifact_is_refused(
    deployed: Deployed,
) -> None:
    cluster = deployed.cluster
    before = cluster.replicas()
    config = yaml.safe_load(deployed.config)
    hosted = config["applications"][0]["deployments"][0]["user_config"]
    good = f"{hosted['artifacts'][0]}"
    hosted["artifacts"] = [good, good.replace("/1", "/2")]  # nobody has published that
    cluster.deploy(yaml.safe_dump(config), deployed.folder)
    until(lambda: deployed.counted("aigc_refused_loads_total") > 0, 30, lambda: "not refused")
    assert deployed.ask(deployed.key).status_code == 200
    cluster.deploy(deployed.config, deployed.folder)
    assert cluster.replicas() == before


@pytest.mark.slow
def test_a_lost_head_fails_no_request(deployed: Deployed) -> None:
    assert deployed.redis
    cluster = deployed.cluster
    before = cluster.replicas()
    with Load(deployed.secret, [worker.ip for worker in cluster.workers], clients=3) as load:
        cluster.head.kill("ray-head")
        time.sleep(3)
        cluster.start_head()
        cluster.wait_until_running()
    assert load.failures() == {}
    assert sum(load.seen.values()) > 50
    assert cluster.replicas() == before


@pytest.mark.slow
def test_a_lost_redis_fails_no_request(deployed: Deployed) -> None:
    cluster, tables = deployed.cluster, deployed.redis
    before = cluster.replicas()
    with Load(deployed.secret, [worker.ip for worker in cluster.workers], clients=3) as load:
        tables.kill("redis")
        time.sleep(20)
        tables.start("redis")
        if not cluster.head.runs("ray-head"):
            cluster.start_head()
        cluster.wait_until_running()
    assert load.failures() == {}
    assert cluster.replicas() == before
