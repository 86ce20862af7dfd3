"""The Open Inference Protocol over HTTP: tritonclient against a replica behind a real socket."""

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from aigc.artifact import Artifact, latents
from serve.batching.jobs import Job, Runner
from serve.errors import HTTPError
from serve.protocols.oip import rest as oip
from serve.protocols.oip.inference import InferenceResult
from serve.sampling_params import SamplingParams
from serve.settings import Limits, Settings
from tests.serve.client import Client, limited, serving
from tests.serve.listening import Listening, listening

Triton = tritonclient.http.InferenceServerClient


def address(server: Listening) -> str:
    """HOST:PORT, as tritonclient takes it."""
    return server.url.removeprefix("http://")


@contextmanager
def connected(host: str) -> Iterator[Triton]:
    client = Triton(host)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    limits = limited(tmp_path_factory.mktemp("metrics"), max_batch=4, max_n=100)
    with listening(limits, *(f"{store}/{name}" for name in ("tiny@1", "tiny@2", "other"))) as one:
        yield one


@pytest.fixture
def triton(server: Listening) -> Iterator[Triton]:
    with connected(address(server)) as client:
        yield client


@pytest.fixture
def client(store: Path, metrics_dir: Path) -> Iterator[Client]:
    """Without a socket, for what tritonclient would not send."""
    with serving(limited(metrics_dir, max_n=100), f"{store}/tiny@1") as client:
        yield client


def tensor(name: str, array: Any, *, binary: bool = True) -> tritonclient.http.InferInput:
    datatype = {"float32": "FP32", "int64": "INT64"}[str(array.dtype)]
    one = tritonclient.http.InferInput(name, list(array.shape), datatype)
    return one.set_data_from_numpy(array, binary_data=binary)


def output(name: str, *, binary: bool = True) -> tritonclient.http.InferRequestedOutput:
    return tritonclient.http.InferRequestedOutput(name, binary_data=binary)


def post(client: Client, model: str, **body: Any) -> httpx.Response:
    return client.request("POST", f"/v2/models/{model}/infer", json={"inputs": [], **body})


def message(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error"}
    return answer.status_code, body["error"]


def test_health_and_metadata(triton: Triton) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    server = triton.get_server_metadata()
    assert server["name"] == "aigc"
    assert server["extensions"] == ["binary_tensor_data", "parameters"]
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny:encode", "2")
    assert not triton.is_model_ready("tiny", "3")
    assert not triton.is_model_ready("none")
    assert triton.get_model_metadata("tiny") == {
        "name": "tiny",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "latent", "datatype": "FP32", "shape": [-1, 16]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [
            {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8, 1]},
        ],
    }
    encode = triton.get_model_metadata("tiny:encode", "1")
    assert encode["name"] == "tiny:encode"
    assert encode["outputs"] == [{"name": "vector", "datatype": "FP32", "shape": [-1, 4]}]
    with pytest.raises(InferenceServerException, match="has no signature 'dream', it has: sample"):
        triton.get_model_metadata("tiny:dream")


@pytest.mark.parametrize("binary", [True, False])
def test_a_seed_gives_what_every_other_dialect_gives(
    triton: Triton, server: Listening, artifact: Artifact, binary: bool
) -> None:
    sampling = {"seed": 7, "n": 6, "first_index": 3, "label": 4}
    outputs = [output("pixels", binary=binary), output("image", binary=binary)]
    result = triton.infer("tiny", [], "1", outputs, request_id="42", parameters=sampling)
    expected = artifact.sample(seed=7, n=6, first_index=3, label=4)
    assert result.as_numpy("image").tobytes() == expected["image"].tobytes()
    assert np.array_equal(result.as_numpy("pixels"), artifact.uint8("sample", expected))
    native = httpx.post(
        f"{server.url}/v1/samples",
        json={"model": "tiny@1", **sampling, "format": "npy"},
    )
    assert np.array_equal(np.load(io.BytesIO(native.content)), result.as_numpy("pixels"))
    response = result.get_response()
    assert [one["name"] for one in response["outputs"]] == ["pixels", "image"]
    assert (response["id"], response["model_name"], response["model_version"]) == (
        "42",
        "tiny",
        "1",
    )
    assert response["parameters"] == {
        "seed": 7,
        "first_index": 3,
        "digest": artifact.manifest.digest,
        "reproducibility": "bit",
    }


