"""HTTP's part of the Open Inference Protocol: JSON, sizes of binary data, routes, status."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc.artifact import Artifact, latents
from serve.errors import HTTPError
from serve.protocols.oip import rest as oip
from serve.protocols.oip.inference import InferenceResult
from tests.serve.client import Client, limited, serving
from tests.serve.listening import Gate

Triton = tritonclient.http.InferenceServerClient


@pytest.fixture
def client(store: Path, metrics_dir: Path) -> Iterator[Client]:
    """Without a socket, for what tritonclient would not send."""
    with serving(limited(metrics_dir, max_n=100), f"{store}/tiny@1") as client:
        yield client


def tensor(name: str, array: Any, *, binary: bool = True) -> tritonclient.http.InferInput:
    datatype = {"float32": "FP32", "int64": "INT64"}[str(array.dtype)]
    one = tritonclient.http.InferInput(name, list(array.shape), datatype)
    return one.set_data_from_numpy(array, binary_data=binary)


def post(client: Client, model: str, **body: Any) -> httpx.Response:
    return client.request("POST", f"/v2/models/{model}/infer", json={"inputs": [], **body})


def refused(client: Client, body: dict[str, Any], model: str = "tiny") -> str:
    status, text = message(post(client, model, **body))
    assert status == 400
    return text


def message(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error"}
    return answer.status_code, body["error"]


def test_json_data_may_be_nested_as_its_shape(client: Client, artifact: Artifact) -> None:
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
    ("one", "text"),
    [
        ({**LATENT, "shape": [10**30, 16]}, "n must be in [1, 100]"),
        ({**LATENT, "shape": [2, 16]}, "must be 32 numbers"),
        ({**LATENT, "data": [1] * 15}, "must be 16 numbers"),
        ({**LATENT, "data": [[[1]] * 16]}, "must be 16 numbers"),
        ({**LATENT, "data": [[1] * 9, [1] * 7]}, "input 'latent'"),
        ({**LATENT, "data": ["1"] * 16}, "got `str`"),
        ({**LATENT, "data": 1}, "must be 16 numbers"),
        ({**LABEL, "data": [2**70]}, "input 'label'"),
        ({**LABEL, "data": [1.5]}, "got `float`"),
        ({**LABEL, "parameters": {"binary_data_size": 8}}, "either data or binary_data_size"),
        (
            {**LABEL, "parameters": {"shared_memory_region": "x"}},
            "'shared_memory_region'; there is only binary_data_size",
        ),
        ({"name": "label"}, "missing required field `datatype`"),
    ],
)
def test_json_tensors_that_do_not_fit_are_refused(
    client: Client, one: dict[str, Any], text: str
) -> None:
    assert text in refused(client, {"inputs": [one]})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"parameters": {"sead": 7}}, "unknown parameter 'sead'; there are: seed, first_index, n"),
        ({"parameters": {"label": 2**63}, "inputs": [LATENT]}, f"[0, 10), got {2**63}"),
        ({"parameters": {"binary_data_output": 1}}, "must be true or false"),
        ({"inputs": [LABEL, {**LATENT, "data": [1e39] * 16}]}, "not finite"),
        (
            {"outputs": [{"name": "image", "parameters": {"classification": 2}}]},
            "parameter 'classification'; there is only binary_data",
        ),
    ],
)
def test_json_parameters_of_wrong_types_are_refused(
    client: Client, body: dict[str, Any], text: str
) -> None:
    assert text in refused(client, body)


def test_an_empty_signature_is_not_found(client: Client) -> None:
    status, text = message(post(client, "tiny:"))
    assert (status, "has no signature ''" in text) == (404, True)


def binary(client: Client, head: dict[str, Any], data: bytes, **headers: str) -> httpx.Response:
    document = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(document)), **headers}
    return client.request("POST", "/v2/models/tiny/infer", content=document + data, headers=headers)


def test_sizes_of_binary_data_must_add_up(client: Client) -> None:
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


def test_outputs_are_binary_where_they_were_asked_for_so(client: Client) -> None:
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


def test_pixels_alone_share_batches_with_the_native_protocol(client: Client) -> None:
    async def crowd() -> list[httpx.Response]:
        gate = Gate(client.probe, free=0)
        native: dict[str, Any] = {"model": "tiny", "format": "npy"}
        infer = {"outputs": [{"name": "pixels"}], "parameters": {"n": 2}}
        tasks = [asyncio.create_task(client.http.post("/v1/samples", json=native))]
        while gate.runs == 0:
            await asyncio.sleep(0.01)
        for path, body in [
            ("/v2/models/tiny/infer", infer),
            ("/v1/samples", native | {"n": 2}),
        ] * 8:
            tasks.append(asyncio.create_task(client.http.post(path, json=body)))
        while client.probe.queued < 32:
            await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(*tasks)

    assert {answer.status_code for answer in client.run(crowd())} == {200}
    assert client.probe.count("aigc_batch_samples_count", signature="sample") == 2
    assert client.probe.count("aigc_batch_samples_sum", signature="sample") == 33


def test_a_refusal_for_load_says_when_to_come_back(client: Client) -> None:
    client.probe.batcher.admission.max_queue = 0
    shed = post(client, "tiny")
    assert message(shed)[0] == 503
    assert int(shed.headers["retry-after"]) >= 1


DTYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8"}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    dtype = np.dtype(draw(st.sampled_from(sorted(DTYPES))))
    # Bytes of a seed: hypothesis takes seconds to make as many of its own.
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    data = random.bytes(int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


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
