"""Deploys on two replicas without keys: at the same time, from other folders, by web pages."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from aigc.artifact import Store, manifest
from aigc.sealing import seal
from tests.sealing.foreign import upscaler
from tests.serve.artifacts import publish
from tests.serve.servers import Server, title, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

COUNT = 10
"""Deploys at the same time."""


class Deployed:
    """The server, and the artifacts that are deployed at the same time."""

    def __init__(self, server: Server, artifacts: list[str]) -> None:
        self.server = server
        self.url = server.url
        self.artifacts = artifacts

    def admin(self, verb: str, **body: Any) -> httpx.Response:
        """The answer, asked for again as long as the replica is busy with others."""
        while True:
            answer = httpx.post(f"{self.url}/v1/admin/{verb}", json=body, timeout=240)
            if answer.status_code != 503:
                return answer
            assert answer.json()["error"]["code"] in ("admin_busy", "config_unavailable")
            time.sleep(float(answer.headers["retry-after"]))

    def target(self) -> list[str]:
        found: list[str] = httpx.get(f"{self.url}/v1/admin/target", timeout=30).json()["artifacts"]
        return found

    def together(self, *calls: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
        """The answers to calls that are all made at the same time."""
        barrier = threading.Barrier(len(calls))

        def call(verb: str, body: dict[str, Any]) -> httpx.Response:
            barrier.wait()
            return self.admin(verb, **body)

        with ThreadPoolExecutor(len(calls)) as pool:
            return [*pool.map(lambda one: call(*one), calls)]

    def deploy_all(self) -> None:
        answers = self.together(*(("deploy", {"artifact": uri}) for uri in self.artifacts))
        assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers]
        assert set(self.artifacts) <= set(self.target())

    def remove_all(self) -> None:
        answers = self.together(*(("remove", {"model": f"d{i}"}) for i in range(COUNT)))
        assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers]
        assert not set(self.artifacts) & set(self.target())

    def writer(self) -> list[psutil.Process]:
        return [p for p in self.server.tree() if title(p).startswith("ray::TargetWriter")]


@pytest.fixture(scope="module")
def deployed(pair: Server, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    folder = tmp_path_factory.mktemp("deployed")
    store = Store(folder / "store")
    return Deployed(pair, [publish(store, folder / f"d{i}", f"d{i}", i) for i in range(COUNT)])


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_concurrent_deploys_are_all_kept(deployed: Deployed, rounds: int) -> None:
    for _ in range(rounds - 1):
        deployed.deploy_all()
        deployed.remove_all()
    deployed.deploy_all()
    wanted = {f"d{i}@1" for i in range(COUNT)}

    def listed() -> bool:
        found = httpx.get(f"{deployed.url}/v1/models", timeout=30).json()["data"]
        return wanted <= {model["id"] for model in found}

    # The proxy hands requests out in turn: both replicas.
    wait_until(lambda: all(listed() for _ in range(10)))
    deployed.remove_all()


def test_deploys_survive_kills_of_the_writer(deployed: Deployed) -> None:
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        while len(killed) < 3 and not stop.wait(0.1):
            for process in deployed.writer():
                if process.pid not in killed:
                    with suppress(psutil.Error):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        deployed.deploy_all()
    finally:
        stop.set()
        killer.join()
    assert killed
    deployed.remove_all()


def test_imported_artifact_is_deployed_and_removed(deployed: Deployed, tmp_path: Path) -> None:
    path = upscaler(tmp_path / "u.onnx")
    uri = seal(path, name="large", store=tmp_path / "store", range="0..1")
    answer = deployed.admin("deploy", artifact=uri)
    assert answer.status_code == 200, answer.text

    def listed() -> bool:
        models = httpx.get(f"{deployed.url}/v1/models", timeout=30).json()["data"]
        found = [(m["family"], m["licence"]) for m in models if m["id"] == "large@1"]
        return found == [("imported", "unstated")]

    wait_until(listed)
    assert deployed.admin("remove", model="large").status_code == 200


def reseal(folder: Path, **changes: Any) -> str:
    """Change an artifact's manifest and seal it again; its digest."""
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes()) | changes
    document.pop("digest")
    document["digest"] = manifest.digest(document)
    path.write_text(json.dumps(document))
    found: str = document["digest"]
    return found


def command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "aigc.cli", "deploy", *arguments],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_deploy_command_resolves_relative_paths_and_the_server_refuses_them(
    deployed: Deployed, tmp_path: Path
) -> None:
    publish(Store(tmp_path / "store"), tmp_path / "build", "near", 3)
    digest = reseal(tmp_path / "store" / "near" / "1", licence="MIT")
    done = command("store/near", "--url", deployed.url, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "near@1\n"), done.stderr
    assert f"{tmp_path}/store/near/1" in deployed.target()
    answer = httpx.get(f"{deployed.url}/v1/models/near").json()
    assert (answer["digest"], answer["licence"]) == (digest, "MIT")
    done = command("store/far", "--url", deployed.url, folder=tmp_path)
    assert done.returncode == 1
    assert "a relative path is of this machine" in done.stderr
    answer = deployed.admin("deploy", artifact="store/near")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "artifact_relative"
    assert deployed.admin("remove", model="near").status_code == 200


def test_deploy_refuses_another_digest(deployed: Deployed) -> None:
    before = deployed.target()
    answer = deployed.admin("deploy", artifact=deployed.artifacts[0], digest="0" * 64)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "artifact_differs"
    assert deployed.target() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "0.0.0.0"},
        {"host": "10.0.0.1"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=lambda headers: next(iter(headers.values())),
)
def test_admin_routes_refuse_pages_of_other_sites(
    deployed: Deployed, headers: dict[str, str]
) -> None:
    before = deployed.target()
    for method, path, body in (
        ("GET", "target", None),
        ("POST", "deploy", {"artifact": deployed.artifacts[0]}),
        ("POST", "remove", {"model": "tiny"}),
        ("POST", "pin", {"model": "tiny", "version": "1"}),
    ):
        url = f"{deployed.url}/v1/admin/{path}"
        answer = httpx.request(method, url, json=body, headers=headers, timeout=30)
        assert answer.status_code == 403, answer.text
        assert answer.json()["error"]["code"] == "foreign_sender"
    assert deployed.target() == before


def test_admin_routes_admit_the_own_page_and_names_of_loopback(deployed: Deployed) -> None:
    port = deployed.url.rpartition(":")[2]
    for headers in (
        {"host": f"localhost:{port}", "origin": f"http://localhost:{port}"},
        {"host": f"127.0.0.1:{port}", "sec-fetch-site": "same-origin"},
        {"host": f"[::1]:{port}"},
        {"host": "LOCALHOST"},
        {"host": "127.1.2.3:80"},
    ):
        answer = httpx.get(f"{deployed.url}/v1/admin/target", headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
