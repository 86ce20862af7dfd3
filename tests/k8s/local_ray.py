"""A Ray head on this machine as in its pod: every port set, dashboard, autoscaler, token."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from k8s.monitor import Target
from tests.ports import free_port

PORTS = (
    *("gcs-server", "dashboard", "client", "serve", "metrics", "as-metrics", "dash-metrics"),
    *("agent", "agent-grpc", "runtime-env", "exporter", "training"),
)
"""As the head pod names them; the last ones are the node's own business, or ours."""


@dataclass(frozen=True, kw_only=True)
class LocalRay:
    """A head that runs."""

    folder: Path
    ports: Mapping[str, int]
    environment: Mapping[str, str]
    """For whoever joins it."""
    process: psutil.Process

    @property
    def metrics_dir(self) -> Path:
        """Where the processes of aigc keep their metrics."""
        return self.folder / "metrics"

    def address(self, port: str) -> str:
        """HOST:PORT of a named port."""
        return f"127.0.0.1:{self.ports[port]}"

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The dashboard's REST API, which KubeRay uses too."""
        token = {"authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        url = f"http://{self.address('dashboard')}{path}"
        return httpx.request(method, url, headers=token, timeout=60, **options)

    def deploy(self, args: Mapping[str, Any], artifacts: list[str]) -> None:
        """Serve these artifacts, and wait until they are; a second call changes what is served."""
        config = {
            "http_options": {"host": "127.0.0.1", "port": self.ports["serve"]},
            "applications": [
                {
                    "name": "aigc",
                    "import_path": "serve.app:build",
                    "args": {"metrics_dir": str(self.metrics_dir), **args},
                    "deployments": [{"name": "default", "user_config": {"artifacts": artifacts}}],
                }
            ],
        }
        assert self.ask("PUT", "/api/serve/applications/", json=config).status_code == 200
        deadline = time.monotonic() + 60
        status = ""
        while status != "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.2)
            application = self.ask("GET", "/api/serve/applications/").json()["applications"]["aigc"]
            status = application["status"]
            assert status != "DEPLOY_FAILED", application["message"]
        assert status == "RUNNING"

    def targets(self, *, training: bool) -> list[Target]:
        """Targets of Prometheus: the exporter, a driver of training if there is one, Ray."""
        ray = ("metrics", "as-metrics", "dash-metrics")
        driver = Target(address=self.address("training"), app="training", cluster="local")
        return [
            Target(address=self.address("exporter"), app="sampling", cluster="local"),
            *([driver] if training else []),
            *(
                Target(address=self.address(p), app="sampling", endpoint=p, cluster="local")
                for p in ray
            ),
        ]

    def child(self, name: str) -> psutil.Process:
        """A process of the head, by a part of its command line."""
        return next(p for p in self.process.children(True) if name in " ".join(p.cmdline()))


@contextmanager
def local_ray(num_cpus: int) -> Iterator[LocalRay]:
    """A head of its own ports, folder and token, gone at the end with all its processes."""
    folder = Path(tempfile.mkdtemp(prefix="aigc-"))  # pytest's own would be too long for sockets
    (folder / "metrics").mkdir()
    ports: dict[str, int] = {}
    while len(set(ports.values())) < len(PORTS):
        ports = {name: free_port() for name in PORTS}
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",  # its ports are everybody's, and here nobody measures
        "AUTOSCALER_METRIC_PORT": str(ports["as-metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dash-metrics"]),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--port={ports['gcs-server']}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}"]
    command += [f"--dashboard-agent-listen-port={ports['agent']}"]
    command += [f"--dashboard-agent-grpc-port={ports['agent-grpc']}"]
    command += [f"--runtime-env-agent-port={ports['runtime-env']}"]
    command += [f"--ray-client-server-port={ports['client']}"]
    command += [f"--metrics-export-port={ports['metrics']}", f"--num-cpus={num_cpus}"]
    command += ["--object-store-memory=100000000", f"--temp-dir={folder}"]
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    process = psutil.Process(started.pid)
    head = LocalRay(folder=folder, ports=ports, environment=environment, process=process)
    try:
        _wait_for_dashboard(head)
        yield head
    finally:
        processes = [process, *process.children(recursive=True)]
        for each in processes:
            with suppress(psutil.Error):
                each.kill()
        started.wait(10)
        _, alive = psutil.wait_procs(processes, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)
        assert alive == []


def _wait_for_dashboard(head: LocalRay) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and head.process.is_running():
        with suppress(httpx.HTTPError):
            if head.ask("GET", "/api/serve/applications/").status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"Ray did not start: {(head.folder / 'log').read_text()}")


@contextmanager
def running(
    head: LocalRay, *command: str, **environment: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """A module that runs beside a head, as a process that is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**head.environment, **environment},
        cwd=head.folder,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