def test_pixels_alone_are_the_same_pixels(triton: Triton) -> None:
    sampling = {"seed": 7, "n": 6}
    alone = triton.infer("tiny", [], outputs=[output("pixels")], parameters=sampling)
    beside = triton.infer("tiny", [], parameters=sampling)
    assert beside.as_numpy("image").shape == (6, 1, 8, 8)
    assert np.array_equal(alone.as_numpy("pixels"), beside.as_numpy("pixels"))
    assert alone.get_output("image") is None
    assert alone.get_response()["model_version"] == "2"


def test_a_seed_is_drawn_and_returned(triton: Triton) -> None:
    first, second = triton.infer("tiny", []), triton.infer("tiny", [])
    seed = first.get_response()["parameters"]["seed"]
    assert seed != second.get_response()["parameters"]["seed"]
    again = triton.infer("tiny", [], parameters={"seed": seed})
    assert again.as_numpy("image").tobytes() == first.as_numpy("image").tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_latents_of_a_seed_are_its_samples(
    triton: Triton, artifact: Artifact, binary: bool
) -> None:
    expected = artifact.sample(seed=9, n=10)["image"].tobytes()
    z = latents.normal(9, range(10), (16,))
    labels = latents.labels(9, range(10), 10)
    inputs = [tensor("label", labels, binary=binary), tensor("latent", z, binary=binary)]
    result = triton.infer("tiny", inputs, "1")
    assert result.as_numpy("image").tobytes() == expected
    assert "seed" not in result.get_response()["parameters"]
    seeded = triton.infer("tiny", inputs[:1], "1", parameters={"seed": 9})
    assert seeded.as_numpy("image").tobytes() == expected
    one = triton.infer("tiny", inputs[1:], "1", parameters={"label": 3}).as_numpy("image")
    threes = artifact.run("sample", {"latent": z, "label": np.full(10, 3)})["image"]
    assert one.tobytes() == threes.tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_signatures_that_take_tensors(triton: Triton, artifact: Artifact, binary: bool) -> None:
    images = latents.normal(1, range(9), (1, 8, 8))
    result = triton.infer("tiny:encode", [tensor("image", images, binary=binary)], "1")
    expected = artifact.run("encode", {"image": images})["vector"]
    assert result.as_numpy("vector").tobytes() == expected.tobytes()
    assert result.get_response()["model_name"] == "tiny:encode"
    numbers = triton.infer("tiny:numbers", [], "1", parameters={"seed": 3, "n": 2})
    expected = artifact.sample("numbers", seed=3, n=2)["vector"]
    assert numbers.as_numpy("vector").tobytes() == expected.tobytes()


def test_the_asynchronous_client(server: Listening, artifact: Artifact) -> None:
    import tritonclient.http.aio

    async def crowd() -> list[Any]:
        async with tritonclient.http.aio.InferenceServerClient(address(server)) as client:
            calls = (
                client.infer("tiny", [], "1", parameters={"seed": i, "n": i + 1}) for i in range(20)
            )
            return await asyncio.gather(*calls)

    for i, result in enumerate(asyncio.run(crowd())):
        expected = artifact.sample(seed=i, n=i + 1)["image"]
        assert result.as_numpy("image").tobytes() == expected.tobytes()


def test_nested_numbers_are_flat_numbers(client: Client, artifact: Artifact) -> None:
    images = latents.normal(1, range(3), (1, 8, 8))
    flat = {"name": "image", "datatype": "FP32", "shape": [3, 1, 8, 8]}
    one = post(client, "tiny:encode", inputs=[{**flat, "data": images.ravel().tolist()}])
    other = post(client, "tiny:encode", inputs=[{**flat, "data": images.tolist()}], id="")
    assert one.json()["outputs"] == other.json()["outputs"]
    assert other.json()["id"] == ""
    assert "id" not in one.json()
    assert one.headers["x-aigc-model"] == "tiny@1"
    assert "x-aigc-seed" not in one.headers


