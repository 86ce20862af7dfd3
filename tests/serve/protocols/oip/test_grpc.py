"""The Open Inference Protocol over gRPC: tritonclient against a replica, and `aigc serve`."""

import asyncio
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from aigc.artifact import Artifact, latents
from serve.batching.batcher import Batcher
from serve.protocols.oip import protobuf
from serve.protocols.oip.grpc import is_local
from serve.protocols.oip.protobuf import MESSAGES, METHODS
from serve.settings import Limits, Settings
from tests.ports import free_port
from tests.serve.listening import GrpcListening
from tests.serve.test_server import Server
from tests.serve.test_server import server as running_server

Triton = tritonclient.grpc.InferenceServerClient


@contextmanager
def connected(address: str) -> Iterator[Triton]:
    with Triton(address) as client:
        yield client


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcListening]:
    limits = Limits(max_batch=4, max_n=100, max_body_bytes=2000, max_tensor_bytes=4000)
    settings = Settings(
        metrics_dir=str(tmp_path_factory.mktemp("metrics")), limits=limits, local_only=True
    )
    with GrpcListening(settings, f"{store}/tiny@1", f"{store}/tiny@2") as listening:
        yield listening


@pytest.fixture
def triton(server: GrpcListening) -> Iterator[Triton]:
    with connected(server.address) as client:
        yield client


@pytest.fixture
def stub(server: GrpcListening) -> Iterator[Any]:
    """For what the client would not send."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel.unary_unary(
            f"/{protobuf.SERVICE}/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )


def tensor(name: str, array: Any) -> tritonclient.grpc.InferInput:
    datatype = {"float32": "FP32", "int64": "INT64"}[str(array.dtype)]
    one = tritonclient.grpc.InferInput(name, list(array.shape), datatype)
    return one.set_data_from_numpy(array)


def output(name: str) -> tritonclient.grpc.InferRequestedOutput:
    return tritonclient.grpc.InferRequestedOutput(name)


def test_the_messages_are_those_of_the_protocol() -> None:
    def fields(descriptor: Any) -> dict[str, Any]:
        return {
            field.name: (
                field.number,
                field.type,
                field.is_repeated,
                field.containing_oneof.name if field.containing_oneof else None,
                fields(field.message_type) if field.message_type else None,
            )
            for field in descriptor.fields
        }

    for name, message in MESSAGES.items():
        theirs = getattr(service_pb2, name).DESCRIPTOR
        assert message.DESCRIPTOR.full_name == theirs.full_name
        assert fields(message.DESCRIPTOR) == fields(theirs), name
    assert set(METHODS) == {name.removesuffix("Request") for name in MESSAGES if "Request" in name}


def test_messages_travel_between_processes() -> None:
    """Ray's own proxy pickles them."""
    message = MESSAGES["ModelInferRequest"](model_name="m", inputs=[{"name": "x", "shape": [1]}])
    assert pickle.loads(pickle.dumps(message)) == message
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = protobuf.Nothing


def test_health_and_metadata(triton: Triton) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata().name == "aigc"
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny:encode", "1")
    assert not triton.is_model_ready("tiny", "3")
    assert not triton.is_model_ready("none")
    metadata = triton.get_model_metadata("tiny", as_json=True)
    assert metadata == {
        "name": "tiny",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "latent", "datatype": "FP32", "shape": ["-1", "16"]},
            {"name": "label", "datatype": "INT64", "shape": ["-1"]},
        ],
        "outputs": [
            {"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]},
            {"name": "pixels", "datatype": "UINT8", "shape": ["-1", "8", "8", "1"]},
        ],
    }


