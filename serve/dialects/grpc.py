"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`.

    request = MESSAGES["ModelInferRequest"](model_name="digits")
    response = await api.answer("ModelInfer", request, context)

`serve.dialects.tensors` says what models, tensors and parameters there are. Tensors come as
raw or as typed contents and go as raw ones.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from ipaddress import ip_address
from math import prod
from typing import Any
from urllib.parse import unquote

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from serve.call import Call
from serve.dialects import tensors
from serve.dialects.protobuf import MESSAGES
from serve.dialects.tensor_bytes import DATATYPES, as_texts, from_bytes, to_bytes
from serve.dialects.tensors import (
    EXTENSIONS,
    Answer,
    Given,
    Request,
)
from serve.http import Headers, HTTPError, internal_error
from serve.sampling import Sampler

API = "oip-grpc"

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "float32": "fp32_contents",
    "int64": "int64_contents",
    "object": "bytes_contents",
}

logger = logging.getLogger(__name__)


class GrpcApi:
    """The methods of the service in one replica.

    `check_health` and `check_ready` raise where /healthz and /readyz answer an error. With
    `local_only`, calls from other machines are refused.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        check_health: Callable[[], None],
        check_ready: Callable[[], None],
        local_only: bool,
    ) -> None:
        self._sampler = sampler
        self._check_health = check_health
        self._check_ready = check_ready
        self._local_only = local_only
        self._methods: Mapping[str, Callable[[Any, Any], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }

    async def answer(self, method: str, request: Any, context: Any) -> Any:
        """The response to `request`; for an error an empty one, with its code in the context.

        Ray and grpc.aio send no message beside a code, and log what is raised as their own fault.
        """
        try:
            if self._local_only and not is_local(context.peer()):
                message = "this server takes gRPC calls through its proxy only"
                raise HTTPError(403, "not_local", message)
            return await self._methods[method](request, context)
        except HTTPError as error:
            _fail(context, status_code(error), error.message)
            if error.headers:
                context.set_trailing_metadata(_metadata(error.headers))
        except Exception:
            extra = {"request_id": request_id(context)}
            logger.exception("%s failed", method, extra=extra)
            _fail(context, grpc.StatusCode.INTERNAL, internal_error().message)
        return MESSAGES[f"{method}Response"]()

    async def _server_live(self, request: Any, context: Any) -> Any:
        try:
            self._check_health()
        except RuntimeError:
            return MESSAGES["ServerLiveResponse"](live=False)
        return MESSAGES["ServerLiveResponse"](live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        try:
            self._check_ready()
        except HTTPError:
            return MESSAGES["ServerReadyResponse"](ready=False)
        return MESSAGES["ServerReadyResponse"](ready=True)

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](
            name="aigc", version=version("aigc"), extensions=EXTENSIONS[1:]
        )

    async def _model_ready(self, request: Any, context: Any) -> Any:
        try:
            self._sampler.admit(_headers(context))
            tensors.lanes(self._sampler, request.name, request.version)
        except HTTPError:
            return MESSAGES["ModelReadyResponse"](ready=False)
        return MESSAGES["ModelReadyResponse"](ready=True)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        self._sampler.admit(_headers(context))
        metadata = tensors.describe(self._sampler, request.name, request.version)
        return MESSAGES["ModelMetadataResponse"](**metadata)

    async def _model_infer(self, request: Any, context: Any) -> Any:
        async def work(call: Call) -> Any:
            if call.visit.named:
                call.visit.identify(API, request.SerializeToString(deterministic=True))
            limits = self._sampler.limits
            most, size = limits.max_body_bytes + limits.max_tensor_bytes, request.ByteSize()
            if size > most:
                message = f"the request must be at most {most} bytes, got {size}"
                raise HTTPError(413, "body_too_large", message)
            for output in request.outputs:
                _refuse_parameters(f"output {output.name[:100]!r}", output.parameters)
            answer = await tensors.infer(
                self._sampler,
                call,
                Request(
                    model=request.model_name,
                    version=request.model_version,
                    parameters={k: _value(k, v) for k, v in request.parameters.items()},
                    inputs=given(request),
                    outputs=[output.name for output in request.outputs],
                ),
            )
            context.set_trailing_metadata(_metadata(answer.headers))
            reply = response(answer, request.id)
            call.num_bytes = reply.ByteSize()
            return reply

        return await self._sampler.counted(API, _headers(context), work)


def is_local(peer: str) -> bool:
    """Whether `ipv4:ADDRESS:PORT`, `ipv6:[ADDRESS]:PORT` or `unix:PATH` is on this machine."""
    kind, _, address = peer.partition(":")
    if kind == "unix":
        return True
    try:
        host = ip_address(unquote(address).rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return (getattr(host, "ipv4_mapped", None) or host).is_loopback


def status_code(error: HTTPError) -> Any:
    """What an HTTP status is in gRPC."""
    if error.code == "overloaded":
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(error.status, grpc.StatusCode.INTERNAL)


def request_id(context: Any) -> str:
    """What the client, or else Serve, called this call; Serve's trailing metadata tell both."""
    told = (*(context.trailing_metadata() or ()), *(context.invocation_metadata() or ()))
    found = (str(value) for name, value in told if name == "request_id")
    return next(found, "")[:200]


