"""The messages and the service of the Open Inference Protocol over gRPC, and nothing that serves.

    server = grpc.aio.server()
    add_to_server(servicer, server)         # servicer has one method for each of METHODS

Ray's processes import this by name, so it must stay light:

    grpc_servicer_functions: [serve.dialects.protobuf.add_to_server]

Names and field numbers are the protocol's (package `inference`): they are the contract, and the
rest is built from the table here. The descriptors live in a pool of their own, as protobuf takes a
name once per pool and tritonclient brings the same ones.
"""

from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

SERVICE = "inference.GRPCInferenceService"
METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
)
"""`X` takes an XRequest and gives an XResponse."""

_NAMED = "string name = 1; string version = 2"
_TENSOR = (
    "string name = 1; string datatype = 2; repeated int64 shape = 3; map InferParameter parameters"
    " = 4; InferTensorContents contents = 5"
)
_MESSAGES = {
    "InferParameter": "oneof bool bool_param = 1; oneof int64 int64_param = 2; oneof string"
    " string_param = 3; oneof double double_param = 4; oneof uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2;"
    " repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64"
    " uint64_contents = 5; repeated float fp32_contents = 6; repeated double fp64_contents = 7;"
    " repeated bytes bytes_contents = 8",
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": f"{_NAMED}; repeated string extensions = 3",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "bool ready = 1",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3;"
    " repeated ModelMetadataResponse.TensorMetadata inputs = 4; repeated"
    " ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64"
    " shape = 3",
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3; map"
    " InferParameter parameters = 4; repeated ModelInferRequest.InferInputTensor inputs = 5;"
    " repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; repeated bytes"
    " raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1; map InferParameter"
    " parameters = 2",
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3; map"
    " InferParameter parameters = 4; repeated ModelInferResponse.InferOutputTensor outputs = 5;"
    " repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": _TENSOR,
}
"""Fields as `[oneof|repeated|map] type name = number`; a map's keys are strings."""

_Field = descriptor_pb2.FieldDescriptorProto


def _file() -> Any:
    """The table as a file of proto3."""
    file = descriptor_pb2.FileDescriptorProto(
        name="aigc/inference.proto", package="inference", syntax="proto3"
    )
    messages: dict[str, Any] = {}
    for name, fields in _MESSAGES.items():
        outer, _, inner = name.partition(".")
        messages[name] = (
            messages[outer].nested_type.add(name=inner)
            if inner
            else file.message_type.add(name=name)
        )
        for field in filter(None, fields.split("; ")):
            _add_field(messages[name], name, field)
    return file


def _add_field(message: Any, owner: str, declaration: str) -> None:
    *label, kind, name, _, number = declaration.split()
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if label == ["oneof"]:
        field.oneof_index = 0
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
    elif label:
        field.label = _Field.LABEL_REPEATED
    if label == ["map"]:
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, owner, "string key = 1")
        _add_field(entry, owner, f"{kind} value = 2")
        kind = f"{owner}.{entry.name}"
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{kind}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind.upper()}")


def _messages() -> dict[str, Any]:
    """Every message that is no part of another, as a class of this module, as pickle wants it."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    found = {}
    for name in _MESSAGES:
        if "." not in name:
            descriptor = pool.FindMessageTypeByName(f"inference.{name}")
            found[name] = message_factory.GetMessageClass(descriptor)
            found[name].__module__ = __name__
    return found


MESSAGES = _messages()


def __getattr__(name: str) -> Any:
    """A message by its name: where pickle looks for its class."""
    if name in MESSAGES:
        return MESSAGES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def add_to_server(servicer: Any, server: Any) -> None:
    """Answer the methods of the service by the servicer's methods of the same names."""
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=MESSAGES[f"{method}Request"].FromString,
            response_serializer=MESSAGES[f"{method}Response"].SerializeToString,
        )
        for method in METHODS
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))
