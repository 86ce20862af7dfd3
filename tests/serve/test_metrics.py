"""Every metric is documented, moves, and has no more series than it should."""

import asyncio
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from aigc.artifact import ArtifactError
from aigc.prometheus import exporter, scrape
from serve.access.api_keys import CreateKey, key_entry
from serve.access.rate_ledger import Ledger
from serve.access.rate_limiter import in_process
from serve.ingress import IngressReplica
from serve.metrics import Metrics
from serve.settings import Limits, Settings
from tests.serve.artifacts import WORDS_LENGTH
from tests.serve.client import Client, running
from tests.serve.listening import Gate, Listening

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving-reference.md"
ALICE, BOB = "aigc_secret_of_alice", "aigc_secret_of_bob"
KEYS = key_entry(CreateKey(action="new", name="alice", samples_per_s=10.0, burst=20), ALICE)
KEYS += "\n" + key_entry(CreateKey(action="new", name="bob"), BOB)

Values = dict[tuple[str, ...], float]


def values(metrics: Metrics) -> Values:
    """Every series by its name and its labels in the order of their names."""
    return {
        (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def total(found: Values, name: str, *labels: str) -> float:
    return sum(v for key, v in found.items() if key[0] == name and set(labels) <= set(key))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    file.write_text(KEYS)
    return file


@pytest.fixture
def client(metrics_dir: Path, keys: Path) -> Iterator[Client]:
    """A replica with keys that costs 3600 an hour and has loaded nothing yet."""
    settings = Settings(
        metrics_dir=str(metrics_dir),
        keys=str(keys),
        price_per_replica_hour=3600.0,
        limits=Limits(max_n=100, max_queue=100),
    )
    with running(
        lambda: IngressReplica(settings, "replica-7", None, in_process(Ledger()))
    ) as client:
        yield client


def draw(client: Client, n: int, secret: str = BOB, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "n": n, "format": "npy", **fields}
    headers = {"authorization": f"Bearer {secret}"}
    return client.request("POST", "/v1/samples", json=body, headers=headers)


def test_every_metric_moves(
    client: Client, store: Path, words: str, keys: Path, metrics_dir: Path
) -> None:
    replica, probe, seen = (
        client.replica,
        client.probe,
        defaultdict[str, set[tuple[float, ...]]](set),
    )

    def look() -> Values:
        found = values(probe.metrics)
        for family in probe.metrics.registry.collect():
            names = {sample.name for sample in family.samples}
            seen[family.name].add(tuple(v for key, v in found.items() if key[0] in names))
        return found

    async def held() -> None:
        """One request in the graph and one in the queue."""
        gate = Gate(probe, free=0)
        asked = [asyncio.create_task(ask(client, BOB, 3))]
        while gate.runs != 1:
            await asyncio.sleep(0.001)
        asked.append(asyncio.create_task(ask(client, BOB, 3)))
        while probe.queued != 3:
            await asyncio.sleep(0.001)
        now = look()
        assert total(now, "aigc_queue_samples") == 3
        assert total(now, "aigc_max_queue_samples") == 100
        assert total(now, "aigc_requests_in_progress") == 2
        gate.open.set()
        assert await asyncio.gather(*asked) == [200, 200]

    async def refused_load() -> None:
        await replica.configure({"artifacts": [f"{store}/none"]})
        await probe.loaded()

    look()
    client.run(replica.configure({"artifacts": [f"{store}/tiny@1", words]}))
    client.run(held())
    assert draw(client, 20, ALICE).status_code == 200
    assert draw(client, 3, model="words").status_code == 200
    assert draw(client, 20, ALICE).status_code == 429
    client.run(refused_load())
    keys.write_text("[[key]")
    metrics_dir.rename(metrics_dir.with_name("elsewhere"))
    metrics_dir.write_text("no folder")
    client.run(replica.tend())
    found = look()
    assert total(found, "aigc_metrics_lost") == 1
    assert total(found, "aigc_cost_total") > 0
    metrics_dir.unlink()
    client.run(replica.tend())
    assert total(look(), "aigc_metrics_lost") == 0
    replica.close()
    look()
    still = {name for name, snapshots in seen.items() if len(snapshots) == 1}
    assert still == {"aigc_replica_starts", "aigc_max_replicas"}, "what is true once and for all"
    found = values(probe.metrics)
    assert total(found, "aigc_replica_starts_total") == 1
    assert total(found, "aigc_max_replicas") == 1
    one = ("model=tiny", "version=1")
    assert total(found, "aigc_requests_total", *one, "code=200", "api=native") == 3
    assert total(found, "aigc_time_to_first_sample_seconds_count", *one) == 3
    assert total(found, "aigc_request_duration_seconds_count", *one) == 4
    assert total(found, "aigc_samples_total", *one) == 26
    assert total(found, "aigc_model_load_seconds_count", *one) == 1
    assert total(found, "aigc_refused_loads_total") == 1
    assert total(found, "aigc_refused_keys_total") == 1
    assert total(found, "aigc_shed_samples_total", "reason=budget") == 20
    assert total(found, "aigc_key_samples_total", "key=alice") == 20
    assert total(found, "aigc_key_samples_total", "key=bob") == 9
    texts = ("model=words", "version=1", "signature=sample")
    assert total(found, "aigc_samples_total", *texts) == 3
    steps = total(found, "aigc_steps_total", *texts)
    assert 3 < steps <= 3 * WORDS_LENGTH
    assert total(found, "aigc_batch_samples_sum", *texts) == steps
    assert total(found, "aigc_key_refused_samples_total", "key=alice") == 20
    assert total(found, "aigc_key_refused_samples_total") == 20


def test_a_replica_that_cannot_start_is_counted(client: Client, store: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact"):
        client.run(client.replica.configure({"artifacts": [f"{store}/none"]}))
    found = values(client.probe.metrics)
    assert total(found, "aigc_refused_loads_total") == 1
    assert total(found, "aigc_replica_starts_total") == 1
    assert total(found, "aigc_ready") == 0


def test_a_replica_s_cost_is_its_time_times_its_price(client: Client) -> None:
    def spent() -> float:
        client.run(client.replica.tend())
        return client.probe.count("aigc_cost_total")

    times = [time.monotonic()]
    first = spent()
    times.append(time.monotonic())
    for _ in range(3):
        time.sleep(0.02)
        last = spent()
        times.append(time.monotonic())
    # At 3600 an hour; the clock is read at some time during each call.
    assert times[-2] - times[1] < last - first < times[-1] - times[0]


def test_model_replicas_metric_follows_a_switch(client: Client, store: Path) -> None:
    def hosting() -> dict[str, float]:
        found = values(client.probe.metrics)
        return {k[2]: v for k, v in found.items() if k[0] == "aigc_model_replicas"}

    def running() -> dict[tuple[str, ...], float]:
        found = values(client.probe.metrics)
        return {k[2:]: v for k, v in found.items() if k[0] == "aigc_model_provider_replicas"}

    async def change() -> None:
        await client.replica.configure({"artifacts": [f"{store}/tiny@2"]})
        await client.probe.loaded()

    client.run(client.replica.configure({"artifacts": [f"{store}/tiny@1"]}))
    assert hosting() == {"version=1": 1}
    client.run(change())
    assert hosting() == {"version=1": 0, "version=2": 1}
    assert sorted(running().values()) == [0, 1]
    assert all("provider=cpu" in labels for labels in running())


def test_shed_samples_are_counted_by_reason(served: Listening) -> None:
    def shed() -> dict[str, float]:
        found = values(served.probe.metrics)
        sample = {k: v for k, v in found.items() if k[0] == "aigc_shed_samples_total"}
        return {k[2]: v for k, v in sample.items() if "signature=sample" in k and v}

    def ask(n: int, **headers: str) -> int:
        body = {"model": "tiny", "n": n, "format": "npy"}
        return httpx.post(f"{served.url}/v1/samples", json=body, headers=headers).status_code

    batcher = served.probe.batcher
    assert shed() == {}
    batcher.admission.max_queue = 5
    assert ask(6) == 503
    assert shed() == {"reason=overloaded": 6}
    batcher.admission.max_queue = 8192
    Gate(served.probe).slow_s = 0.1
    assert ask(4) == 200
    assert ask(40, **{"x-request-timeout": "0.2"}) == 503
    assert shed() == {"reason=overloaded": 6, "reason=deadline": 40}

    async def close() -> None:
        batcher.close()

    served.run(close())
    assert ask(2) == 503
    assert shed()["reason=shutting_down"] == 2


@pytest.mark.parametrize("form", ["npy", "ndjson"])
def test_response_bytes_and_time_to_first_sample_are_counted(form: str, served: Listening) -> None:
    body = {"model": "tiny", "n": 30, "format": form}
    answer = httpx.post(f"{served.url}/v1/samples", json=body)
    assert httpx.post(f"{served.url}/v1/samples", json={"model": "none"}).status_code == 404
    deadline = time.monotonic() + 10
    while served.requests(code="200") < 1 and time.monotonic() < deadline:
        time.sleep(0.01)  # a stream is counted when its last byte was sent
    found = values(served.probe.metrics)
    assert total(found, "aigc_response_bytes_total", "api=native") == len(answer.content)
    first = total(found, "aigc_time_to_first_sample_seconds_sum", "api=native")
    whole = total(found, "aigc_request_duration_seconds_sum", "api=native", "model=tiny")
    assert total(found, "aigc_time_to_first_sample_seconds_count") == 1
    assert 0 < first <= whole


def test_samples_without_keys_have_an_empty_key_label(served: Listening) -> None:
    httpx.post(f"{served.url}/v1/samples", json={"model": "tiny", "n": 3})
    found = values(served.probe.metrics)
    assert {k[1:]: v for k, v in found.items() if k[0] == "aigc_key_samples_total"} == {
        ("key=",): 3
    }


async def ask(client: Client, secret: str, n: int = 1, **fields: Any) -> int:
    """The status of one request, straight through ASGI: hundreds of them have to be quick."""
    body = orjson.dumps({"model": "tiny", "n": n, "format": "npy", **fields})
    name = f"{random.random()}".encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/samples",
        "headers": [
            (b"authorization", b"Bearer " + secret.encode()),
            (b"x-request-id", name),
            (b"idempotency-key", name),
        ],
    }
    sent: list[Any] = []
    received = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if not received:  # a client that waits: who watches it must not be kept busy
            await asyncio.Event().wait()
        return received.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await client.replica.application(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.process
def test_made_up_names_add_no_series(client: Client, store: Path, metrics_dir: Path) -> None:
    async def crowd(times: int) -> set[int]:
        codes: set[int] = set()
        for _ in range(times):
            some = [
                ask(client, BOB, seed=random.randrange(2**53)),
                ask(client, ALICE, seed=random.randrange(2**53)),
                ask(client, f"made-up-{random.random()}", seed=random.randrange(2**53)),
                ask(client, BOB, model=f"made-up-{random.random()}"),
                ask(client, BOB, signature=f"made-up-{random.random()}"),
            ]
            codes |= set(await asyncio.gather(*some))
        return codes

    client.run(client.replica.configure({"artifacts": [f"{store}/tiny@1"]}))
    client.run(crowd(50))
    before = values(client.probe.metrics).keys()
    assert client.run(crowd(100)) == {200, 401, 404, 429}
    assert values(client.probe.metrics).keys() == before
    assert b"made-up" not in exporter.render(metrics_dir)


def test_the_serving_port_gives_the_format_that_is_asked_for(served: Listening) -> None:
    url = f"{served.url}/metrics"
    assert httpx.get(url).headers["content-type"] == scrape.TEXT
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = httpx.get(url, headers={"accept": accept})
    assert answer.headers["content-type"] == scrape.OPENMETRICS
    assert answer.text.endswith("# EOF\n")


def test_the_document_lists_every_metric_as_it_is() -> None:
    rows = re.findall(
        r"^\| `(aigc_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", DOCUMENT.read_text(), re.M
    )
    documented = {name: (kind, labels.replace("`", "")) for name, kind, labels, _ in rows}
    metrics: Any = Metrics().registry
    assert documented == {
        f"{metric._name}_total" if metric._type == "counter" else metric._name: (
            metric._type,
            ", ".join(metric._labelnames),
        )
        for metric in metrics._collector_to_names
    }
