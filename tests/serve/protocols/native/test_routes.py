"""The native protocol in one process: formats, errors, documents. No Ray, no socket."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aigc.artifact import Artifact, image_files
from serve.settings import MAX_SEED, Settings
from tests.serve.artifacts import CLASSES
from tests.serve.client import Client, error, limited, serving
from tests.serve.conftest import images


@pytest.fixture
def client(store: Path, metrics_dir: Path) -> Iterator[Client]:
    settings = limited(metrics_dir, max_batch=4, max_n=100)
    with serving(settings, f"{store}/tiny@1", f"{store}/tiny@2") as client:
        yield client


def test_n_samples_are_n_times_one_sample(client: Client) -> None:
    together = images(client.samples(n=8, seed=7))
    alone = [images(client.samples(n=1, seed=7, first_index=i))[0] for i in range(8)]
    assert together == alone
    assert len(set(together)) == 8


def test_samples_are_those_of_the_artifact(client: Client, artifact: Artifact) -> None:
    answer = client.samples(n=6, seed=7, first_index=3, label=4, format="npy")
    pixels = np.load(io.BytesIO(answer.content))
    outputs = artifact.sample(seed=7, n=6, first_index=3, label=4)
    assert np.array_equal(pixels, artifact.uint8("sample", outputs))
    grid = client.samples(n=6, seed=7, first_index=3, label=4, format="grid")
    found, provenance = image_files.read_png(grid.content)
    assert np.array_equal(found, image_files.grid(pixels))
    assert provenance is not None
    assert (provenance.n, provenance.labels, provenance.index) == (6, (4,), 3)
    assert provenance is not None
    assert (provenance.artifact, provenance.n, provenance.index) == ("tiny@1", 6, 3)


def test_label_is_the_number_or_the_name_of_a_class(client: Client) -> None:
    expected = images(client.samples(n=2, seed=7, label=4))
    for label in (CLASSES[4], CLASSES[4].upper(), "4", "index:4", [CLASSES[4], 4]):
        assert images(client.samples(n=2, seed=7, label=label)) == expected, label
    answer = client.samples(seed=7, label=f"{CLASSES[4]}x")
    status, code, message = error(answer)
    assert (status, code) == (400, "unknown_label")
    assert f"did you mean {CLASSES[4]!r}" in message
    assert error(client.samples(label="99"))[2] == "label must be in [0, 10), got 99"


def test_one_png_names_what_made_it(client: Client, artifact: Artifact) -> None:
    answer = client.samples(seed=5, label=2, format="png")
    pixels, provenance = image_files.read_png(answer.content)
    assert answer.headers["content-type"] == "image/png"
    assert provenance == image_files.Provenance(
        artifact="tiny@1",
        digest=artifact.manifest.digest,
        signature="sample",
        seed=5,
        index=0,
        label=2,
    )
    headers = {k: v for k, v in answer.headers.items() if k.startswith("x-aigc")}
    assert headers == {
        "x-aigc-model": "tiny@1",
        "x-aigc-digest": artifact.manifest.digest,
        "x-aigc-seed": "5",
        "x-aigc-first-index": "0",
        "x-aigc-reproducibility": "bit",
        "x-aigc-replica": "replica-7",
    }
    assert images(client.samples(seed=5, label=2))[0] == answer.content
    assert pixels.shape == (8, 8, 1)


def test_json_carries_index_and_label_asked_for_or_drawn(client: Client) -> None:
    body = client.samples(n=3, seed=1, first_index=5, label=[1, 2, 3]).json()
    assert [(s["index"], s["label"]) for s in body["samples"]] == [(5, 1), (6, 2), (7, 3)]
    drawn = client.samples(n=8, seed=1).json()["samples"]
    assert len({s["label"] for s in drawn}) > 1
    again = client.samples(n=8, seed=1, label=[s["label"] for s in drawn], format="npy")
    assert again.content == client.samples(n=8, seed=1, format="npy").content


def test_a_large_answer_is_encoded_in_its_own_thread(
    store: Path, metrics_dir: Path, artifact: Artifact
) -> None:
    with serving(limited(metrics_dir), f"{store}/tiny@1") as client:
        answer = client.samples(n=1024, seed=9, format="npy")
        pixels = artifact.uint8("sample", artifact.sample(seed=9, n=1024))
        assert np.array_equal(np.load(io.BytesIO(answer.content)), pixels)
        found, _ = image_files.read_png(client.samples(n=1024, seed=9, format="grid").content)
        assert np.array_equal(found, image_files.grid(pixels))


def test_a_seed_is_drawn_and_returned(client: Client) -> None:
    first, second = client.samples().json(), client.samples().json()
    assert first["seed"] != second["seed"]
    assert 0 <= first["seed"] <= MAX_SEED
    assert client.samples(seed=first["seed"]).json()["samples"] == first["samples"]


def test_a_signature_of_numbers_gives_numbers(client: Client, artifact: Artifact) -> None:
    expected = artifact.sample("numbers", seed=3, n=2)["vector"]
    body = client.samples(signature="numbers", n=2, seed=3).json()
    found = np.array([s["outputs"]["vector"] for s in body["samples"]], np.float32)
    assert np.array_equal(found, expected)
    raw = client.samples(signature="numbers", n=2, seed=3, format="npy")
    assert np.array_equal(np.load(io.BytesIO(raw.content)), expected)


def test_a_name_alone_is_the_newest_version(client: Client) -> None:
    assert client.samples(model="tiny").json()["model"] == "tiny@2"
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["tiny@1", "tiny@2"]
    tiny = client.get("/v1/models/tiny").json()
    assert tiny["id"] == "tiny@2"
    assert tiny["signatures"]["sample"]["inputs"][1]["classes"][3] == "three"
    assert tiny["reproducibility"]["sample"]["level"] == "bit"
    assert tiny["provider"] == "cpu"
    assert tiny["metrics"] == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"signature": "encode"}, (400, "signature_needs_input", "needs image")),
        ({"n": 2, "format": "png"}, (400, "format_needs_one_sample", "take grid")),
        ({"signature": "numbers", "format": "grid"}, (400, "format_needs_image", "no image")),
        ({"format": "gif"}, (400, "malformed_body", "gif")),
    ],
)
def test_samples_refuses_bad_fields(
    client: Client, fields: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    status, code, message = error(client.samples(**fields))
    assert (status, code) == expected[:2]
    assert expected[2] in message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"model": "tiny", "n": 1e999}'],
)
def test_a_body_that_is_no_request_is_refused(client: Client, body: bytes) -> None:
    assert error(client.request("POST", "/v1/samples", content=body))[:2] == (400, "malformed_body")


def test_a_body_is_counted_whether_or_not_it_says_its_size(client: Client) -> None:
    large = b" " * (1 << 20) + b"{}"
    answer = client.request("POST", "/v1/samples", content=large)
    assert error(answer)[:2] == (413, "body_too_large")

    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 65_536

    answer = client.request("POST", "/v1/samples", content=chunks())
    assert error(answer)[:2] == (413, "body_too_large")


def test_routes_methods_and_heads(client: Client) -> None:
    assert error(client.get("/v1/nothing"))[:2] == (404, "unknown_route")
    wrong = client.get("/v1/samples")
    assert error(wrong)[:2] == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST, OPTIONS"
    assert client.request("OPTIONS", "/v1/models").headers["allow"] == "GET, HEAD, OPTIONS"
    head = client.request("HEAD", "/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(client.get("/v1/models").content)


def test_a_full_queue_is_503_with_retry_after(store: Path, metrics_dir: Path) -> None:
    limits = limited(metrics_dir, max_n=4, max_queue=4, max_batch=1)
    with serving(limits, f"{store}/tiny") as client:

        async def crowd() -> list[httpx.Response]:
            body = {"model": "tiny", "n": 4}
            posts = (client.http.post("/v1/samples", json=body) for _ in range(8))
            return await asyncio.gather(*posts)

        answers = client.run(crowd())
    shed = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert error(shed[0])[1] == "overloaded"
    assert int(shed[0].headers["retry-after"]) >= 1


def test_pixels_bound_n(store: Path, metrics_dir: Path) -> None:
    with serving(limited(metrics_dir, max_values=640), f"{store}/tiny@1") as client:
        assert client.samples(n=10).status_code == 200
        assert error(client.samples(n=11))[:2] == (400, "n_out_of_range")


def test_readiness_waits_for_the_models_and_ends_with_the_drain(
    store: Path, tmp_path: Path
) -> None:
    drain = tmp_path / "draining"
    with serving(Settings(metrics_dir=str(tmp_path), drain_file=str(drain))) as client:
        assert error(client.get("/readyz"))[:2] == (503, "not_ready")
        assert error(client.samples())[:2] == (503, "not_ready")
        assert client.get("/healthz").status_code == 200
        client.run(client.replica.configure({"artifacts": [f"{store}/tiny"]}))
        assert client.get("/readyz").status_code == 200
        drain.touch()
        assert error(client.get("/readyz"))[:2] == (503, "shutting_down")


def test_new_artifacts_are_switched_to_and_broken_ones_refused(
    client: Client, store: Path, tmp_path: Path
) -> None:
    async def configure(reference: str) -> None:
        await client.replica.configure({"artifacts": [reference]})
        await client.probe.loaded()

    def hosted() -> list[str]:
        return [model["id"] for model in client.get("/v1/models").json()["data"]]

    client.run(configure(f"{store}/other"))
    assert hosted() == ["other@1"]
    client.run(configure(str(tmp_path / "nothing")))
    assert hosted() == ["other@1"]
    assert error(client.samples())[:2] == (404, "unknown_model")


def test_the_openapi_document_is_true(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in schemas
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = client.request(method.upper(), path.replace("{id}", "tiny@1"))
            assert str(answer.status_code) in operation["responses"], (path, answer.text)
    request = schemas["SampleRequest"]
    assert request["required"] == ["model"]
    assert request["additionalProperties"] is False
    assert request["properties"]["n"]["maximum"] == 100
    assert request["properties"]["model"]["examples"] == ["tiny@1", "tiny@2"]
    example = document["paths"]["/v1/samples"]["post"]["requestBody"]["content"][
        "application/json"
    ]["example"]
    assert client.request("POST", "/v1/samples", json=example).status_code == 200


def test_pages_are_whole_and_may_load_nothing_foreign(client: Client) -> None:
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "http" not in page.text.replace("http://www.w3.org/2000/svg", "")
    for name in ("page.css", "page.js", "media.js", "give.js"):
        part = client.get(f"/page/{name}")
        assert part.status_code == 200
        assert name.endswith("css") == part.headers["content-type"].startswith("text/css")
        assert "http" not in part.text
    assert error(client.get("/page/index.html"))[0] == 404
    script = client.get("/docs/swagger-ui-bundle.js")
    assert script.headers["cache-control"].startswith("public")
    assert script.headers["content-encoding"] == "gzip"
    assert error(client.get("/docs/../settings.py"))[0] == 404
    assert error(client.get("/docs/index.html"))[0] == 404