def test_a_seed_gives_what_the_artifact_gives(triton: Triton, artifact: Artifact) -> None:
    sampling = {"seed": 2**53 - 1, "n": 6, "first_index": 3, "label": 4}
    outputs = [output("pixels"), output("image")]
    result = triton.infer("tiny", [], "1", outputs, request_id="42", parameters=sampling)
    expected = artifact.sample(seed=2**53 - 1, n=6, first_index=3, label=4)
    assert result.as_numpy("image").tobytes() == expected["image"].tobytes()
    assert np.array_equal(result.as_numpy("pixels"), artifact.uint8("sample", expected))
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("42", "tiny", "1")
    assert [one.name for one in response.outputs] == ["pixels", "image"]
    assert response.parameters["seed"].int64_param == 2**53 - 1
    assert response.parameters["first_index"].int64_param == 3
    assert response.parameters["digest"].string_param == artifact.manifest.digest
    alone = triton.infer("tiny", [], "1", outputs[:1], parameters=sampling)
    assert np.array_equal(alone.as_numpy("pixels"), result.as_numpy("pixels"))


def test_a_seed_is_drawn_and_returned(triton: Triton) -> None:
    first, second = triton.infer("tiny", []), triton.infer("tiny", [])
    seed = first.get_response().parameters["seed"].int64_param
    assert seed != second.get_response().parameters["seed"].int64_param
    again = triton.infer("tiny", [], parameters={"seed": seed})
    assert again.as_numpy("image").tobytes() == first.as_numpy("image").tobytes()
    assert again.get_response().id == ""


def test_latents_of_a_seed_are_its_samples(triton: Triton, artifact: Artifact) -> None:
    z, labels = latents.normal(9, range(10), (16,)), latents.labels(9, range(10), 10)
    result = triton.infer("tiny", [tensor("latent", z), tensor("label", labels)], "1")
    expected = artifact.sample(seed=9, n=10)["image"].tobytes()
    assert result.as_numpy("image").tobytes() == expected
    assert "seed" not in result.get_response().parameters
    seeded = triton.infer("tiny", [tensor("label", labels)], "1", parameters={"seed": 9})
    assert seeded.as_numpy("image").tobytes() == expected


def test_typed_contents_are_raw_contents(triton: Triton, stub: Any, artifact: Artifact) -> None:
    images = latents.normal(1, range(9), (1, 8, 8))
    raw = triton.infer("tiny:encode", [tensor("image", images)], "1").as_numpy("vector")
    assert raw.tobytes() == artifact.run("encode", {"image": images})["vector"].tobytes()
    request = service_pb2.ModelInferRequest(model_name="tiny:encode", model_version="1")
    one = request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    one.contents.fp32_contents.extend(images.ravel().tolist())
    assert list(stub(request).raw_output_contents) == [raw.tobytes()]


def test_trailing_metadata_says_who_answered(stub: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="tiny")
    _, call = stub.with_call(request)
    metadata = dict(call.trailing_metadata())
    assert metadata["x-aigc-model"] == "tiny@2"
    assert metadata["x-aigc-replica"] == "replica-7"


