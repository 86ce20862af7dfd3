"""The Open Inference Protocol, version 2, over HTTP, with its binary tensor data extension.

    POST /v2/models/digits/infer {"inputs": [], "parameters": {"seed": 7, "n": 4, "label": 3}}

`serve.dialects.tensors` says what models, tensors and parameters there are. Errors are
{"error": message}.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from math import prod
from typing import Any, NoReturn

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from serve.call import Call
from serve.dialects import tensors
from serve.dialects.oip_messages import (
    InferenceRequest,
    InputTensor,
    OutputTensor,
    Parameters,
)
from serve.dialects.tensor_bytes import DATATYPES, from_bytes, to_bytes
from serve.dialects.tensors import (
    EXTENSIONS,
    Answer,
    Given,
    Request,
)
from serve.http import (
    JSON,
    NO_STORE,
    Endpoints,
    HTTPError,
    Receive,
    Response,
    Scope,
    json_response,
)
from serve.sampling import Sampler

API = "oip"

HEADER_LENGTH = b"inference-header-content-length"
"""Header that says how long the JSON is, where binary tensors follow it."""

_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")


def error_response(error: HTTPError) -> Response:
    """An error as the protocol puts it."""
    body = orjson.dumps({"error": error.message})
    return Response(body, JSON, status=error.status, headers=[*error.headers, NO_STORE])


class OipApi:
    """The endpoints of the protocol in one replica.

    `check_health` and `check_ready` raise where /healthz and /readyz answer an error.
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

    def routes(self) -> tuple[dict[str, Endpoints], dict[str, Endpoints]]:
        """Exact paths and prefixes, for `serve.http.Application`."""
        server: Endpoints = {"GET": self.server}
        return (
            {
                "/v2": server,
                "/v2/": server,
                "/v2/health/live": {"GET": self.live},
                "/v2/health/ready": {"GET": self.ready},
            },
            {"/v2/models/": {"GET": self.model, "POST": self.infer}},
        )

    async def server(self, scope: Scope, receive: Receive) -> Response:
        return json_response(self._server)

    async def live(self, scope: Scope, receive: Receive) -> Response:
        self._check_health()
        return json_response({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Response:
        self._check_ready()
        return json_response({"ready": True})

    async def model(self, scope: Scope, receive: Receive) -> Response:
        """The metadata of a model, or whether it is ready."""
        self._sampler.admit(scope["headers"])
        name, number, verb = _parse(scope["path"])
        if verb == "/infer":
            _refuse_method(scope, b"POST, OPTIONS")
        metadata = tensors.describe(self._sampler, name, number)
        if verb == "/ready":
            return json_response({"name": metadata["name"], "ready": True})
        return json_response(metadata)

    async def infer(self, scope: Scope, receive: Receive) -> Response:
        name, number, verb = _parse(scope["path"])
        if verb != "/infer":
            _refuse_method(scope, b"GET, HEAD, OPTIONS")

        async def work(call: Call) -> Response:
            limits = self._sampler.limits
            most = limits.max_body_bytes + limits.max_tensor_bytes
            body = await call.read(scope, receive, most)
            document, binary = split(body, dict(scope["headers"]), limits.max_body_bytes)
            request = self._decode(document)
            parameters = dict(request.parameters or {})
            all_binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
            as_bytes = {out.name: _as_bytes(out, all_binary) for out in request.outputs or ()}
            answer = await tensors.infer(
                self._sampler,
                call,
                Request(
                    model=name,
                    version=number,
                    parameters=parameters,
                    inputs=given(request.inputs, binary),
                    outputs=[out.name for out in request.outputs or ()],
                ),
            )
            forms = {name: as_bytes.get(name, all_binary) for name in answer.outputs}
            encoding = partial(encode, answer, request.id, forms)
            return await self._sampler.encoded(answer.values, encoding)

        return await self._sampler.counted(API, scope["headers"], work)

    def _decode(self, document: memoryview) -> InferenceRequest:
        try:
            return self._decoder.decode(document)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            message = f"the body is no inference request: {error}"
            raise HTTPError(400, "malformed_body", message) from None


def _parse(path: str) -> tuple[str, str, str]:
    """Model, version ("" for the newest) and verb ("", "/ready" or "/infer") of a path."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise HTTPError(404, "unknown_route", f"no route {path!r}; /docs lists those there are")
    return found[1], found[2] or "", found[3] or ""


def _refuse_method(scope: Scope, allowed: bytes) -> NoReturn:
    message = f"{scope['path']} takes {allowed.decode()}, not {scope['method']}"
    raise HTTPError(405, "method_not_allowed", message, [(b"allow", allowed)])


def split(
    body: bytes, headers: Mapping[bytes, bytes], max_json_bytes: int
) -> tuple[memoryview, memoryview]:
    """A body -> its JSON and the binary tensors after it. Raises HTTPError 400, 413 or 415."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise HTTPError(415, "compressed_body", "compressed bodies are not taken; send it plain")
    given_length = headers.get(HEADER_LENGTH)
    length = len(body)
    if given_length is not None:
        if not re.fullmatch(rb"[0-9]{1,19}", given_length) or int(given_length) > len(body):
            raise HTTPError(
                400,
                "malformed_header",
                f"Inference-Header-Content-Length must be in [0, {len(body)}], the size of the"
                f" body, got {given_length[:40].decode('latin-1')!r}",
            )
        length = int(given_length)
    if length > max_json_bytes:
        raise HTTPError(
            413,
            "body_too_large",
            f"the JSON must be at most {max_json_bytes} bytes, got {length}; send large tensors as"
            " binary data",
        )
    view = memoryview(body)
    return view[:length], view[length:]


def given(inputs: Sequence[InputTensor], binary: memoryview) -> list[Given]:
    """The input tensors, each with its own part of the binary data. Raises HTTPError 400."""
    found, offset = [], 0
    for tensor in inputs:
        parameters = dict(tensor.parameters or {})
        size = parameters.pop("binary_data_size", None)
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
        found.append(
            Given(name=tensor.name, datatype=tensor.datatype, shape=tuple(tensor.shape), read=read)
        )
    if offset != len(binary):
        message = f"{len(binary) - offset} bytes of binary data belong to no input"
        raise HTTPError(400, "wrong_size", message)
    return found


def from_json(
    name: str, data: msgspec.Raw, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Numbers or texts, flat or nested as the shape is. Raises HTTPError 400 unless they fit."""
    start = re.match(rb"[\[\s]*", bytes(data))
    depth = start[0].count(b"[") if start is not None else 0
    values: Any = None
    if depth in (1, len(shape)):
        try:
            values = _values(_KINDS[dtype.kind], depth).decode(data)
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


@cache
def _values(kind: type, depth: int) -> msgspec.json.Decoder[Any]:
    """Of lists in lists of values. Kept: the depth is that of a signature's input."""
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


def encode(answer: Answer, request_id: str | None, as_bytes: Mapping[str, bool]) -> Response:
    """The answer: JSON, then the bytes of the outputs that are to be sent so."""
    outputs, parts = [], []
    for name, array in answer.outputs.items():
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
        "model_name": answer.model,
        "model_version": answer.version,
        "parameters": answer.parameters,
        "outputs": outputs,
    }
    if request_id is not None:
        document["id"] = request_id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [*answer.headers, NO_STORE]
    if not parts:
        return Response(head, JSON, headers=headers)
    headers.append((HEADER_LENGTH, b"%d" % len(head)))
    return Response(b"".join([head, *parts]), b"application/octet-stream", headers=headers)
