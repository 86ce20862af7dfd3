"""Texts over the Open Inference Protocol, as BYTES: tritonclient over HTTP and gRPC."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import (
    InferenceServerException,
    deserialize_bytes_tensor,
    serialize_byte_tensor,
)

from aigc.artifact import Artifact
from serve.errors import HTTPError
from serve.protocols.oip.protobuf import add_to_server
from serve.protocols.oip.tensor_bytes import from_bytes, to_bytes
from serve.settings import Limits, Settings
from tests.serve.artifacts import WORDS_LENGTH
from tests.serve.listening import Listening, listening, servicer

OBJECT = np.dtype(object)


@pytest.fixture(scope="module")
def served(words: str, moods: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    metrics_dir = str(tmp_path_factory.mktemp("metrics"))
    settings = Settings(metrics_dir=metrics_dir, limits=Limits(max_n=40, max_batch=4))
    with listening(settings, words, moods) as served:
        yield served


@pytest.fixture(scope="module")
def grpc_address(served: Listening) -> Iterator[str]:
    """The same replica over gRPC."""
    made: list[Any] = []

    async def start() -> None:
        server = grpc.aio.server()
        add_to_server(servicer(served.replica.grpc), server)
        made.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        made.append(server)

    served.run(start())
    yield made[0]
    served.run(made[1].stop(1))


Infer = Callable[..., Any]


@pytest.fixture(params=["http", "http json", "grpc"])
def wire(request: pytest.FixtureRequest, served: Listening, grpc_address: str) -> Iterator[Any]:
    """A client, and how to make its tensors."""
    if request.param == "grpc":
        with tritonclient.grpc.InferenceServerClient(grpc_address) as client:

            def tensor(name: str, array: Any, datatype: str) -> Any:
                one = tritonclient.grpc.InferInput(name, list(array.shape), datatype)
                return one.set_data_from_numpy(array)

            yield SimpleNamespace(infer=client.infer, tensor=tensor, client=client, outputs=None)
        return
    binary = request.param == "http"
    client = tritonclient.http.InferenceServerClient(served.url.removeprefix("http://"))

    def http_tensor(name: str, array: Any, datatype: str) -> Any:
        one = tritonclient.http.InferInput(name, list(array.shape), datatype)
        return one.set_data_from_numpy(array, binary_data=binary)

    outputs = [tritonclient.http.InferRequestedOutput("text", binary_data=binary)]
    yield SimpleNamespace(infer=client.infer, tensor=http_tensor, client=client, outputs=outputs)
    client.close()


@pytest.fixture(scope="module")
def artifact(words: str) -> Artifact:
    return Artifact.open(words, verify=False)


def strings(result: Any) -> list[str]:
    found = result.as_numpy("text")
    return [one.decode() if isinstance(one, bytes) else one for one in found.tolist()]


def test_texts_of_a_seed(wire: Any, artifact: Artifact) -> None:
    parameters = {"seed": 7, "n": 9, "first_index": 2}
    found = wire.infer("words", [], parameters=parameters, outputs=wire.outputs)
    expected = artifact.texts("sample", artifact.sample(seed=7, n=9, first_index=2))
    assert strings(found) == expected


def test_settings_are_parameters_or_inputs(wire: Any, artifact: Artifact) -> None:
    parameters = {"seed": 7, "n": 5, "max_tokens": 4}
    found = wire.infer("words", [], parameters=parameters, outputs=wire.outputs)
    short = artifact.sample(seed=7, n=5, settings={"max_tokens": 4})
    assert strings(found) == artifact.texts("sample", short)
    most = np.array([1, 24, 3], np.int64)
    given = [wire.tensor("max_tokens", most, "INT64")]
    found = wire.infer("words", given, parameters={"seed": 7}, outputs=wire.outputs)
    inputs = artifact.draw("sample", 7, range(3), None, {"max_tokens": [1, 24, 3]})
    assert strings(found) == artifact.texts("sample", artifact.run("sample", inputs))
    stopped = wire.infer(
        "words", [], parameters={"seed": 7, "n": 9, "stop": "a"}, outputs=wire.outputs
    )
    whole = artifact.texts("sample", artifact.sample(seed=7, n=9))
    assert strings(stopped) == [text.partition("a")[0] for text in whole]


def test_latents_that_are_given(wire: Any, artifact: Artifact) -> None:
    inputs = artifact.draw("sample", 7, range(3))
    given = [wire.tensor(name, inputs[name], "FP32") for name in ("latent", "noise")]
    found = wire.infer("words", given, outputs=wire.outputs)
    assert strings(found) == artifact.texts("sample", artifact.run("sample", inputs))
    cold = wire.infer("words", given, parameters={"top_k": 1}, outputs=wire.outputs)
    inputs["top_k"][:] = 1
    assert strings(cold) == artifact.texts("sample", artifact.run("sample", inputs))


def test_texts_are_encoded_and_decoded(wire: Any, artifact: Artifact) -> None:
    given = np.array(["abba", "jeb hid", ""], object)
    encoded = wire.infer("words:encode", [wire.tensor("text", given, "BYTES")])
    rows = artifact.vocabulary("encode").rows(given.tolist(), WORDS_LENGTH)
    mu = artifact.run("encode", {"text": rows})["mu"]
    assert np.array_equal(encoded.as_numpy("mu"), mu)
    decoded = wire.infer("words:decode", [wire.tensor("latent", mu, "FP32")], outputs=wire.outputs)
    assert strings(decoded) == artifact.texts("decode", artifact.run("decode", {"latent": mu}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array(["aX"], object), "has characters that the model's vocabulary lacks: 'X'"),
        (np.array(["ab" * 12], object), "at most 23 tokens long"),
        (np.array([["a"], ["b"]], object), r"must have shape \[n\], got \[2, 1\]"),
        (np.array([b"\xff"], object), "is not UTF-8|Failed to encode"),
        (np.array(["a"] * 41, object), r"n must be in \[1, 40\]"),
    ],
)
def test_texts_that_are_none_are_refused(wire: Any, given: Any, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        wire.infer("words:encode", [wire.tensor("text", given, "BYTES")])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": -1.0}, r"temperature must be a number in \[0, 100\], got -1"),
        ({"top_k": 99}, r"top_k must be a whole number in \[0, 13\], got 99"),
        ({"warmth": 1}, "unknown parameter 'warmth'; there are: seed, first_index, n, label, stop"),
        ({"stop": 3}, "parameter stop must be a text"),
        ({"n": "3"}, "parameter n must be a whole number"),
    ],
)
def test_parameters_that_are_none_are_refused(
    wire: Any, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        wire.infer("words", [], parameters=parameters)


def test_inputs_of_settings_are_checked(wire: Any) -> None:
    hot = [wire.tensor("temperature", np.array([1, 200], np.float32), "FP32")]
    with pytest.raises(InferenceServerException, match=r"in \[0, 100\], got 200"):
        wire.infer("words", hot)
    with pytest.raises(InferenceServerException, match="give it once"):
        wire.infer("words", hot, parameters={"temperature": 1.0})
    tokens = [wire.tensor("text", np.zeros((1, WORDS_LENGTH), np.int64), "INT64")]
    with pytest.raises(InferenceServerException, match="must be BYTES, got 'INT64'"):
        wire.infer("words:encode", tokens)


def test_metadata_says_bytes(wire: Any) -> None:
    metadata = wire.client.get_model_metadata("words:encode")
    if not isinstance(metadata, dict):
        text = metadata.inputs[0]
        assert (text.datatype, list(text.shape)) == ("BYTES", [-1])
        return
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    sample = wire.client.get_model_metadata("words")
    assert sample["outputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert {"name": "max_tokens", "datatype": "INT64", "shape": [-1]} in sample["inputs"]
    assert not wire.client.is_model_ready("words:step")


def test_a_class_of_texts(wire: Any, moods: str) -> None:
    artifact = Artifact.open(moods, verify=False)
    found = wire.infer(
        "moods", [], parameters={"seed": 1, "n": 4, "label": 1}, outputs=wire.outputs
    )
    expected = artifact.texts("sample", artifact.sample(seed=1, n=4, label=1))
    assert strings(found) == expected


def test_plain_json(served: Listening, artifact: Artifact) -> None:
    answer = httpx.post(f"{served.url}/v2/models/words/infer", json={"parameters": {"seed": 3}})
    (output,) = answer.json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1])
    assert output["data"] == artifact.texts("sample", artifact.sample(seed=3))
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", 1]}]}
    answer = httpx.post(f"{served.url}/v2/models/words:encode/infer", json=body)
    assert answer.status_code == 400
    assert "Expected `str`, got `int`" in answer.json()["error"]
    several = {"parameters": {"stop": ["a", "b"]}}
    answer = httpx.post(f"{served.url}/v2/models/words/infer", json=several)
    assert answer.status_code == 400
    assert "got `array` - at `$.parameters[...]`" in answer.json()["error"]


def test_typed_contents(grpc_address: str, artifact: Artifact) -> None:
    contents = {"bytes_contents": [b"abba", b"j"]}
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "contents": contents}
    with grpc.insecure_channel(grpc_address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        answer = infer(service_pb2.ModelInferRequest(model_name="words:encode", inputs=[tensor]))
        rows = artifact.vocabulary("encode").rows(["abba", "j"], WORDS_LENGTH)
        assert (
            answer.raw_output_contents[0] == artifact.run("encode", {"text": rows})["mu"].tobytes()
        )
        tensor["contents"] = {"bytes_contents": [b"abba"]}
        few = service_pb2.ModelInferRequest(model_name="words:encode", inputs=[tensor])
        with pytest.raises(grpc.RpcError, match="must be 2 texts, got 1"):
            infer(few)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_bytes_are_those_of_the_client(texts: list[str]) -> None:
    array = np.empty(len(texts), object)
    array[:] = texts
    ours = to_bytes(array)
    theirs = serialize_byte_tensor(array)
    assert ours == (theirs.item() if theirs.size else b"")
    assert from_bytes("text", ours, OBJECT, (len(texts),)).tolist() == texts
    assert [one.decode() for one in deserialize_bytes_tensor(ours)] == texts


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_read_or_refused(data: bytes, n: int) -> None:
    try:
        found = from_bytes("text", data, OBJECT, (n,))
    except HTTPError:
        return
    assert to_bytes(found) == data
