"""Two real replicas with keys: one budget for both, and versions that change under load."""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc

from aigc.artifact import Store
from serve.access.api_keys import CreateKey, key_entry
from tests.ports import free_port
from tests.serve.artifacts import publish
from tests.serve.test_server import Server, server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

RATE, BURST = 300.0, 300
LIMITED, FREE, ADMIN = (f"aigc_secret_of_{name}" for name in ("limited", "free", "admin"))


class Guarded:
    """A server, its gRPC port, and where its artifacts lie."""

    def __init__(self, server: Server, grpc_port: int, versions: list[str], keys: Path) -> None:
        self.keys = keys
        self.server = server
        self.url = server.url
        self.grpc_port = grpc_port
        self.versions = versions

    def command(self, *arguments: str, key: str = ADMIN) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "aigc.cli", *arguments],
            env=os.environ | {"AIGC_KEY": key},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    store = Store(folder / "store")
    versions = [publish(store, folder / f"v{seed}", "tiny", seed) for seed in (1, 2, 3)]
    keys = folder / "keys.toml"
    limited = CreateKey(action="new", name="limited", samples_per_s=RATE, burst=BURST)
    keys.write_text(
        key_entry(limited, LIMITED)
        + key_entry(CreateKey(action="new", name="free"), FREE)
        + key_entry(CreateKey(action="new", name="admin", scope=("admin",)), ADMIN)
    )
    port = free_port()
    arguments = [versions[0], "--replicas", "2", "--keys", str(keys), "--grpc-port", str(port)]
    with server(folder, *arguments) as running:
        running.wait_until_ready()
        yield Guarded(running, port, versions, keys)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def pixels(guarded: Guarded, model: str) -> bytes:
    body = {"model": model, "n": 4, "seed": 7, "format": "npy"}
    answer = httpx.post(f"{guarded.url}/v1/samples", json=body, headers=bearer(FREE))
    assert answer.status_code == 200, answer.text
    return answer.content


def test_one_budget_holds_for_both_replicas(guarded: Guarded) -> None:
    seconds = 6.0
    drawn, codes, replicas = 0, Counter[int](), Counter[str]()

    async def ask(until: float) -> None:
        nonlocal drawn
        # A connection per client, which the proxy keeps on one replica or the other.
        async with httpx.AsyncClient(headers=bearer(LIMITED)) as client:
            while time.monotonic() < until:
                body = {"model": "tiny", "n": 5, "format": "npy"}
                answer = await client.post(f"{guarded.url}/v1/samples", json=body)
                codes[answer.status_code] += 1
                if answer.status_code == 200:
                    drawn += 5
                    replicas[answer.headers["x-aigc-replica"]] += 5
                else:
                    assert answer.json()["error"]["code"] == "rate_limited"
                    await asyncio.sleep(0.02)

    async def crowd() -> float:
        began = time.monotonic()
        await asyncio.gather(*(ask(began + seconds) for _ in range(8)))
        return time.monotonic() - began

    took = asyncio.run(crowd())
    allowed = BURST + RATE * took
    assert set(codes) == {200, 429}
    assert len(replicas) == 2
    assert 0.9 * allowed <= drawn <= 1.1 * allowed, (drawn, allowed, replicas)


def test_grpc_asks_for_the_same_keys(guarded: Guarded) -> None:
    client: Any = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{guarded.grpc_port}")
    with pytest.raises(Exception, match="UNAUTHENTICATED"):
        client.get_model_metadata("tiny")
    with pytest.raises(Exception, match="PERMISSION_DENIED"):
        client.infer("tiny", [], headers=bearer(ADMIN), parameters={"seed": 7})
    answer = client.infer("tiny", [], headers=bearer(FREE), parameters={"seed": 7, "n": 4})
    assert answer.as_numpy("pixels").shape == (4, 8, 8, 1)
    assert grpc.__version__


