"""gRPC's part of the Open Inference Protocol: messages, contents, peers."""

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from aigc.artifact import Artifact, latents
from serve.protocols.oip import protobuf
from serve.protocols.oip.grpc import is_local
from serve.protocols.oip.protobuf import MESSAGES, METHODS
from serve.settings import Limits, Settings
from tests.serve.listening import Listening, listening
from tests.serve.protocols.oip.wires import connected


@pytest.fixture(scope="module")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    limits = Limits(max_batch=4, max_n=100, max_body_bytes=2000, max_tensor_bytes=4000)
    metrics_dir = str(tmp_path_factory.mktemp("metrics"))
    settings = Settings(metrics_dir=metrics_dir, limits=limits, local_only=True)
    with listening(settings, f"{store}/tiny@1", f"{store}/tiny@2") as served:
        yield served


@pytest.fixture
def stub(served: Listening) -> Iterator[Any]:
    """For what the client would not send."""
    with grpc.insecure_channel(served.grpc_address) as channel:
        yield channel.unary_unary(
            f"/{protobuf.SERVICE}/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )


def test_messages_have_the_fields_of_the_protocol() -> None:
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


def test_messages_are_pickled_between_processes() -> None:
    """Ray's own proxy pickles them."""
    message = MESSAGES["ModelInferRequest"](model_name="m", inputs=[{"name": "x", "shape": [1]}])
    assert pickle.loads(pickle.dumps(message)) == message
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = protobuf.Nothing


def test_typed_contents_are_read_as_raw_ones(stub: Any, artifact: Artifact) -> None:
    images = latents.normal(1, range(9), (1, 8, 8))
    expected = artifact.run("encode", {"image": images})["vector"].tobytes()
    request = service_pb2.ModelInferRequest(model_name="tiny:encode", model_version="1")
    one = request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    one.contents.fp32_contents.extend(images.ravel().tolist())
    assert list(stub(request).raw_output_contents) == [expected]


def test_trailing_metadata_names_model_and_replica(stub: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="tiny")
    _, call = stub.with_call(request)
    metadata = dict(call.trailing_metadata())
    assert metadata["x-aigc-model"] == "tiny@2"
    assert metadata["x-aigc-replica"] == "replica-7"


def test_a_message_beyond_the_limits_is_refused(served: Listening) -> None:
    with connected("grpc", served) as wire:
        refusal = wire.refusal("tiny:encode", [("image", np.zeros((30, 1, 8, 8), np.float32))])
    assert refusal.status == "RESOURCE_EXHAUSTED"
    assert "the request must be at most 6000 bytes, got" in refusal.message


def latent_request(**fields: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="tiny", **fields)
    request.inputs.add(name="latent", datatype="FP32", shape=[1, 16])
    return request


def test_contents_that_do_not_fit_are_refused(stub: Any) -> None:
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
    ranked = latent_request()
    ranked.outputs.add(name="image").parameters["classification"].int64_param = 2
    assert "'classification'; there are none" in refused(ranked)
    empty = latent_request()
    empty.parameters["seed"].SetInParent()
    assert "'seed' has no value" in refused(empty)


@given(st.binary(max_size=80))
def test_any_message_is_answered_or_refused(served: Listening, data: bytes) -> None:
    with grpc.insecure_channel(served.grpc_address) as channel:
        call = channel.unary_unary(f"/{protobuf.SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(data)
    assert caught.value.code() != grpc.StatusCode.OK


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
    served: Listening, peer: str, local: bool
) -> None:
    assert is_local(peer) is local
    context = SimpleNamespace(
        peer=lambda: peer,
        set_code=lambda code: setattr(context, "code", code),
        set_details=lambda text: setattr(context, "details", text),
        set_trailing_metadata=lambda metadata: None,
        code=None,
    )
    api = served.replica.grpc
    request = MESSAGES["ServerLiveRequest"]()
    assert asyncio.run(api.answer("ServerLive", request, context)).live is local
    assert context.code == (None if local else grpc.StatusCode.PERMISSION_DENIED)