LATENT = {"name": "latent", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}
LABEL = {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        ("none", {}, (404, "unknown model 'none'; hosted are: tiny@1")),
        ("tiny/versions/7", {}, (404, "unknown model 'tiny@7'")),
        ("tiny:", {}, (404, "has no signature ''")),
        ("tiny:encode", {}, (400, "tiny:encode needs image as input")),
        ("tiny:encode", {"parameters": {"seed": 1}}, (400, "needs image as input")),
        ("tiny", {"parameters": {"sead": 7}}, (400, "'sead'; there are: seed, first_index, n")),
        ("tiny", {"parameters": {"seed": "7"}}, (400, "seed must be a whole number, got '7'")),
        ("tiny", {"parameters": {"seed": 7.5}}, (400, "seed must be a whole number")),
        ("tiny", {"parameters": {"n": True}}, (400, "n must be a whole number, got 'True'")),
        ("tiny", {"parameters": {"seed": -1}}, (400, "seed must be in [0, 2^53)")),
        ("tiny", {"parameters": {"n": 0}}, (400, "n must be in [1, 100]")),
        ("tiny", {"parameters": {"n": 101}}, (400, "n must be in [1, 100]")),
        ("tiny", {"parameters": {"label": 10}}, (400, "label must be in [0, 10), got 10")),
        (
            "tiny",
            {
                "inputs": [
                    {"name": "latent", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}
                ],
                "parameters": {"label": 2**63},
            },
            (400, "label must be in [0, 10), got 9223372036854775808"),
        ),
        ("tiny:numbers", {"parameters": {"label": 1}}, (400, "takes no label")),
        ("tiny", {"parameters": {"binary_data_output": 1}}, (400, "must be true or false")),
        ("tiny", {"outputs": [{"name": "x"}]}, (400, "no output 'x', it gives: image, pixels")),
        ("tiny", {"outputs": [{"name": "image"}] * 2}, (400, "'image' is named twice")),
        (
            "tiny",
            {"outputs": [{"name": "image", "parameters": {"classification": 2}}]},
            (400, "parameter 'classification'; there is only binary_data"),
        ),
        ("tiny", {"inputs": [{**LATENT, "name": "z"}]}, (400, "takes no input 'z', it takes: la")),
        ("tiny", {"inputs": [LABEL, LABEL]}, (400, "input 'label' is named twice")),
        ("tiny", {"inputs": [LATENT]}, (400, "needs label as input")),
        ("tiny", {"inputs": [{**LATENT, "datatype": "FP64"}]}, (400, "must be FP32, got 'FP64'")),
        ("tiny", {"inputs": [{**LATENT, "shape": [16]}]}, (400, "shape [n, 16], got [16]")),
        ("tiny", {"inputs": [{**LATENT, "shape": [0, 16]}]}, (400, "n must be in [1, 100]")),
        ("tiny", {"inputs": [{**LATENT, "shape": [10**30, 16]}]}, (400, "n must be in [1, 100]")),
        ("tiny", {"inputs": [{**LATENT, "shape": [2, 16]}]}, (400, "must be 32 numbers")),
        ("tiny", {"inputs": [{**LATENT, "data": [1] * 15}]}, (400, "must be 16 numbers")),
        ("tiny", {"inputs": [{**LATENT, "data": [[[1]] * 16]}]}, (400, "must be 16 numbers")),
        ("tiny", {"inputs": [{**LATENT, "data": [[1] * 9, [1] * 7]}]}, (400, "input 'latent'")),
        ("tiny", {"inputs": [{**LATENT, "data": ["1"] * 16}]}, (400, "got `str`")),
        ("tiny", {"inputs": [{**LATENT, "data": 1}]}, (400, "must be 16 numbers")),
        ("tiny", {"inputs": [LABEL, {**LATENT, "data": [1e39] * 16}]}, (400, "not finite")),
        ("tiny", {"inputs": [{**LABEL, "data": [2**70]}]}, (400, "input 'label'")),
        ("tiny", {"inputs": [{**LABEL, "data": [1.5]}]}, (400, "got `float`")),
        ("tiny", {"inputs": [LATENT, {**LABEL, "data": [10]}]}, (400, "in [0, 10), got 10")),
        ("tiny", {"inputs": [LATENT, {**LABEL, "data": [-1]}]}, (400, "in [0, 10), got -1")),
        (
            "tiny",
            {"inputs": [LATENT, {**LABEL, "shape": [2], "data": [1, 2]}]},
            (400, "one n for all of a request: latent has 1, label has 2"),
        ),
        ("tiny", {"inputs": [LABEL], "parameters": {"n": 2}}, (400, "label has 1, n is 2")),
        ("tiny", {"inputs": [LABEL], "parameters": {"label": 2}}, (400, "give it once")),
        (
            "tiny",
            {"inputs": [LATENT, LABEL], "parameters": {"seed": 2}},
            (400, "seed has no effect"),
        ),
        (
            "tiny",
            {"inputs": [{**LABEL, "parameters": {"binary_data_size": 8}}]},
            (400, "either data or binary_data_size"),
        ),
        (
            "tiny",
            {"inputs": [{**LABEL, "parameters": {"shared_memory_region": "x"}}]},
            (400, "'shared_memory_region'; there is only binary_data_size"),
        ),
        ("tiny", {"inputs": [{"name": "label"}]}, (400, "missing required field `datatype`")),
    ],
)
def test_what_is_wrong_is_said(
    client: Client, model: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    status, text = message(post(client, model, **body))
    assert status == expected[0]
    assert expected[1] in text


def binary(client: Client, head: dict[str, Any], data: bytes, **headers: str) -> httpx.Response:
    document = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(document)), **headers}
    return client.request("POST", "/v2/models/tiny/infer", content=document + data, headers=headers)


