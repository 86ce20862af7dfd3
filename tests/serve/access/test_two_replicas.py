"""Two replicas with keys: one budget, new keys and versions for both, and what one cannot end."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc

from aigc.artifact import Store
from serve.access.api_keys import CreateKey, key_entry
from serve.hosting.deploy import command as deploy
from tests.ports import free_port
from tests.serve.artifacts import publish
from tests.serve.faulty import BAD_LABEL, publish_faulty
from tests.serve.servers import Server, server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

RATE, BURST = 300.0, 300
LIMITED, FREE, ADMIN = (f"aigc_secret_of_{name}" for name in ("limited", "free", "admin"))


REFUSED = "a changed keys file is refused"
CONFIG = """
keys: {keys}
logs: json
pools:
  default:
    artifacts: [{tiny}, {looper}]
    replicas: 2
    cpus: 0.5
    limits: {{max_batch_seconds: 3}}
"""


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A server, its gRPC port, its keys file, and the versions of `tiny`."""

    server: Server
    grpc_port: int
    versions: list[str]
    keys: Path

    @property
    def url(self) -> str:
        return self.server.url


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """tiny@1, and looper@1, whose label BAD_LABEL loops for ever."""
    folder = tmp_path_factory.mktemp("guarded")
    store = Store(folder / "store")
    versions = [publish(store, folder / f"v{seed}", "tiny", seed) for seed in (1, 2, 3)]
    looper = publish_faulty(store, folder / "looper", "looper", "loop")
    keys, file = folder / "keys.toml", folder / "serve.yaml"
    limited = CreateKey(action="new", name="limited", samples_per_s=RATE, burst=BURST)
    keys.write_text(
        key_entry(limited, LIMITED)
        + key_entry(CreateKey(action="new", name="free"), FREE)
        + key_entry(CreateKey(action="new", name="admin", scope=("admin",)), ADMIN)
    )
    file.write_text(CONFIG.format(keys=keys, tiny=versions[0], looper=looper))
    port = free_port()
    with server(folder, "--config", str(file), "--grpc-port", str(port)) as running:
        running.wait_until_ready()
        yield Guarded(server=running, grpc_port=port, versions=versions, keys=keys)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def pixels(guarded: Guarded, model: str) -> bytes:
    body = {"model": model, "n": 4, "seed": 7, "format": "npy"}
    answer = httpx.post(f"{guarded.url}/v1/samples", json=body, headers=bearer(FREE))
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_budget_holds_over_both_replicas(guarded: Guarded) -> None:
    seconds = 5.0
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
    assert drawn <= 1.1 * allowed, (drawn, allowed, replicas)
    # How near it comes depends on the machine; tests/serve/access/test_rate_ledger.py is exact.
    assert drawn >= 0.75 * allowed, (drawn, allowed, replicas)


def test_grpc_needs_the_same_keys(guarded: Guarded) -> None:
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
            wait_until(lambda: guarded.server.total("aigc_refused_keys_total") >= 2, 30)
            wait_until(lambda: REFUSED in guarded.server.stderr, 10)
            (line, *_) = (x for x in guarded.server.stderr.splitlines() if REFUSED in x)
            assert json.loads(line)["level"] == "ERROR"
        until("aigc_secret_of_guest", status)
    until(FREE, 200)


def test_deploy_needs_a_key_with_the_scope_admin(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, reason in (("", "wants a key"), (FREE, "needs the scope 'admin'")):
        monkeypatch.setenv("AIGC_KEY", key)
        with pytest.raises(ValueError, match=reason):
            deploy([guarded.versions[1], "--url", guarded.url])


def test_versions_change_under_load_without_a_failed_request(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIGC_KEY", ADMIN)
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

    async def change() -> None:
        """Forth and back; what is older than the newest is named by a pin."""
        for words in (
            (guarded.versions[1], "--keep", "3"),
            (guarded.versions[2], "--keep", "3"),
            ("--pin", "tiny@1"),
            (guarded.versions[1], "--keep", "3"),
        ):
            assert await asyncio.to_thread(deploy, [*words, "--url", guarded.url]) == 0

    async def under_load() -> None:
        clients = [asyncio.create_task(ask()) for _ in range(6)]
        try:
            await change()
        finally:
            stop.set()
            await asyncio.gather(*clients)

    asyncio.run(under_load())
    assert set(codes) == {200}, codes
    assert sum(codes.values()) > 200
    replicas = {replica for replica, _ in said}
    assert {model for _, model in said} == {"tiny@1", "tiny@2", "tiny@3"}
    assert len(replicas) == 2, "no replica was replaced"
    assert pixels(guarded, "tiny@1") == exact == pixels(guarded, "tiny")


def test_deploy_of_a_broken_candidate_changes_nothing(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIGC_KEY", ADMIN)
    with pytest.raises(ValueError, match=r"\A.+ is refused, what is served stays.+\Z"):
        deploy([str(tmp_path), "--url", guarded.url])
    assert pixels(guarded, "tiny@1")


def test_a_run_without_end_takes_one_replica_with_it(guarded: Guarded) -> None:
    """The second replica never sees what held up the first."""
    running = guarded.server

    def ask(label: int) -> httpx.Response:
        fields = {"model": "looper", "label": label, "seed": 7, "format": "npy"}
        return running.post(headers=bearer(FREE), **fields)

    def survivors() -> set[int]:
        return {one.pid for one in running.replicas()} & before

    before = {one.pid for one in running.replicas()}
    starts = running.total("aigc_replica_starts_total")
    looping = ask(BAD_LABEL)
    assert (looping.status_code, looping.json()["error"]["code"]) == (504, "run_too_long")
    assert "x-aigc-replica" not in looping.headers
    answers: list[httpx.Response] = []

    def is_replaced() -> bool:
        answers.append(ask(0))
        return len(survivors()) < 2 and len(answers) >= 50

    wait_until(is_replaced, 90, "the replacement of the replica")
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert all(one.headers["retry-after"] for one in answers if one.status_code == 503)
    assert len(survivors()) == 1, "one never noticed"
    assert running.total("aigc_runs_too_long_total", "model=looper") == 1
    assert running.total("aigc_requests_total", "code=504") == 1
    running.wait_until_replaced()
    assert running.total("aigc_replica_starts_total") == starts + 1
