"""`make monitor`: a Prometheus with our rules, scraping the processes of this machine.

    python -m k8s.monitor                     # finds `aigc serve`, `aigc metrics`, `aigc train`
    python -m k8s.monitor 127.0.0.1:9464      # or scrapes these addresses

It listens on loopback only, keeps its data in a temporary folder and ends with Ctrl-C. Targets get
the labels that the PodMonitor copies from pods, so the same alerts hold.
"""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from aigc.files import write

RULES = Path(__file__).parent / "components" / "monitoring" / "rules.yaml"
PORT = 9090
INTERVAL_S = 5
START_S = 30.0
"""Longest that Prometheus may take to be ready."""
MAX_BYTES = 1 << 24
"""Longest answer of a port that may be a target."""

SHOWN = (
    "namespace_model:aigc_requests:rate5m",
    "namespace_model:aigc_request_duration_seconds:p95_5m",
    "namespace_model:aigc_samples:rate5m",
    "aigc_ready",
)
"""Expressions on the printed page of Prometheus."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something to scrape, with the labels that it would have in Kubernetes."""

    address: str
    """HOST:PORT."""
    app: str = ""
    """sampling or training: what app.kubernetes.io/name would say."""
    endpoint: str = "aigc-metrics"
    """Name of the port."""
    cluster: str = ""
    """Name of the Ray cluster, if it is one that shows Ray's own metrics."""

    def document(self) -> dict[str, Any]:
        """Entry of file_sd_configs."""
        labels = {
            "namespace": "local",
            "endpoint": self.endpoint,
            "app_kubernetes_io_name": self.app,
            "ray_io_cluster": self.cluster,
        }
        return {"targets": [self.address], "labels": {k: v for k, v in labels.items() if v}}


def rules() -> dict[str, Any]:
    """The groups of the PrometheusRule: what a rules file of Prometheus holds."""
    document: dict[str, Any] = yaml.safe_load(RULES.read_text())["spec"]
    return document


def find() -> list[Target]:
    """Every process of ours on this machine that shows metrics."""
    targets = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            command = process.cmdline()
            if not _shows_metrics(command):
                continue
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    target = look(f"127.0.0.1:{connection.laddr.port}")
                    targets += [target] if target else []
    return sorted(set(targets), key=lambda target: target.address)


def _shows_metrics(command: Sequence[str]) -> bool:
    if "aigc.prometheus.exporter" in command:
        return True
    ours = any(part == "aigc.cli" or Path(part).name == "aigc" for part in command[:4])
    return ours and ("train" in command or "metrics" in command)


def look(address: str) -> Target | None:
    """The target at HOST:PORT; None if it has no metrics of ours."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            text = answer.read(MAX_BYTES).decode()
    except (OSError, ValueError, http.client.HTTPException):  # the last: it speaks no HTTP
        return None
    if "aigc_" not in text:
        return None
    app = "sampling" if "aigc_replicas" in text else "training"
    return Target(address=address, app=app)


@contextmanager
def prometheus(
    folder: Path, targets: Sequence[Target], *, port: int, interval_s: int = INTERVAL_S
) -> Iterator[str]:
    """A Prometheus with our rules, its files in `folder`; gives its URL.

    `watch` tells it of other targets. Raises ValueError if it is not installed or does not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise ValueError("there is no prometheus here; on Debian: apt-get install prometheus")
    watch(folder, targets)
    (folder / "rules.yml").write_text(json.dumps(rules()))  # JSON is YAML
    discovery = {"files": [str(folder / "targets.json")], "refresh_interval": "2s"}
    config = {
        "global": {"scrape_interval": f"{interval_s}s", "evaluation_interval": f"{interval_s}s"},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [{"job_name": "aigc", "file_sd_configs": [discovery]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [program, f"--config.file={folder / 'prometheus.yml'}", "--log.level=error"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def watch(folder: Path, targets: Sequence[Target]) -> None:
    """Have the Prometheus of this folder scrape these, within seconds."""
    write(folder / "targets.json", json.dumps([each.document() for each in targets]).encode())


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with (
            suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(f"{url}/-/ready", timeout=5),
        ):
            return
        time.sleep(0.1)
    raise ValueError("prometheus did not start; its message is above")


def page(url: str) -> str:
    """A page of Prometheus with what matters first."""
    fields: dict[str, str] = {}
    for number, expression in enumerate(SHOWN):
        fields |= {f"g{number}.expr": expression, f"g{number}.tab": "0"}
        fields |= {f"g{number}.range_input": "15m"}
    return f"{url}/graph?{urllib.parse.urlencode(fields)}"


def _free_port(port: int) -> int:
    """This port, or any other if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for candidate in (port, 0):
            with suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                return int(probe.getsockname()[1])
    raise ValueError("there is no free port on 127.0.0.1")


def main(addresses: Sequence[str]) -> int:
    """Watch until Ctrl-C and return 0; return 1, with the reason, if nothing can be watched."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="aigc-monitor-") as folder:
        try:
            targets = _targets(addresses)
            with prometheus(Path(folder), targets, port=_free_port(PORT)) as url:
                shown = ", ".join(f"{target.app} at {target.address}" for target in targets)
                print(f"\n  watching {shown}\n\n  graphs   {page(url)}\n", file=sys.stderr)
                print(f"  alerts   {url}/alerts\n  Ctrl-C stops.\n", file=sys.stderr)
                print(url, flush=True)
                while True:
                    time.sleep(INTERVAL_S)
                    now = targets if addresses else find()
                    if now != targets:
                        targets = now
                        watch(Path(folder), targets)
        except KeyboardInterrupt:
            return 0
        except ValueError as error:
            print(f"monitor: {error}", file=sys.stderr)
            return 1


def _targets(addresses: Sequence[str]) -> list[Target]:
    """The targets at these addresses, by default all of this machine. Raises ValueError if none."""
    if not addresses:
        found = find()
        if not found:
            raise ValueError(
                "nothing of aigc runs on this machine; start `make demo`, `aigc serve ARTIFACT` or"
                " `aigc train ... --metrics-port 0` first, or say TARGETS=HOST:PORT"
            )
        return found
    targets = {address: look(address) for address in addresses}
    silent = [address for address, target in targets.items() if target is None]
    if silent:
        raise ValueError(f"{silent[0]} shows no metrics of aigc; name what `aigc serve` printed")
    return [target for target in targets.values() if target]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