def test_sizes_of_binary_data_are_checked(client: Client) -> None:
    label = {"name": "label", "datatype": "INT64", "shape": [2]}
    two = np.array([1, 2]).tobytes()

    def sized(size: Any, data: bytes, **headers: str) -> tuple[int, str]:
        head = {"inputs": [{**label, "parameters": {"binary_data_size": size}}]}
        return message(binary(client, head, data, **headers))

    assert sized(17, two) == (
        400,
        "binary_data_size of input 'label' must be in [0, 16], the bytes that are left after the"
        " JSON and the inputs before it, got 17",
    )
    assert "belong to no input" in sized(16, two + b"x")[1]
    assert "has 16 bytes, got 8" in sized(8, two[:8])[1]
    assert "got -1" in sized(-1, two)[1]
    assert "got True" in sized(True, two)[1]
    name = "Inference-Header-Content-Length"
    for length in ("-1", "1e3", "99999", "", "9" * 30, "\u00b2"):
        found = sized(16, two, **{name: length.encode("latin-1")})  # type: ignore[arg-type]
        assert found[0] == 400
        assert "must be in [0, " in found[1]
    assert sized(16, two, **{"Content-Encoding": "gzip"})[0] == 415


def test_outputs_go_as_they_were_asked_for(client: Client) -> None:
    def forms(outputs: Any, **parameters: Any) -> tuple[dict[str, bool], int]:
        answer = post(client, "tiny", outputs=outputs, parameters={"seed": 1, **parameters})
        length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
        found = json.loads(answer.content[:length])["outputs"]
        sizes = [one["parameters"]["binary_data_size"] for one in found if "data" not in one]
        assert len(answer.content) - length == sum(sizes)
        return {one["name"]: "data" not in one for one in found}, sum(sizes)

    named = [{"name": "pixels"}, {"name": "image"}]
    assert forms(None) == ({"image": False, "pixels": False}, 0)
    assert forms(None, binary_data_output=True) == ({"image": True, "pixels": True}, 320)
    assert forms(named, binary_data_output=True) == ({"pixels": True, "image": True}, 320)
    named[0]["parameters"] = {"binary_data": True}  # type: ignore[assignment]
    assert forms(named) == ({"pixels": True, "image": False}, 64)
    named[0]["parameters"] = {"binary_data": False}  # type: ignore[assignment]
    assert forms(named, binary_data_output=True) == ({"pixels": False, "image": True}, 256)


