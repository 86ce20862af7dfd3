"""The Open Inference Protocol, version 2, over HTTP, with its binary tensor data extension.

    POST /v2/models/digits/infer {"inputs": [], "parameters": {"seed": 7, "n": 4, "label": 3}}

Models, tensors and parameters are described in `serve.protocols.oip.inference`. Errors are
{"error": message}.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from math import prod
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from serve import whole_numbers
from serve.errors import HTTPError
from serve.http import JSON, NO_STORE, Receive, Response, Route, Scope, json_response
from serve.operation import BINARY, SAMPLING_ERRORS, Content, Operation, Parameter
from serve.protocols.endpoint import raw_endpoint
from serve.protocols.oip import inference
from serve.protocols.oip.inference import EXTENSIONS, InferenceCall, InferenceResult, LazyTensor
from serve.protocols.oip.messages import (
    InferenceError,
    InferenceRequest,
    InferenceResponse,
    InputTensor,
    ModelMetadata,
    OutputTensor,
    Parameters,
)
from serve.protocols.oip.tensor_bytes import DATATYPES, from_bytes, to_bytes
from serve.request_body import decode
from serve.request_context import RequestContext
from serve.sampler import Sampler

API = "oip"

HEADER_LENGTH = b"inference-header-content-length"
"""Header with the size of the JSON where binary tensors follow it."""

MODEL = Parameter(
    name="model",
    description="`artifact` for its samples, or `artifact:signature`.",
    example=lambda model: model.name,
)
VERSION = Parameter(
    name="version",
    description="Version of the artifact; the newest if absent.",
    example=lambda model: model.version,
)


def _operation(
    name: str,
    summary: str,
    *errors: int,
    response: Content | None = None,
    parameters: tuple[Parameter, ...] = (),
    **fields: Any,
) -> Operation:
    return Operation(
        id=f"{name}OfVersion" if VERSION in parameters else name,
        summary=summary,
        tag="open inference protocol",
        response={"application/json": {}} if response is None else response,
        parameters=parameters,
        errors=errors,
        error_type=InferenceError,
        **fields,
    )


GET_SERVER = _operation("getServer", "The server's name and extensions", 500, needs_key=False)
GET_LIVE = _operation("getLive", "200 while the replica works", 500, needs_key=False)
GET_READY = _operation("getReady", "200 when models are served", 503, needs_key=False)


def _get_metadata(parameters: tuple[Parameter, ...]) -> Operation:
    return _operation(
        "getMetadata",
        "Describe inputs and outputs",
        *(404, 503),
        response={"application/json": ModelMetadata},
        parameters=parameters,
    )


def _get_model_ready(parameters: tuple[Parameter, ...]) -> Operation:
    return _operation(
        "getModelReady", "200 when the model is served", *(404, 503), parameters=parameters
    )


def _create_inference(parameters: tuple[Parameter, ...]) -> Operation:
    return _operation(
        "infer",
        "Draw samples of a seed, or run tensors",
        *SAMPLING_ERRORS,
        request={"application/json": InferenceRequest, "application/octet-stream": BINARY},
        request_description="Binary tensors may follow the JSON as little-endian bytes; the header"
        " Inference-Header-Content-Length then gives the size of the JSON.",
        example=lambda model: {"inputs": [], "parameters": {"seed": 7, "n": 1}},
        response={"application/json": InferenceResponse, "application/octet-stream": BINARY},
        parameters=parameters,
    )


def error_response(error: HTTPError) -> Response:
    """An error in the protocol's form."""
    body = orjson.dumps({"error": error.message})
    return Response(body, JSON, status=error.status, headers=[*error.headers, NO_STORE])