def _fail(context: Any, code: Any, message: str) -> None:
    context.set_code(code)
    context.set_details(message)


def _headers(context: Any) -> list[tuple[bytes, bytes]]:
    """A call's metadata as HTTP headers; values are text or bytes."""
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
    ]


def _metadata(headers: Headers) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in headers]


def given(request: Any) -> list[Given]:
    """The input tensors of a ModelInferRequest. Raises HTTPError 400."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise HTTPError(
            400,
            "wrong_size",
            f"raw_input_contents must have one entry for each input: there are"
            f" {len(request.inputs)} inputs, got {len(raw)}",
        )
    found = []
    for position, tensor in enumerate(request.inputs):
        _refuse_parameters(f"input {tensor.name[:100]!r}", tensor.parameters)
        if raw and tensor.HasField("contents"):
            message = f"input {tensor.name[:100]!r} has contents beside raw_input_contents"
            raise HTTPError(400, "data_twice", message)
        read = (
            partial(from_bytes, tensor.name, raw[position])
            if raw
            else partial(from_contents, tensor.name, tensor.contents)
        )
        shape = tuple(tensor.shape)
        found.append(Given(name=tensor.name, datatype=tensor.datatype, shape=shape, read=read))
    return found


def from_contents(
    name: str, contents: Any, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Typed contents, the last axis fastest. Raises HTTPError 400 unless their number fits."""
    field = _CONTENTS[dtype.name]
    values = getattr(contents, field)
    if len(values) != prod(shape):
        what = "texts" if dtype.kind == "O" else "numbers"
        message = f"{field} of input {name!r} must be {prod(shape)} {what}, got {len(values)}"
        raise HTTPError(400, "wrong_size", message)
    if dtype.kind == "O":
        return as_texts(name, values, shape)
    return np.array(values, dtype).reshape(shape)


def _value(name: str, parameter: Any) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise HTTPError(400, "malformed_parameter", f"parameter {name[:100]!r} has no value")
    return getattr(parameter, choice)


def _refuse_parameters(owner: str, parameters: Any) -> None:
    for name in parameters:
        message = f"{owner} has parameter {name[:100]!r}; there are none"
        raise HTTPError(400, "unknown_parameter", message)


def response(answer: Answer, request_id: str) -> Any:
    """The ModelInferResponse of an answer."""
    message = MESSAGES["ModelInferResponse"](
        model_name=answer.model,
        model_version=answer.version,
        id=request_id,
        outputs=[
            {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": array.shape}
            for name, array in answer.outputs.items()
        ],
        raw_output_contents=[to_bytes(array) for array in answer.outputs.values()],
    )
    for name, value in answer.parameters.items():
        if isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].string_param = value
    return message