def test_the_json_is_bounded_more_tightly_than_the_tensors(store: Path, metrics_dir: Path) -> None:
    images = latents.normal(1, range(8), (1, 8, 8))
    limits = limited(metrics_dir, max_body_bytes=1000, max_tensor_bytes=2048)
    with serving(limits, f"{store}/tiny@1") as client:

        def encode(body: tuple[bytes, int | None]) -> httpx.Response:
            headers = {} if body[1] is None else {oip.HEADER_LENGTH.decode(): str(body[1])}
            path = "/v2/models/tiny:encode/infer"
            return client.request("POST", path, content=body[0], headers=headers)

        whole = Triton.generate_request_body([tensor("image", images)])
        assert encode(whole).status_code == 200
        as_json = Triton.generate_request_body([tensor("image", images[:1], binary=False)])
        status, text = message(encode(as_json))
        assert status == 413
        assert "the JSON must be at most 1000 bytes" in text
        assert "send large tensors as binary data" in text
        more = Triton.generate_request_body([tensor("image", np.repeat(images, 2, axis=0))])
        assert message(encode(more)) == (413, "the body must be at most 3048 bytes")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"inputs": [' * 9, b'{"inputs":' + b"[" * 100_000]
)
def test_a_body_that_is_no_request_is_refused(client: Client, body: bytes) -> None:
    answer = client.request("POST", "/v2/models/tiny/infer", content=body)
    assert message(answer)[0] == 400


def test_errors_of_routes_have_the_protocols_shape(client: Client) -> None:
    assert message(client.get("/v2/nothing"))[0] == 404
    assert message(client.get("/v2/models/tiny/config"))[0] == 404
    wrong = client.get("/v2/models/tiny/infer")
    assert message(wrong)[0] == 405
    assert wrong.headers["allow"] == "POST, OPTIONS"
    assert message(client.request("POST", "/v2/models/tiny"))[0] == 405
    assert message(client.request("DELETE", "/v2"))[0] == 405
    assert "code" in client.get("/v22").json()["error"]


def test_readiness_follows_the_replica(store: Path, tmp_path: Path) -> None:
    drain = tmp_path / "draining"
    with serving(Settings(metrics_dir=str(tmp_path), drain_file=str(drain))) as client:
        assert message(client.get("/v2/health/ready"))[0] == 503
        assert message(client.get("/v2/models/tiny/ready"))[0] == 503
        assert message(post(client, "tiny"))[0] == 503
        assert client.get("/v2/health/live").json() == {"live": True}
        client.run(client.replica.configure({"artifacts": [f"{store}/tiny"]}))
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
        drain.touch()
        assert message(client.get("/v2/health/ready"))[0] == 503


class Blocked(Runner):
    """A lane that holds the inference thread until it is let go."""

    max_batch = 1

    def __init__(self) -> None:
        self.go = threading.Event()

    def run(self, inputs: Any) -> Any:
        assert self.go.wait(60)
        return inputs

    def observe(self, batch: Any) -> None:
        pass

    def job(self) -> Job:
        return Job(
            runner=self,
            params=SamplingParams(n=1),
            draw=lambda start, stop: {"x": np.zeros(stop - start)},
        )


def test_pixels_share_batches_with_the_native_dialect(client: Client) -> None:
    async def crowd() -> list[httpx.Response]:
        batcher, blocked = client.probe.batcher, Blocked()
        first = asyncio.create_task(batcher.submit(blocked.job()))
        body = {"inputs": [], "outputs": [{"name": "pixels"}], "parameters": {"n": 2}}
        posts = [client.http.post("/v2/models/tiny/infer", json=body) for _ in range(8)]
        body = {"model": "tiny", "n": 2, "format": "npy"}
        posts += [client.http.post("/v1/samples", json=body) for _ in range(8)]
        tasks = [asyncio.create_task(one) for one in posts]
        while batcher.queued < 32:
            await asyncio.sleep(0.01)
        blocked.go.set()
        await first
        return await asyncio.gather(*tasks)

    assert {answer.status_code for answer in client.run(crowd())} == {200}
    counted = {
        (s.labels.get("signature"), s.name): s.value
        for metric in client.probe.metrics.batch.collect()
        for s in metric.samples
        if not s.name.endswith("_bucket")
    }
    assert counted["sample", "aigc_batch_samples_count"] == 1
    assert counted["sample", "aigc_batch_samples_sum"] == 32


def test_a_full_queue_is_503_with_retry_after(store: Path, metrics_dir: Path) -> None:
    limits = Settings(
        metrics_dir=str(metrics_dir), limits=Limits(max_n=4, max_queue=4, max_batch=1)
    )
    with serving(limits, f"{store}/tiny@1") as client:

        async def crowd() -> list[httpx.Response]:
            body = {"inputs": [], "parameters": {"n": 4}}
            posts = (client.http.post("/v2/models/tiny/infer", json=body) for _ in range(8))
            return await asyncio.gather(*posts)

        answers = client.run(crowd())
    shed = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert "the queue is full" in message(shed[0])[1]
    assert int(shed[0].headers["retry-after"]) >= 1


def test_floats_and_pixels_bound_n(store: Path, metrics_dir: Path) -> None:
    with serving(limited(metrics_dir, max_values=640), f"{store}/tiny@1") as client:
        pixels = [{"name": "pixels"}]
        assert post(client, "tiny", parameters={"n": 10}, outputs=pixels).status_code == 200
        assert post(client, "tiny", parameters={"n": 5}).status_code == 200
        assert message(post(client, "tiny", parameters={"n": 6}))[0] == 400


def test_requests_are_counted(client: Client) -> None:
    post(client, "tiny")
    post(client, "tiny:encode")
    post(client, "none")
    counted = {
        (s.labels["api"], s.labels["model"], s.labels["signature"], s.labels["code"]): s.value
        for metric in client.probe.metrics.requests.collect()
        for s in metric.samples
        if s.name == "aigc_requests_total"
    }
    assert counted == {
        ("oip", "tiny", "sample", "200"): 1,
        ("oip", "tiny", "encode", "400"): 1,
        ("oip", "", "", "404"): 1,
    }


DTYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8"}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    dtype = np.dtype(draw(st.sampled_from(sorted(DTYPES))))
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)