def test_a_changed_keys_file_reaches_both_replicas(guarded: Guarded) -> None:
    def until(secret: str, status: int) -> None:
        """Connections are handed out in turn, so that twenty of them reach both replicas."""
        deadline, row = time.monotonic() + 30, 0
        while row < 20:
            answer = httpx.get(f"{guarded.url}/v1/models", headers=bearer(secret))
            row = row + 1 if answer.status_code == status else 0
            assert time.monotonic() < deadline, answer.text

    before = guarded.keys.read_text()
    until("aigc_secret_of_guest", 401)
    fresh = guarded.keys.with_suffix(".new")
    for text, status in (
        (before + key_entry(CreateKey(action="new", name="guest"), "aigc_secret_of_guest"), 200),
        ("[[key]", 200),
        (before, 401),
    ):
        fresh.write_text(text)
        fresh.rename(guarded.keys)
        if text == "[[key]":
            deadline = time.monotonic() + 30
            while guarded.server.total("aigc_refused_keys_total") < 2:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        until("aigc_secret_of_guest", status)
    until(FREE, 200)


def test_the_wrong_key_deploys_nothing(guarded: Guarded) -> None:
    for key, reason in (("", "wants a key"), (FREE, "needs the scope 'admin'")):
        done = guarded.command("deploy", guarded.versions[1], "--url", guarded.url, key=key)
        assert done.returncode != 0
        assert reason in done.stderr


def test_versions_change_under_load_and_no_request_fails(guarded: Guarded) -> None:
    exact = pixels(guarded, "tiny@1")
    codes: Counter[int] = Counter()
    said: Counter[tuple[str, str]] = Counter()
    stop = asyncio.Event()

    async def ask() -> None:
        transport = httpx.AsyncHTTPTransport(retries=0)
        async with httpx.AsyncClient(headers=bearer(FREE), transport=transport) as client:
            while not stop.is_set():
                body = {"model": "tiny", "n": 2, "seed": 7, "format": "npy"}
                answer = await client.post(f"{guarded.url}/v1/samples", json=body)
                codes[answer.status_code] += 1
                said[answer.headers["x-aigc-replica"], answer.headers["x-aigc-model"]] += 1

    async def deploy() -> list[str]:
        """Forth and back, five times; what each said it deployed."""
        found = []
        for number in range(5):
            uri = guarded.versions[1 + number % 2]
            done = await asyncio.to_thread(
                guarded.command, "deploy", uri, "--url", guarded.url, "--keep", "3"
            )
            assert done.returncode == 0, done.stderr
            found.append(done.stdout.strip())
            if number == 3:  # what is older than the newest is named by a pin
                done = await asyncio.to_thread(
                    guarded.command, "deploy", "--pin", "tiny@1", "--url", guarded.url
                )
                assert done.returncode == 0, done.stderr
        return found

    async def under_load() -> list[str]:
        clients = [asyncio.create_task(ask()) for _ in range(6)]
        try:
            return await deploy()
        finally:
            stop.set()
            await asyncio.gather(*clients)

    assert asyncio.run(under_load()) == ["tiny@2", "tiny@3", "tiny@2", "tiny@3", "tiny@2"]
    assert set(codes) == {200}, codes
    assert sum(codes.values()) > 200
    replicas = {replica for replica, _ in said}
    assert {model for _, model in said} == {"tiny@1", "tiny@2", "tiny@3"}
    assert len(replicas) == 2, "no replica was replaced"
    assert pixels(guarded, "tiny@1") == exact == pixels(guarded, "tiny")


def test_a_candidate_that_is_broken_is_refused_in_one_sentence(
    guarded: Guarded, tmp_path: Path
) -> None:
    done = guarded.command("deploy", str(tmp_path), "--url", guarded.url)
    assert done.returncode != 0
    assert "is refused, what is served stays" in done.stderr
    assert "Traceback" not in done.stderr
    assert pixels(guarded, "tiny@1")
