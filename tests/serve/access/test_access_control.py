"""Keys, budgets and retries as a client meets them, in every protocol."""

import asyncio
import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aigc.artifact import image_files
from serve.access.api_keys import CreateKey, key_entry
from serve.access.rate_ledger import Ledger
from serve.access.rate_limiter import in_process
from serve.ingress import IngressReplica
from serve.settings import Limits, Settings
from tests.serve.client import Client, code_of, running

ALICE, BOB, METRICS, ADMIN = (f"aigc_secret_of_{name}" for name in ("alice", "bob", "m", "admin"))

KEYS = "\n".join(
    [
        key_entry(
            CreateKey(action="new", name="alice", samples_per_s=10.0, burst=20, concurrency=2),
            ALICE,
        ),
        key_entry(CreateKey(action="new", name="bob"), BOB),
        key_entry(CreateKey(action="new", name="m", scope=("metrics",)), METRICS),
        key_entry(CreateKey(action="new", name="admin", scope=("admin",)), ADMIN),
    ]
)

SAMPLE: dict[str, Any] = {"model": "tiny", "n": 1, "format": "npy"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/samples": SAMPLE,
    "/v1/interpolate": {"model": "tiny", "from_seed": 1, "to_seed": 2, "frames": 2},
    "/v1/images/generations": {"model": "tiny", "prompt": ""},
    "/v2/models/tiny/infer": {"inputs": [], "parameters": {"n": 1}},
}


PICTURE = base64.b64encode(image_files.png(np.zeros((8, 8, 1), np.uint8))).decode()
Make = Callable[[], IngressReplica]


@pytest.fixture
def make(metrics_dir: Path, tmp_path: Path) -> Make:
    file = tmp_path / "keys.toml"
    file.write_text(KEYS)
    settings = Settings(
        metrics_dir=str(metrics_dir), keys=str(file), limits=Limits(max_n=100, max_queue=100)
    )

    return lambda: IngressReplica(settings, "replica-7", None, in_process(Ledger()))


@pytest.fixture
def client(make: Make, store: Path) -> Iterator[Client]:
    with running(make, f"{store}/tiny@1") as client:
        yield client


def bearer(secret: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}", **more}


def counted(client: Client, **labels: str) -> float:
    """Requests that were counted under these labels."""
    return client.probe.count("aigc_requests_total", **labels)


@pytest.mark.parametrize("path", BODIES)
def test_requests_without_a_key_are_401(path: str, client: Client) -> None:
    body = BODIES[path]
    answer = client.request("POST", path, json=body)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert client.request("POST", path, json=body, headers=bearer("wrong")).status_code == 401
    assert client.request("POST", path, json=body, headers=bearer(METRICS)).status_code == 403
    assert client.request("POST", path, json=body, headers=bearer(BOB)).status_code == 200
    in_another = client.request("POST", path, json=body, headers={"x-api-key": BOB})
    assert in_another.status_code == 200
    assert counted(client, code="401") == 2


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/v2/models/tiny"])
def test_model_lists_need_the_sample_scope(path: str, client: Client) -> None:
    assert client.get(path).status_code == 401
    assert client.request("GET", path, headers=bearer(BOB)).status_code == 200


def test_routes_without_keys_name_no_model(client: Client) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/ready", "/", "/openapi.json"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "tiny" not in answer.text, path


def test_the_document_says_that_keys_are_asked_for(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = client.request(method, path.replace("{id}", "x"))
            assert (answer.status_code == 401) == ("security" in operation), (method, path)


def test_metrics_need_their_own_scope(client: Client) -> None:
    assert client.get("/metrics").status_code == 401
    assert code_of(client.request("GET", "/metrics", headers=bearer(BOB))) == (
        403,
        "scope_needed",
    )
    assert client.request("GET", "/metrics", headers=bearer(METRICS)).status_code == 200


def draw(client: Client, n: int, secret: str = ALICE, **headers: str) -> httpx.Response:
    return client.request(
        "POST", "/v1/samples", json={**SAMPLE, "n": n}, headers=bearer(secret, **headers)
    )


def test_budget_headers_follow_what_was_spent(client: Client) -> None:
    first = draw(client, 15)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit"] == "20"
    assert int(first.headers["x-ratelimit-remaining"]) <= 6
    refused = draw(client, 15)
    assert code_of(refused) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) == 1
    assert "x-ratelimit-remaining" in refused.headers
    assert code_of(draw(client, 21)) == (400, "n_over_burst")
    assert draw(client, 100, BOB).status_code == 200, "another key has its own budget, or none"