@given(st.lists(arrays(), max_size=4), st.text(max_size=5))
def test_binary_requests_are_read_as_the_client_wrote_them(
    sent: list[np.ndarray[Any, Any]], request_id: str
) -> None:
    inputs = []
    for i, array in enumerate(sent):
        one = tritonclient.http.InferInput(f"x{i}", list(array.shape), DTYPES[str(array.dtype)])
        inputs.append(one.set_data_from_numpy(array))
    body, length = Triton.generate_request_body(inputs, request_id=request_id)
    headers = {} if length is None else {oip.HEADER_LENGTH: str(length).encode()}
    document, rest = oip.split(body, headers, 10_000)
    request = oip.msgspec.json.decode(document, type=oip.InferenceRequest)
    assert (request.id or "") == request_id
    read = oip.parse_inputs(request.inputs, rest)
    assert [(one.name, one.datatype) for one in read] == [
        (f"x{i}", DTYPES[str(array.dtype)]) for i, array in enumerate(sent)
    ]
    for one, array in zip(read, sent, strict=True):
        found = one.read(array.dtype, one.shape)
        assert found.flags.aligned
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


@given(st.lists(st.tuples(arrays(), st.booleans()), min_size=1, max_size=4))
def test_answers_are_read_by_the_client_as_they_were_written(
    sent: list[tuple[np.ndarray[Any, Any], bool]],
) -> None:
    # JSON has no infinity and no NaN: such an output goes as null, and the client says so.
    kept = [(np.nan_to_num(a, posinf=1, neginf=0) if not b else a, b) for a, b in sent]
    result = InferenceResult(
        model="m",
        version="1",
        parameters={},
        outputs={f"y{i}": array for i, (array, _) in enumerate(kept)},
        headers=[],
    )
    response = oip.encode(result, None, {f"y{i}": as_bytes for i, (_, as_bytes) in enumerate(kept)})
    length = dict(response.headers).get(oip.HEADER_LENGTH)
    result = Triton.parse_response_body(
        response.body, header_length=None if length is None else int(length)
    )
    for i, (array, _) in enumerate(kept):
        found = result.as_numpy(f"y{i}")
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


@settings(max_examples=300)
@given(
    st.binary(max_size=60),
    st.one_of(st.none(), st.binary(max_size=6), st.integers(0, 70).map(lambda i: b"%d" % i)),
    st.lists(
        st.fixed_dictionaries(
            {"name": st.text(max_size=3), "shape": st.lists(st.integers(0, 99), max_size=3)}
            | {"datatype": st.sampled_from(["FP32", "INT64"])},
            optional={
                "parameters": st.dictionaries(
                    st.just("binary_data_size"), st.one_of(st.integers(-9, 99), st.booleans())
                ),
                "data": st.recursive(st.integers() | st.floats(), st.lists, max_leaves=5),
            },
        ),
        max_size=3,
    ),
)
def test_any_body_is_read_or_refused(
    tail: bytes, header: bytes | None, inputs: list[dict[str, Any]]
) -> None:
    document = json.dumps({"inputs": inputs}).encode()
    headers = {} if header is None else {oip.HEADER_LENGTH: header}
    if header is not None and len(tail) % 2:
        headers = {oip.HEADER_LENGTH: b"%d" % len(document)}
    with suppress(HTTPError, oip.msgspec.DecodeError):
        head, rest = oip.split(document + tail, headers, 10_000)
        request = oip.msgspec.json.decode(head, type=oip.InferenceRequest)
        for one in oip.parse_inputs(request.inputs, rest):
            array = one.read(np.dtype("float32"), one.shape)
            assert array.shape == one.shape
