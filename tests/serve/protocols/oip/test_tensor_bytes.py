"""Texts over the Open Inference Protocol, as BYTES: tritonclient over HTTP and gRPC."""

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
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
from serve.protocols.oip.tensor_bytes import from_bytes, to_bytes
from serve.settings import Limits, Settings
from tests.serve.artifacts import WORDS_LENGTH
from tests.serve.listening import Listening, listening
from tests.serve.protocols.oip.wires import WIRES, Wire, connected, rows

OBJECT = np.dtype(object)


@pytest.fixture(scope="module")
def served(words: str, moods: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    metrics_dir = str(tmp_path_factory.mktemp("metrics"))
    settings = Settings(metrics_dir=metrics_dir, limits=Limits(max_n=40, max_batch=4))
    with listening(settings, words, moods) as served:
        yield served


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, served: Listening) -> Iterator[Wire]:
    with connected(request.param, served) as wire:
        yield wire


@pytest.fixture(scope="module")
def artifact(words: str) -> Artifact:
    return Artifact.open(words, verify=False)


def test_infer_gives_the_texts_of_a_seed(wire: Wire, artifact: Artifact) -> None:
    found = wire.infer("words", seed=7, n=9, first_index=2).outputs["text"]
    expected = artifact.texts("sample", artifact.sample(seed=7, n=9, first_index=2))
    assert found == expected


def test_settings_are_parameters_or_inputs(wire: Wire, artifact: Artifact) -> None:
    found = wire.infer("words", seed=7, n=5, max_tokens=4).outputs["text"]
    short = artifact.sample(seed=7, n=5, settings={"max_tokens": 4})
    assert found == artifact.texts("sample", short)
    most = np.array([1, 24, 3], np.int64)
    found = wire.infer("words", [("max_tokens", most)], seed=7).outputs["text"]
    inputs = artifact.draw("sample", 7, range(3), None, {"max_tokens": [1, 24, 3]})
    assert found == artifact.texts("sample", artifact.run("sample", inputs))
    stopped = wire.infer("words", seed=7, n=9, stop="a").outputs["text"]
    whole = artifact.texts("sample", artifact.sample(seed=7, n=9))
    assert stopped == [text.partition("a")[0] for text in whole]


def test_infer_takes_latents_and_noise_of_texts(wire: Wire, artifact: Artifact) -> None:
    inputs = artifact.draw("sample", 7, range(3))
    given = [(name, inputs[name]) for name in ("latent", "noise")]
    found = wire.infer("words", given).outputs["text"]
    assert found == artifact.texts("sample", artifact.run("sample", inputs))
    cold = wire.infer("words", given, top_k=1).outputs["text"]
    inputs["top_k"][:] = 1
    assert cold == artifact.texts("sample", artifact.run("sample", inputs))


def test_infer_encodes_and_decodes_texts(wire: Wire, artifact: Artifact) -> None:
    given = np.array(["abba", "jeb hid", ""], object)
    encoded = wire.infer("words:encode", [("text", given)])
    rows = artifact.vocabulary("encode").rows(given.tolist(), WORDS_LENGTH)
    mu = artifact.run("encode", {"text": rows})["mu"]
    assert np.array_equal(encoded.outputs["mu"], mu)
    decoded = wire.infer("words:decode", [("latent", mu)]).outputs["text"]
    assert decoded == artifact.texts("decode", artifact.run("decode", {"latent": mu}))


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
def test_infer_refuses_texts_it_cannot_read(wire: Wire, given: Any, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        wire.infer("words:encode", [("text", given)])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"warmth": 1}, "unknown parameter 'warmth'; there are: seed, first_index, n, label, stop"),
        ({"stop": 3}, "parameter stop must be a text"),
        ({"n": "3"}, "parameter n must be a whole number"),
    ],
)
def test_infer_refuses_parameters_of_wrong_types(
    wire: Wire, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        wire.infer("words", **parameters)


def test_infer_checks_settings_given_as_tensors(wire: Wire) -> None:
    hot = [("temperature", rows(1, 200))]
    with pytest.raises(InferenceServerException, match=r"in \[0, 100\], got 200"):
        wire.infer("words", hot)
    with pytest.raises(InferenceServerException, match="give it once"):
        wire.infer("words", hot, temperature=1.0)
    tokens = [("text", np.zeros((1, WORDS_LENGTH), np.int64))]
    with pytest.raises(InferenceServerException, match="must be BYTES, got 'INT64'"):
        wire.infer("words:encode", tokens)


def test_metadata_describes_texts_as_bytes(wire: Wire) -> None:
    text = {"name": "text", "datatype": "BYTES", "shape": [-1]}
    assert wire.metadata("words:encode")["inputs"] == [text]
    sample = wire.metadata("words")
    assert sample["outputs"] == [text]
    assert {"name": "max_tokens", "datatype": "INT64", "shape": [-1]} in sample["inputs"]
    assert not wire.client.is_model_ready("words:step")


def test_infer_gives_texts_of_a_class(wire: Wire, moods: str) -> None:
    artifact = Artifact.open(moods, verify=False)
    found = wire.infer("moods", seed=1, n=4, label=1).outputs["text"]
    expected = artifact.texts("sample", artifact.sample(seed=1, n=4, label=1))
    assert found == expected


def test_json_holds_texts_as_strings(served: Listening, artifact: Artifact) -> None:
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


def test_typed_contents_hold_texts_as_bytes(served: Listening, artifact: Artifact) -> None:
    contents = {"bytes_contents": [b"abba", b"j"]}
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "contents": contents}
    with grpc.insecure_channel(served.grpc_address) as channel:
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
def test_to_bytes_gives_the_bytes_of_the_client(texts: list[str]) -> None:
    array = np.empty(len(texts), object)
    array[:] = texts
    ours = to_bytes(array)
    theirs = serialize_byte_tensor(array)
    assert ours == (theirs.item() if theirs.size else b"")
    assert from_bytes("text", ours, OBJECT, (len(texts),)).tolist() == texts
    assert [one.decode() for one in deserialize_bytes_tensor(ours)] == texts


@given(st.binary(max_size=40), st.integers(0, 5))
def test_from_bytes_reads_or_refuses_any_bytes(data: bytes, n: int) -> None:
    try:
        found = from_bytes("text", data, OBJECT, (n,))
    except HTTPError:
        return
    assert to_bytes(found) == data
