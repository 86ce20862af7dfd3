"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`.

    request = MESSAGES["ModelInferRequest"](model_name="digits").SerializeToString()
    response = await api.answer("ModelInfer", request, context)

Models, tensors and parameters are described in `serve.protocols.oip.inference`. Input tensors are
raw or typed contents, output tensors are raw.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from ipaddress import ip_address
from math import prod
from typing import Any
from urllib.parse import unquote

import grpc  # type: ignore[import-untyped]
import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from serve.errors import HTTPError, internal_error
from serve.http import CLOSE, Headers
from serve.protocols.oip import inference
from serve.protocols.oip.inference import EXTENSIONS, InferenceCall, InferenceResult, LazyTensor
from serve.protocols.oip.protobuf import MESSAGES, parsed_bytes
from serve.protocols.oip.tensor_bytes import DATATYPES, as_texts, from_bytes, to_bytes
from serve.request_context import RequestContext
from serve.sampler import PARSE_INLINE_BYTES, Sampler

API = "oip-grpc"

RECEIVING = 4
"""Maximum number of messages of one key that are received at a time."""
RECEIVING_ALL = 16
"""Maximum over all keys together."""

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

    `check_health` and `check_ready` raise the errors of /healthz and /readyz. With
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
        self._receiving = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(RECEIVING))
        self._receiving_all = asyncio.Semaphore(RECEIVING_ALL)
        self._methods: Mapping[str, Callable[[Any, Any], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }

    @asynccontextmanager
    async def reception(self, metadata: Any) -> AsyncIterator[bool]:
        """Wait until a call's message may be read; False if its key is refused.

        The size of a message is known only once it is received, so only RECEIVING of a key are on
        their way. Raises TimeoutError after limits.max_body_seconds.
        """
        try:
            key = self._sampler.admit(_headers(metadata))
        except HTTPError:
            yield False
            return
        own = nullcontext() if key is None else self._receiving[key.name]
        # The wait counts as well: one key cannot block the others for long.
        async with asyncio.timeout(self._sampler.limits.max_body_seconds):
            async with own, self._receiving_all:
                yield True

    async def answer(self, method: str, request: bytes, context: Any) -> Any:
        """The response to `request`; an empty one for an error, whose code is in the context.

        Ray and grpc.aio send no message beside a code, and log exceptions as their own errors.
        """
        try:
            if self._local_only and not is_local(context.peer()):
                message = "this server accepts gRPC calls through its proxy only"
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

    async def _model_ready(self, data: bytes, context: Any) -> Any:
        try:
            self._sampler.admit(_headers(context.invocation_metadata()))
            request = _parsed("ModelReadyRequest", data)
            inference.runners(self._sampler, request.name, request.version)
        except HTTPError:
            return MESSAGES["ModelReadyResponse"](ready=False)
        return MESSAGES["ModelReadyResponse"](ready=True)

    async def _model_metadata(self, data: bytes, context: Any) -> Any:
        self._sampler.admit(_headers(context.invocation_metadata()))
        request = _parsed("ModelMetadataRequest", data)
        metadata = inference.describe(self._sampler, request.name, request.version)
        return MESSAGES["ModelMetadataResponse"](**metadata)

    async def _model_infer(self, data: bytes, context: Any) -> Any:
        async def work(request_context: RequestContext) -> Any:
            request_context.request_id = request_id(context)
            request = await self._read(data, request_context)
            if request_context.access.named:
                request_context.access.identify(API, request.SerializeToString(deterministic=True))
            for output in request.outputs:
                _refuse_parameters(f"output {output.name[:100]!r}", output.parameters)
            result = await inference.infer(
                self._sampler,
                request_context,
                InferenceCall(
                    model=request.model_name,
                    version=request.model_version,
                    parameters={k: _value(k, v) for k, v in request.parameters.items()},
                    inputs=parse_inputs(request),
                    outputs=[output.name for output in request.outputs],
                ),
            )
            context.set_trailing_metadata(_metadata(result.headers))
            reply = response(result, request.id)
            request_context.num_bytes = reply.ByteSize()
            return reply

        headers = _headers(context.invocation_metadata())
        return await self._sampler.track(API, headers, work)

    async def _read(self, data: bytes, request_context: RequestContext) -> Any:
        """The ModelInferRequest; its bytes are held. Raises HTTPError 400, 413, 429 or 503."""
        most = self._sampler.limits.max_request_bytes
        if len(data) > most:
            message = f"the request must be at most {most} bytes, got {len(data)}"
            raise HTTPError(413, "body_too_large", message)
        request_context.hold(len(data))
        if len(data) >= PARSE_INLINE_BYTES:
            try:
                counting = partial(parsed_bytes, data, 2 * most)
                size = await self._sampler.parse(request_context, data, counting)
            except ValueError as error:
                raise _malformed(f"{error}") from None
            if size > 2 * most:
                message = (
                    f"the request takes more than {2 * most} bytes once it is read; send"
                    " raw_input_contents"
                )
                raise HTTPError(413, "body_too_large", message)
            request_context.hold(size)
        reading = partial(_parsed, "ModelInferRequest", data, most)
        return await self._sampler.parse(request_context, data, reading)


def _parsed(message: str, data: bytes, most: int = PARSE_INLINE_BYTES) -> Any:
    """Parse a message. Raises HTTPError 400 or 413."""
    if len(data) > most:
        raise HTTPError(413, "body_too_large", f"the request must be at most {most} bytes")
    try:
        return MESSAGES[message].FromString(data)
    except DecodeError as error:
        raise _malformed(f"{error}") from None


def _malformed(reason: str) -> HTTPError:
    return HTTPError(
        400, "malformed_body", f"the request is not a message of the protocol: {reason}"
    )


def is_local(peer: str) -> bool:
    """True if `ipv4:ADDRESS:PORT`, `ipv6:[ADDRESS]:PORT` or `unix:PATH` is on this machine."""
    kind, _, address = peer.partition(":")
    if kind == "unix":
        return True
    try:
        host = ip_address(unquote(address).rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return (getattr(host, "ipv4_mapped", None) or host).is_loopback


def status_code(error: HTTPError) -> Any:
    """The gRPC status of an error."""
    if error.code == "overloaded":
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(error.status, grpc.StatusCode.INTERNAL)


def request_id(context: Any) -> str:
    """Request ID of the client, or else of Serve, from Serve's trailing metadata."""
    metadata = (*(context.trailing_metadata() or ()), *(context.invocation_metadata() or ()))
    ids = (str(value) for name, value in metadata if name == "request_id")
    return next(ids, "")[:200]


def _fail(context: Any, code: Any, message: str) -> None:
    context.set_code(code)
    context.set_details(message)


def _headers(metadata: Any) -> list[tuple[bytes, bytes]]:
    """Metadata of a call as HTTP headers; values are text or bytes."""
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in metadata or ()
    ]


def _metadata(headers: Headers) -> list[tuple[str, str]]:
    """HTTP headers as metadata, without the Connection header that HTTP/2 forbids."""
    return [(name.decode(), value.decode()) for name, value in headers if (name, value) != CLOSE]


def parse_inputs(request: Any) -> list[LazyTensor]:
    """The input tensors of a ModelInferRequest. Raises HTTPError 400."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise HTTPError(
            400,
            "wrong_size",
            f"raw_input_contents must have one entry for each input: there are"
            f" {len(request.inputs)} inputs, got {len(raw)}",
        )
    tensors = []
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
        tensors.append(
            LazyTensor(name=tensor.name, datatype=tensor.datatype, shape=shape, read=read)
        )
    return tensors


def from_contents(
    name: str, contents: Any, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Decode typed contents, C order. Raises HTTPError 400 unless their number fits."""
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


def response(result: InferenceResult, request_id: str) -> Any:
    """The ModelInferResponse of a result."""
    message = MESSAGES["ModelInferResponse"](
        model_name=result.model,
        model_version=result.version,
        id=request_id,
        outputs=[
            {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": array.shape}
            for name, array in result.outputs.items()
        ],
        raw_output_contents=[to_bytes(array) for array in result.outputs.values()],
    )
    for name, value in result.parameters.items():
        if isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].string_param = value
    return message