class OipApi:
    """The HTTP endpoints of the protocol in one replica.

    `check_health` and `check_ready` raise the errors of /healthz and /readyz.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        check_health: Callable[[], None],
        check_ready: Callable[[], None],
    ) -> None:
        self._sampler = sampler
        self._check_health = check_health
        self._check_ready = check_ready
        self._decoder = msgspec.json.Decoder(InferenceRequest)
        self._server = {
            "name": "aigc",
            "version": version("aigc"),
            "extensions": list(EXTENSIONS),
        }

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`; each version has those of its model."""
        limits = self._sampler.limits
        max_bytes = limits.max_body_bytes + limits.max_tensor_bytes
        infer = raw_endpoint(self._sampler, API, self._infer, max_bytes)
        return (
            Route("GET", "/v2", self.server, GET_SERVER),
            Route("GET", "/v2/", self.server),
            Route("GET", "/v2/health/live", self.live, GET_LIVE),
            Route("GET", "/v2/health/ready", self.ready, GET_READY),
            *(
                route
                for path, parameters in (
                    ("/v2/models/{model}", (MODEL,)),
                    ("/v2/models/{model}/versions/{version}", (MODEL, VERSION)),
                )
                for route in (
                    Route("GET", path, self.metadata, _get_metadata(parameters)),
                    Route("GET", f"{path}/ready", self.model_ready, _get_model_ready(parameters)),
                    Route("POST", f"{path}/infer", infer, _create_inference(parameters)),
                )
            ),
        )

    async def server(self, scope: Scope, receive: Receive) -> Response:
        return json_response(self._server)

    async def live(self, scope: Scope, receive: Receive) -> Response:
        self._check_health()
        return json_response({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Response:
        self._check_ready()
        return json_response({"ready": True})

    async def metadata(self, scope: Scope, receive: Receive) -> Response:
        return json_response(self._describe(scope))

    async def model_ready(self, scope: Scope, receive: Receive) -> Response:
        return json_response({"name": self._describe(scope)["name"], "ready": True})

    def _describe(self, scope: Scope) -> dict[str, Any]:
        self._sampler.admit(scope["headers"])
        return inference.describe(self._sampler, *_model(scope))

    async def _infer(self, body: bytes, scope: Scope, context: RequestContext) -> Response:
        max_json_bytes = self._sampler.limits.max_body_bytes
        document, binary = split(body, dict(scope["headers"]), max_json_bytes)
        parsing = partial(decode, self._decoder, document, scope["path"])
        request = await self._sampler.parse(context, document, parsing)
        parameters = {
            name: whole_numbers.whole(value) for name, value in (request.parameters or {}).items()
        }
        all_binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
        as_bytes = {out.name: _as_bytes(out, all_binary) for out in request.outputs or ()}
        model, number = _model(scope)
        result = await inference.infer(
            self._sampler,
            context,
            InferenceCall(
                model=model,
                version=number,
                parameters=parameters,
                inputs=parse_inputs(request.inputs, binary),
                outputs=[out.name for out in request.outputs or ()],
            ),
        )
        as_bytes = {name: as_bytes.get(name, all_binary) for name in result.outputs}
        encoding = partial(encode, result, request.id, as_bytes)
        return await self._sampler.encode(context, result.values, encoding)


def _model(scope: Scope) -> tuple[str, str]:
    """The model that a path names, and its version: "" for the newest."""
    parameters = scope["path_params"]
    return parameters["model"], parameters.get("version", "")


def split(
    body: bytes, headers: Mapping[bytes, bytes], max_json_bytes: int
) -> tuple[memoryview, memoryview]:
    """Split a body into JSON and binary tensors. Raises HTTPError 400 or 413."""
    header_length = headers.get(HEADER_LENGTH)
    length = len(body)
    if header_length is not None:
        if not re.fullmatch(rb"[0-9]{1,19}", header_length) or int(header_length) > len(body):
            raise HTTPError(
                400,
                "malformed_header",
                f"Inference-Header-Content-Length must be in [0, {len(body)}], the size of the"
                f" body, got {header_length[:40].decode('latin-1')!r}",
            )
        length = int(header_length)
    if length > max_json_bytes:
        raise HTTPError(
            413,
            "body_too_large",
            f"the JSON must be at most {max_json_bytes} bytes, got {length}; send large tensors as"
            " binary data",
        )
    view = memoryview(body)
    return view[:length], view[length:]


def parse_inputs(inputs: Sequence[InputTensor], binary: memoryview) -> list[LazyTensor]:
    """The input tensors, each with its part of the binary data. Raises HTTPError 400."""
    tensors, offset = [], 0
    for tensor in inputs:
        parameters = dict(tensor.parameters or {})
        size = whole_numbers.whole(parameters.pop("binary_data_size", None))
        _refuse_parameters(f"input {tensor.name[:100]!r}", parameters, "binary_data_size")
        if (size is None) == (not bytes(tensor.data)):
            message = f"input {tensor.name[:100]!r} must have either data or binary_data_size"
            raise HTTPError(400, "data_missing", message)
        if size is None:
            read = partial(from_json, tensor.name, tensor.data)
        else:
            if type(size) is not int or not 0 <= size <= len(binary) - offset:
                raise HTTPError(
                    400,
                    "wrong_size",
                    f"binary_data_size of input {tensor.name[:100]!r} must be in"
                    f" [0, {len(binary) - offset}], the bytes that are left after the JSON and"
                    f" the inputs before it, got {size!r}",
                )
            read = partial(from_bytes, tensor.name, binary[offset : offset + size])
            offset += size
        tensors.append(
            LazyTensor(
                name=tensor.name, datatype=tensor.datatype, shape=tuple(tensor.shape), read=read
            )
        )
    if offset != len(binary):
        message = f"{len(binary) - offset} bytes of binary data belong to no input"
        raise HTTPError(400, "wrong_size", message)
    return tensors


def from_json(
    name: str, data: msgspec.Raw, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Decode numbers or texts, flat or nested. Raises HTTPError 400 unless they fit the shape."""
    start = re.match(rb"[\[\s]*", bytes(data))
    depth = start[0].count(b"[") if start is not None else 0
    values: Any = None
    if depth in (1, len(shape)):
        try:
            values = _decode_lists(data, _KINDS[dtype.kind], depth)
            with np.errstate(over="ignore"):  # a float that is too large becomes infinite: refused
                array = np.asarray(values, dtype)
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            message = f"input {name!r}: {error}"
            raise HTTPError(400, "malformed_data", message) from None
        if array.shape == shape or (depth == 1 and array.size == prod(shape)):
            return array.reshape(shape)
    what = "texts" if dtype.kind == "O" else "numbers"
    raise HTTPError(
        400,
        "wrong_size",
        f"data of input {name!r} must be {prod(shape)} {what}, flat or nested as its shape is",
    )


_KINDS: dict[str, type] = {"i": int, "f": float, "O": str}


def _decode_lists(data: msgspec.Raw, kind: type, depth: int) -> Any:
    """Nested lists of values. Raises msgspec.DecodeError."""
    decoder = _decoder(kind, depth)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        if whole_numbers.is_float_for_integer(error):
            return whole_numbers.decode(data, decoder.type)
        raise


@cache
def _decoder(kind: type, depth: int) -> msgspec.json.Decoder[Any]:
    """A decoder of nested lists; cached, since depths are those of signatures' inputs."""
    nested: Any = kind
    for _ in range(depth):
        nested = list[nested]
    return msgspec.json.Decoder(nested)


def _as_bytes(output: OutputTensor, otherwise: bool) -> bool:
    parameters = dict(output.parameters or {})
    binary = _flag(parameters.pop("binary_data", otherwise), "binary_data")
    _refuse_parameters(f"output {output.name[:100]!r}", parameters, "binary_data")
    return binary


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        message = f"parameter {name} must be true or false, got {str(value)[:100]!r}"
        raise HTTPError(400, "malformed_parameter", message)
    return value


def _refuse_parameters(owner: str, parameters: Parameters, known: str) -> None:
    for name in parameters:
        message = f"{owner} has parameter {name[:100]!r}; there is only {known}"
        raise HTTPError(400, "unknown_parameter", message)


def encode(
    result: InferenceResult, request_id: str | None, as_bytes: Mapping[str, bool]
) -> Response:
    """The response: JSON, then the bytes of the binary outputs."""
    outputs, parts = [], []
    for name, array in result.outputs.items():
        array = np.ascontiguousarray(array)
        output: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if as_bytes[name]:
            part = to_bytes(array)
            output["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            flat = array.reshape(-1)
            output["data"] = flat.tolist() if array.dtype.kind == "O" else flat
        outputs.append(output)
    document: dict[str, Any] = {
        "model_name": result.model,
        "model_version": result.version,
        "parameters": result.parameters,
        "outputs": outputs,
    }
    if request_id is not None:
        document["id"] = request_id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [*result.headers, NO_STORE]
    if not parts:
        return Response(head, JSON, headers=headers)
    headers.append((HEADER_LENGTH, b"%d" % len(head)))
    return Response(b"".join([head, *parts]), b"application/octet-stream", headers=headers)