def test_the_asynchronous_client(server: GrpcListening, artifact: Artifact) -> None:
    import tritonclient.grpc.aio

    async def crowd() -> list[Any]:
        async with tritonclient.grpc.aio.InferenceServerClient(server.address) as client:
            calls = (
                client.infer("tiny", [], "1", parameters={"seed": i, "n": i + 1}) for i in range(20)
            )
            return await asyncio.gather(*calls)

    for i, result in enumerate(asyncio.run(crowd())):
        expected = artifact.sample(seed=i, n=i + 1)["image"]
        assert result.as_numpy("image").tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("none", {}, ("NOT_FOUND", "unknown model 'none'; hosted are: tiny@1, tiny@2")),
        ("tiny", {"model_version": "7"}, ("NOT_FOUND", "unknown model 'tiny@7'")),
        ("tiny:dream", {}, ("NOT_FOUND", "has no signature 'dream'")),
        ("tiny:encode", {}, ("INVALID_ARGUMENT", "needs image as input")),
        ("tiny", {"parameters": {"sead": 7}}, ("INVALID_ARGUMENT", "unknown parameter 'sead'")),
        ("tiny", {"parameters": {"n": 101}}, ("INVALID_ARGUMENT", "n must be in [1, 100]")),
        ("tiny", {"parameters": {"n": 2.0}}, ("INVALID_ARGUMENT", "must be a whole number")),
        ("tiny", {"parameters": {"label": 12}}, ("INVALID_ARGUMENT", "in [0, 10), got 12")),
        ("tiny", {"outputs": [output("x")]}, ("INVALID_ARGUMENT", "gives no output 'x'")),
        (
            "tiny",
            {"outputs": [tritonclient.grpc.InferRequestedOutput("image", class_count=2)]},
            ("INVALID_ARGUMENT", "'classification'; there are none"),
        ),
        (
            "tiny",
            {"inputs": [tensor("latent", np.full((1, 16), np.nan, np.float32))]},
            ("INVALID_ARGUMENT", "not finite"),
        ),
        (
            "tiny",
            {"inputs": [tensor("latent", np.zeros((1, 15), np.float32))]},
            ("INVALID_ARGUMENT", "must have shape [n, 16], got [1, 15]"),
        ),
        (
            "tiny:encode",
            {"inputs": [tensor("image", np.zeros((30, 1, 8, 8), np.float32))]},
            ("RESOURCE_EXHAUSTED", "the request must be at most 6000 bytes, got"),
        ),
    ],
)
def test_what_is_wrong_is_said(
    triton: Triton, model: str, options: dict[str, Any], expected: tuple[str, str]
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(model, **{"inputs": [], **options})
    assert caught.value.status() == f"StatusCode.{expected[0]}"
    assert expected[1] in caught.value.message()


def latent_request(**fields: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="tiny", **fields)
    request.inputs.add(name="latent", datatype="FP32", shape=[1, 16])
    return request


def test_contents_must_fit(stub: Any) -> None:
    def refused(request: Any) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            stub(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        return str(caught.value.details())

    assert "must be 16 numbers, got 0" in refused(latent_request())
    assert "has 64 bytes, got 3" in refused(latent_request(raw_input_contents=[b"abc"]))
    assert "1 inputs, got 2" in refused(latent_request(raw_input_contents=[b"", b""]))
    both = latent_request(raw_input_contents=[b"\0" * 64])
    both.inputs[0].contents.fp32_contents.append(1)
    assert "contents beside raw" in refused(both)
    negative = latent_request()
    negative.inputs[0].shape[0] = -1
    assert "n must be in [1, 100]" in refused(negative)
    shared = latent_request()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "x"
    assert "'shared_memory_region'; there are none" in refused(shared)
    empty = latent_request()
    empty.parameters["seed"].SetInParent()
    assert "'seed' has no value" in refused(empty)


@given(st.binary(max_size=80))
def test_any_message_is_answered_or_refused(server: GrpcListening, data: bytes) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{protobuf.SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(data)
    assert caught.value.code() != grpc.StatusCode.OK


def test_requests_are_counted(store: Path, metrics_dir: Path) -> None:
    with (
        GrpcListening(Settings(metrics_dir=str(metrics_dir)), f"{store}/tiny@1") as listening,
        connected(listening.address) as triton,
    ):
        triton.infer("tiny", [])
        for model in ("tiny:encode", "none"):
            with pytest.raises(InferenceServerException):
                triton.infer(model, [])
        counted = {
            (s.labels["api"], s.labels["model"], s.labels["signature"], s.labels["code"]): s.value
            for metric in listening.probe.metrics.requests.collect()
            for s in metric.samples
            if s.name == "aigc_requests_total"
        }
    assert counted == {
        ("oip-grpc", "tiny", "sample", "200"): 1,
        ("oip-grpc", "tiny", "encode", "400"): 1,
        ("oip-grpc", "", "", "404"): 1,
    }


def test_a_failure_is_in_the_log_with_the_call_s_id_and_not_with_the_client(
    store: Path, metrics_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fall(inputs: Any) -> Any:
        raise RuntimeError("secret detail")

    settings = Settings(metrics_dir=str(metrics_dir))
    with GrpcListening(settings, f"{store}/tiny@1") as listening:
        listening.probe.model().tensors["sample"].run = fall  # type: ignore[method-assign]
        with connected(listening.address) as client, pytest.raises(InferenceServerException) as no:
            client.infer("tiny", [], headers={"request_id": "order-66"})
    assert "secret" not in str(no.value)
    (record,) = caplog.records
    assert record.request_id == "order-66"  # type: ignore[attr-defined]
    assert "secret detail" in caplog.text


def test_not_ready_and_overloaded(store: Path, metrics_dir: Path) -> None:
    limits = Limits(max_n=4, max_queue=4, max_batch=1)
    settings = Settings(metrics_dir=str(metrics_dir), limits=limits)
    with GrpcListening(settings) as listening, connected(listening.address) as triton:
        assert triton.is_server_live()
        assert not triton.is_server_ready()
        assert not triton.is_model_ready("tiny")
        with pytest.raises(InferenceServerException, match="being loaded") as caught:
            triton.infer("tiny", [])
        assert caught.value.status() == "StatusCode.UNAVAILABLE"

    with (
        GrpcListening(settings, f"{store}/tiny@1") as listening,
        connected(listening.address) as one,
    ):
        full = Full(listening.probe.batcher)
        with full, pytest.raises(InferenceServerException, match="the queue is full") as caught:
            one.infer("tiny", [])
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert one.infer("tiny", []).as_numpy("image").shape == (1, 1, 8, 8)


class Full:
    """While it is entered, the queue of a batcher has no room."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def __enter__(self) -> None:
        self._batcher._jobs._count(4)

    def __exit__(self, *_: object) -> None:
        self._batcher._jobs._count(-4)


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:50000", True),
        ("ipv6:%5B::1%5D:50000", True),
        ("ipv6:[::ffff:127.0.0.1]:50000", True),
        ("unix:/run/socket", True),
        ("ipv4:192.168.1.7:50000", False),
        ("ipv6:%5B::ffff:192.168.1.7%5D:50000", False),
        ("ipv6:[fe80::1]:50000", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_only_this_machine_may_call_a_replica_directly(
    server: GrpcListening, peer: str, local: bool
) -> None:
    assert is_local(peer) is local
    context = SimpleNamespace(
        peer=lambda: peer,
        set_code=lambda code: setattr(context, "code", code),
        set_details=lambda text: setattr(context, "details", text),
        set_trailing_metadata=lambda metadata: None,
        code=None,
    )
    api = server.replica.grpc
    request = MESSAGES["ServerLiveRequest"]()
    assert asyncio.run(api.answer("ServerLive", request, context)).live is local
    assert context.code == (None if local else grpc.StatusCode.PERMISSION_DENIED)


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_the_command_serves_both_wires(store: Path, tmp_path: Path, artifact: Artifact) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"{store}/tiny@1", "--grpc-port", address.rpartition(":")[2], "--replicas", "2"]
    with running_server(tmp_path, *arguments) as running:
        url = running.wait_until_ready()
        assert f"gRPC     {address}" in running.stderr
        expected = artifact.sample(seed=7, n=5)["image"].tobytes()
        with connected(address) as triton:
            assert triton.is_server_live()
            assert triton.is_server_ready()
            assert triton.get_model_metadata("tiny:encode").platform == "onnxruntime_onnx"
            for _ in range(10):
                result = triton.infer("tiny", [], request_id="7", parameters={"seed": 7, "n": 5})
                assert result.as_numpy("image").tobytes() == expected
                assert result.get_response().id == "7"
            with pytest.raises(InferenceServerException, match=r"in \[0, 10\), got 12") as caught:
                triton.infer("tiny", [], parameters={"label": 12})
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            images = np.zeros((1024, 1, 8, 8), np.float32)
            found = triton.infer("tiny:encode", [tensor("image", images)]).as_numpy("vector")
            assert found.shape == (1024, 4)
            large = np.zeros((80_000, 1, 8, 8), np.float32)
            with pytest.raises(InferenceServerException, match="larger than max") as caught:
                triton.infer("tiny:encode", [tensor("image", large)])
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        body = {"inputs": [], "parameters": {"seed": 7, "n": 5}}
        answer = httpx.post(f"{url}/v2/models/tiny/infer", json=body).json()
        found = np.array(answer["outputs"][0]["data"], np.float32)
        assert found.tobytes() == expected
        assert running.total("aigc_requests_total", "api=oip-grpc", "code=200") == 11
        assert stops_cleanly(running)


def stops_cleanly(running: Server) -> bool:
    tree = running.tree()
    status, rest = running.stop()
    return (status, rest) == (0, "") and not any(process.is_running() for process in tree)