def test_every_protocol_spends_the_same_budget(client: Client) -> None:
    frames = {"model": "tiny", "from_seed": 1, "to_seed": 2, "frames": 12}
    answer = client.request("POST", "/v1/interpolate", json=frames, headers=bearer(ALICE))
    assert answer.status_code == 200
    tensors = {"inputs": [], "parameters": {"n": 12}}
    answer = client.request("POST", "/v2/models/tiny/infer", json=tensors, headers=bearer(ALICE))
    assert answer.status_code == 429
    assert answer.json()["error"].startswith("key 'alice' may draw 10 samples per second")
    lines = {"model": "tiny", "n": 12, "format": "ndjson"}
    answer = client.request("POST", "/v1/samples", json=lines, headers=bearer(ALICE))
    assert answer.status_code == 429


FIFTEEN: dict[str, tuple[str, dict[str, Any]]] = {
    "lines": ("/v1/samples", {"model": "tiny", "n": 15, "format": "ndjson"}),
    "texts": ("/v1/completions", {"model": "words", "n": 15}),
    "texts streamed": ("/v1/completions", {"model": "words", "n": 15, "stream": True}),
    "speech": (
        "/v1/audio/speech",
        {"model": "voices", "input": "one " * 15, "response_format": "flac"},
    ),
    "speech streamed": ("/v1/audio/speech", {"model": "voices", "input": "one " * 15}),
    "reconstructed": (
        "/v1/samples",
        {
            "model": "words",
            "signature": "reconstruct",
            "inputs": {"text": "ab"},
            "n": 15,
        },
    ),
    "between texts": (
        "/v1/interpolate",
        {"model": "words", "from_text": "ab", "to_text": "ba", "frames": 15},
    ),
    "made of a picture": (
        "/v1/samples",
        {"model": "tiny", "signature": "encode", "inputs": {"image": PICTURE}, "n": 15},
    ),
}


@pytest.mark.parametrize(("path", "body"), FIFTEEN.values(), ids=FIFTEEN)
def test_every_drawing_route_charges_exactly_once(
    path: str, body: dict[str, Any], make: Make, store: Path, words: str, voices: str
) -> None:
    with running(make, f"{store}/tiny@1", words, voices) as client:
        named = bearer(ALICE, **{"idempotency-key": "order-1"})
        first, retry = (client.request("POST", path, json=body, headers=named) for _ in range(2))
        assert first.status_code == retry.status_code == 200, first.text
        assert 5 <= int(first.headers["x-ratelimit-remaining"]) <= 9
        assert first.headers.get("x-aigc-seed") == retry.headers.get("x-aigc-seed")
        again = client.request("POST", path, json=body, headers=bearer(ALICE))
        assert code_of(again) == (429, "rate_limited")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/samples", {"model": "words", "signature": "encode", "inputs": {"text": ["Z"] * 15}}),
        (
            "/v1/samples",
            {"model": "words", "signature": "reconstruct", "inputs": {"text": ["Z"] * 15}},
        ),
        (
            "/v1/interpolate",
            {"model": "words", "from_text": "a", "to_text": "Z", "frames": 15},
        ),
        ("/v1/completions", {"model": "words", "prompt": "Z", "n": 15}),
        ("/v1/completions", {"model": "words", "prompt": "ab", "n": 15, "max_tokens": 23}),
        (
            "/v2/models/words:encode/infer",
            {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [15], "data": ["Z"] * 15}]},
        ),
    ],
)
def test_inputs_are_charged_before_they_are_read_and_refunded_if_refused(
    path: str, body: dict[str, Any], make: Make, store: Path, words: str
) -> None:
    with running(make, f"{store}/tiny@1", words) as client:
        for _ in range(3):
            answer = client.request("POST", path, json=body, headers=bearer(ALICE))
            assert answer.status_code == 400, answer.text
        assert draw(client, 15).status_code == 200
        answer = client.request("POST", path, json=body, headers=bearer(ALICE))
        assert answer.status_code == 429
        assert path.startswith("/v2/") or code_of(answer)[1] == "rate_limited"


