"""`aigc serve` as a user runs it, on a machine that has only the packages of serving."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from aigc.watchdog import RUN_FOLDER
from tests.ports import free_port

WITHOUT_TRAINING = Path(__file__).parents[1] / "without_training"
"""A folder for PYTHONPATH that hides packages which only training brings."""


Metrics = dict[tuple[str, ...], float]
"""Values by name and labels, each as `label=value`."""


class Server:
    """A running `aigc serve`."""

    def __init__(
        self, folder: Path, *arguments: str, module: Sequence[str] = ("aigc.cli", "serve")
    ) -> None:
        """`module`: what takes the place of the command, and its own arguments."""
        folder.mkdir(exist_ok=True)
        self.torch_log = folder / "torch.log"
        self.stderr_file = folder / "stderr"
        self.port = free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(WITHOUT_TRAINING),
            "NO_TORCH_LOG": str(self.torch_log),
        }
        environment.pop("RAY_AUTH_MODE", None)  # the command must turn it on by itself
        command = [sys.executable, "-m", *module, *arguments]
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--metrics-port", "0"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def wait_until_ready(self) -> str:
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.stderr
        found = re.search(r"metrics\s+(http\S+)", self.stderr)
        assert found, self.stderr
        self.metrics_url = found[1]
        return self.url

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self) -> list[psutil.Process]:
        return [p for p in self.tree() if title(p).startswith("ray::ServeReplica")]

    def run_folder(self) -> str:
        """The folder of this run."""
        folders = set()
        for process in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # one that ended, and was not waited for yet
                folders.add(process.environ().get(RUN_FOLDER))
        (folder,) = folders - {None}
        assert folder is not None
        return folder

    def metrics(self) -> Metrics:
        body = httpx.get(self.metrics_url).text
        return {
            (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }

    def total(self, name: str, *labels: str, among: Metrics | None = None) -> float:
        """Sum over all other labels, as shown now or in `among`."""
        found = self.metrics() if among is None else among
        return sum(v for key, v in found.items() if key[0] == name and set(labels) <= set(key))

    def post(
        self, path: str = "/v1/samples", headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=fields, headers=headers, timeout=60)

    def wait_until_replaced(self, replicas: int = 2) -> None:
        """Until as many replicas as before are ready; called when one of them is dead."""
        wait_until(
            lambda: len(self.replicas()) == replicas == self.total("aigc_ready"),
            60,
            "the replacement of a replica",
        )

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit status, rest of stdout)."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, rest


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""


@contextmanager
def server(
    folder: Path, *arguments: str, module: Sequence[str] = ("aigc.cli", "serve")
) -> Iterator[Server]:
    running = Server(folder, *arguments, module=module)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
        if running.process.stdout is not None:
            running.process.stdout.close()


def wait_until(what: Callable[[], object], within_s: float = 60, name: str = "it") -> None:
    """Fails when this does not become true."""
    deadline_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline_s, f"{name} did not come to pass"
        time.sleep(0.1)


def left_over(folder: str) -> list[str]:
    """Command lines of processes of a run's folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.environ().get(RUN_FOLDER) == folder or folder in line:
                found.append(line)
    return found
