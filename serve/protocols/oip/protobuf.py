"""Messages and service definition of the Open Inference Protocol over gRPC.

    server = grpc.aio.server()
    add_to_server(servicer, server)         # servicer has one method for each of METHODS

Ray's processes import this module by name, so it must stay light:

    grpc_servicer_functions: [serve.protocols.oip.protobuf.add_to_server]

Names and field numbers are those of the protocol (package `inference`); the descriptors are built
from the table below. They have a pool of their own, since protobuf accepts a name once per pool and
tritonclient defines the same ones.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

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
"""Method `X` takes an XRequest and returns an XResponse."""

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
    """The table as a proto3 file descriptor."""
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
    """Top-level messages as classes of this module, where pickle looks for them."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    classes = {}
    for name in _MESSAGES:
        if "." not in name:
            descriptor = pool.FindMessageTypeByName(f"inference.{name}")
            classes[name] = message_factory.GetMessageClass(descriptor)
            classes[name].__module__ = __name__
    return classes


MESSAGES = _messages()


def __getattr__(name: str) -> Any:
    """A message class by name, for pickle."""
    if name in MESSAGES:
        return MESSAGES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Reception(Protocol):
    """Decides when the message of a call may be read."""

    def __call__(self, metadata: Any) -> AbstractAsyncContextManager[bool]:
        """Entered before the message is read, and left once it is received.

        False for an unknown caller, whose message is not read. Raises TimeoutError.
        """


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handlers of the service's calls, each declared as a stream of which one message is read.

    gRPC would read the whole message of a unary call before any of our code runs.
    """

    reception: Reception | None = None

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        # Ray replaces the handlers that it finds under this name.
        self._method_handlers = {f"/{SERVICE}/{name}": one for name, one in handlers.items()}

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        handler = self._method_handlers.get(method)
        if handler is None:
            return None
        metadata = handler_call_details.invocation_metadata
        reads, reception = method.rpartition("/")[2] not in _EMPTY, self.reception

        async def answer(messages: Any, context: Any) -> Any:
            message = b""
            try:
                if reads and reception is not None:
                    async with reception(metadata) as known:
                        message = await anext(messages, b"") if known else b""
                elif reads:
                    message = await anext(messages, b"")
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, TOO_SLOW)
            return await handler.unary_unary(message, context)

        return grpc.stream_unary_rpc_method_handler(
            answer, response_serializer=handler.response_serializer
        )


_EMPTY = ("ServerLive", "ServerReady", "ServerMetadata")
"""Methods whose requests are empty and not read."""


def receive_by(reception: Reception) -> None:
    """Set the reception of all servers of this process.

    For Ray's, which call add_to_server() by name and without arguments of ours.
    """
    _Calls.reception = staticmethod(reception)


def add_to_server(servicer: Any, server: Any, reception: Reception | None = None) -> None:
    """Route the service's methods to the servicer's methods of the same names.

    They receive messages as bytes, empty if the message was not read.
    """
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            response_serializer=MESSAGES[f"{method}Response"].SerializeToString,
        )
        for method in METHODS
    }
    calls = _Calls(handlers)
    if reception is not None:
        calls.reception = reception
    server.add_generic_rpc_handlers((calls,))


TOO_SLOW = "the message did not arrive in time; send a smaller one, or fewer at a time"

MAX_FIELDS = 1 << 15
"""Maximum number of fields of a request: each may take two bytes on the wire, and hundreds in
memory."""

FIELD_BYTES = 128
"""Approximate memory of a field beside its value."""

_PACKED = {_Field.TYPE_BOOL: 1, _Field.TYPE_INT32: 4, _Field.TYPE_UINT32: 4}
_PACKED |= {_Field.TYPE_INT64: 8, _Field.TYPE_UINT64: 8}
"""Memory of a number, which may be one byte on the wire."""


def parsed_bytes(data: bytes, most: int) -> int:
    """Approximate memory of a parsed ModelInferRequest, in bytes; stops beyond `most`.

    Raises ValueError for what is no message, or one of more than MAX_FIELDS fields.
    """
    total = num_fields = 0
    parts = [(0, len(data), MESSAGES["ModelInferRequest"].DESCRIPTOR)]
    while parts and total <= most:
        at, end, descriptor = parts.pop()
        fields = descriptor.fields_by_number
        while at < end and total <= most:
            key, at = _varint(data, at)
            kind, field = key & 7, fields.get(key >> 3)
            num_fields += 1
            total += FIELD_BYTES
            if num_fields > MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS} fields; send raw contents")
            if kind == 2:
                size, at = _varint(data, at)
                if size > end - at:
                    raise ValueError("a field is longer than its message")
                if field is not None and field.message_type is not None:
                    parts.append((at, at + size, field.message_type))
                else:
                    total += size * _PACKED.get(field.type, 1) if field is not None else size
                at += size
                continue
            if kind == 0:
                _, at = _varint(data, at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                raise ValueError(f"a field has wire type {kind}")
    return total


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is cut off")