@pytest.mark.parametrize("pictures", ["bm9uZQ==", [*[PICTURE] * 14, "bm9uZQ=="]])
def test_pictures_are_paid_for_even_if_one_of_them_is_none(pictures: Any, client: Client) -> None:
    body = {"model": "tiny", "signature": "encode", "inputs": {"image": pictures}, "n": 15}
    answer = client.request("POST", "/v1/samples", json=body, headers=bearer(ALICE))
    assert code_of(answer) == (400, "malformed_input")
    answer = client.request("POST", "/v1/samples", json=body, headers=bearer(ALICE))
    assert code_of(answer) == (429, "rate_limited")


def test_charges_are_refunded_when_nothing_was_drawn(client: Client) -> None:
    client.probe.batcher.close()
    for _ in range(3):
        answer = draw(client, 15)
        assert code_of(answer) == (503, "shutting_down")


def test_a_retry_costs_nothing_twice_and_gives_the_same_seed(client: Client) -> None:
    named = {"idempotency-key": "order-1"}
    first = draw(client, 15, **named)
    again = draw(client, 15, **named)
    assert first.status_code == again.status_code == 200
    assert first.headers["x-aigc-seed"] == again.headers["x-aigc-seed"]
    assert first.content == again.content
    assert code_of(draw(client, 14, **named)) == (422, "idempotency_key_reused")
    assert code_of(draw(client, 15, **{"idempotency-key": "order-2"})) == (
        429,
        "rate_limited",
    )
    others = draw(client, 15, BOB, **named)
    assert others.headers["x-aigc-seed"] != first.headers["x-aigc-seed"]


@pytest.mark.parametrize("path", sorted(BODIES.keys() - {"/v1/interpolate"}))
def test_every_protocol_recognises_a_retry(path: str, client: Client) -> None:
    headers = bearer(BOB, **{"idempotency-key": '"again"'})
    answers = [client.request("POST", path, json=BODIES[path], headers=headers) for _ in range(2)]
    assert answers[0].status_code == 200
    if path != "/v1/images/generations":  # its answer tells the time
        assert answers[0].content == answers[1].content
    else:
        assert answers[0].json()["data"] == answers[1].json()["data"]


def test_concurrency_of_a_key_is_bounded_and_slots_come_back(client: Client) -> None:
    async def crowd() -> list[int]:
        body = {**SAMPLE, "n": 1}
        asked = [
            client.http.post("/v1/samples", json=body, headers=bearer(ALICE)) for _ in range(6)
        ]
        return sorted(answer.status_code for answer in await asyncio.gather(*asked))

    codes = client.run(crowd())
    assert set(codes) <= {200, 429}
    assert codes.count(200) >= 2
    for _ in range(5):  # every slot came back
        assert draw(client, 1).status_code == 200


def test_no_series_for_a_seed_or_a_key_that_is_made_up(client: Client) -> None:
    def series() -> int:
        metrics = client.probe.metrics
        families = [*metrics.requests.collect(), *metrics.duration.collect()]
        return sum(len(family.samples) for family in families)

    draw(client, 1, BOB)
    draw(client, 1, "made up")
    before = series()
    for seed in range(200):
        body = {**SAMPLE, "seed": seed}
        client.request("POST", "/v1/samples", json=body, headers=bearer(BOB))
        client.request("POST", "/v1/samples", json=body, headers=bearer(f"made-up-{seed}"))
    assert series() == before > 0
