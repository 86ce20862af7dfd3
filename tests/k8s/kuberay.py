"""Ray clusters of the manifests on this machine: pods of namespaces, started as KubeRay does it.

What KubeRay 1.7 adds to a pod is repeated here: the command line from rayStartParams and limits,
the token, the addresses, the probes. Its autoscaler, which asks the API server, is left out.
"""

import concurrent.futures
import copy
import os
import secrets as random
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from tests.k8s.pod import WITHOUT_TRAINING, Network, Pod, until
from tests.k8s.rendered import Object, find, told

RAYLET = "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
GCS = "wget --tries 1 -T 10 -q -O- http://localhost:8265/api/gcs_healthz | grep success"
PROXY = "wget --tries 1 -T 10 -q -O- http://localhost:8000/-/healthz | grep success"
"""Commands of KubeRay's probes, for bash: on all, on heads, and on workers of a RayService."""


PATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
"""Environment of workers: a head that went comes back."""

PASSWORD = random.token_hex(32)
"""Password of Redis, as its manifest says how to make one."""


class RayCluster:
    """A head and workers, as many as the manifests start with unless `workers` says otherwise.

    With `redis` the GCS keeps its tables there; without, it forgets.
    """

    def __init__(
        self,
        network: Network,
        objects: list[Object],
        cluster: Mapping[str, Any],
        *,
        claims: Mapping[str, Path],
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        workers: int | None = None,
        redis: Pod | None = None,
    ) -> None:
        (self._group,) = cluster["workerGroupSpecs"]
        self._head_group = cluster["headGroupSpec"]
        assert cluster["authOptions"] == {"mode": "token"}
        self.token = random.token_hex(32)
        with ExitStack() as pods:

            def pod(template: Mapping[str, Any]) -> Pod:
                made = network.pod(objects, template, claims=claims, secrets=secrets)
                return pods.enter_context(made)

            self.head = pod(self._head_group["template"])
            number = self._group["replicas"] if workers is None else workers
            self.workers = [pod(self._group["template"]) for _ in range(number)]
            self._pods = pods.pop_all()
        self.dashboard = f"http://{self.head.ip}:8265"
        self._tables: dict[str, str] = {}
        if redis is not None:
            options = cluster["gcsFaultToleranceOptions"]
            host = told(objects, self.head.container("ray-head"))["REDIS_HOST"]
            self._tables = {
                "RAY_REDIS_ADDRESS": options["redisAddress"].replace("$(REDIS_HOST)", host),
                "RAY_external_storage_namespace": self.head.name,
                "REDIS_PASSWORD": PASSWORD,
            }
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pods.close()

    def start(self) -> None:
        """Start all pods; returns when the probes of all nodes pass."""
        self.head.init()
        self.start_head()
        for worker in self.workers:
            worker.init()
            address = f"--address={self.head.ip}:6379"
            self._start(worker, "ray-worker", self._group, address, **PATIENT)
        for worker in self.workers:
            self._wait(worker, "ray-worker", RAYLET)

    def start_head(self) -> None:
        """The head's container, for the first time or again; returns when its probes pass."""
        first = "--head --dashboard-host=0.0.0.0"
        if self._tables:
            first += ' --redis-password="$REDIS_PASSWORD"'
        self._start(self.head, "ray-head", self._head_group, first, **self._tables)
        self._wait(self.head, "ray-head", f"{RAYLET} && {GCS}")

    def _start(
        self, pod: Pod, name: str, group: Mapping[str, Any], first: str, **variables: str
    ) -> None:
        words = dict(group["rayStartParams"])
        words["memory"] = str(_bytes(pod.container(name)["resources"]["limits"]["memory"]))
        flags = " ".join(f"--{key}={value}" for key, value in words.items())
        ports = "--dashboard-agent-listen-port=52365 --metrics-export-port=8080"
        line = f"ulimit -n 65536; ray start {first} --block {ports} {flags}"
        command = ["/bin/bash", "-c", "--", line]
        variables |= self.environment | {"RAY_ADDRESS": f"{self.head.ip}:6379"}
        pod.start(name, command, **variables)

    def _wait(self, pod: Pod, name: str, probe: str) -> None:
        until(
            lambda: passes(pod, name, probe),
            90,
            lambda: f"{name} is not ready: {pod.log(name).read_text()[-3000:]}",
        )

    def applications(self) -> dict[str, Any]:
        """Serve's status from the dashboard, requested as KubeRay does."""
        answer = httpx.get(
            f"{self.dashboard}/api/serve/applications/",
            headers={"authorization": f"Bearer {self.token}"},
            timeout=30,
        )
        answer.raise_for_status()
        return dict(answer.json())

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """One of Ray's commands, told of this cluster."""
        return subprocess.run(
            [sys.executable, "-m", *words, "--address", self.dashboard],
            env=os.environ | self.environment | {"PYTHONPATH": str(WITHOUT_TRAINING)},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def deploy(self, config: str, folder: Path) -> None:
        """`serve deploy`; it says nothing of what comes of it, so that is asked for."""
        file = folder / "serve.yaml"
        file.write_text(config)
        done = self.command("ray.serve.scripts", "deploy", str(file))
        assert done.returncode == 0, done.stderr

        self.wait_until_running()

    def wait_until_running(self) -> None:
        """Until Serve says so of its application, and every worker is ready for requests."""
        until(lambda: self._running(), 120, lambda: f"{self.applications()}")
        for worker in self.workers:
            self._wait(worker, "ray-worker", f"{RAYLET} && {PROXY}")

    def _running(self) -> bool:
        (application,) = self.applications()["applications"].values()
        deployments = {one["status"] for one in application["deployments"].values()}
        return (application["status"], deployments) == ("RUNNING", {"HEALTHY"})

    def replicas(self) -> dict[str, str]:
        """The address of each replica that runs, by its name."""
        (application,) = self.applications()["applications"].values()
        (deployment,) = application["deployments"].values()
        running = (each for each in deployment["replicas"] if each["state"] == "RUNNING")
        return {each["replica_id"]: each["node_ip"] for each in running}

    def delete(self) -> dict[str, float]:
        """End all pods at once, as the deletion of a RayCluster does; seconds after preStop."""
        named = [("ray-head", self.head), *(("ray-worker", worker) for worker in self.workers)]
        with concurrent.futures.ThreadPoolExecutor(len(named)) as each:
            ended = [(pod.name, each.submit(pod.stop, name)) for name, pod in named]
        return {name: future.result() for name, future in ended}


def redis(network: Network, objects: list[Object]) -> Pod:
    """The StatefulSet's pod, under its Service's name."""
    template = copy.deepcopy(find(objects, "StatefulSet", "redis")["spec"]["template"])
    template["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
    pod = network.pod(objects, template, secrets={"redis-password": {"password": PASSWORD}})
    network.names["redis"] = pod.ip
    return pod


def new_key() -> tuple[str, str]:
    """The secret and the entry of a keys file of `aigc keys new`."""
    command = [sys.executable, "-m", "aigc.cli", "keys", "new", "tests"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip(), done.stderr


def passes(pod: Pod, container: str, probe: str) -> bool:
    """True if a probe passes."""
    return pod.execute(container, ["bash", "-c", probe]).returncode == 0


def _bytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) << 30
