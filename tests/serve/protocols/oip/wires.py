"""tritonclient over either wire of the Open Inference Protocol, with the same methods."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from tests.serve.listening import Listening

WIRES = ("rest", "rest-json", "grpc")
DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "object": "BYTES"}
GRPC_CODES = {
    "400": "INVALID_ARGUMENT",
    "404": "NOT_FOUND",
    "500": "INTERNAL",
    "503": "UNAVAILABLE",
}
"""Codes of gRPC by the status of HTTP for the same error."""

Given = Sequence[tuple[str, Any]]
"""Names and arrays of the inputs."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Result of an inference."""

    id: str
    model: str
    version: str
    parameters: dict[str, Any]
    outputs: dict[str, Any]
    """Arrays by name, in the order of the response; texts are lists of strings."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Error of an inference."""

    status: str
    """Status of HTTP, or name of gRPC's code."""
    message: str


class Wire:
    """A client: "rest" sends tensors as binary data, "rest-json" as JSON."""

    def __init__(self, name: str, address: str) -> None:
        self._name, self.is_grpc = name, name == "grpc"
        self.api = "oip-grpc" if self.is_grpc else "oip"
        self._module = import_module(f"tritonclient.{'grpc' if self.is_grpc else 'http'}")
        self._binary = {} if self.is_grpc else {"binary_data": name == "rest"}
        self._address = address
        self.client: Any = self._module.InferenceServerClient(address)

    def aio(self) -> Any:
        return import_module(f"{self._module.__name__}.aio").InferenceServerClient(self._address)

    def status(self, of_http: int) -> str:
        """The status that a refusal has on this wire."""
        return GRPC_CODES[str(of_http)] if self.is_grpc else str(of_http)

    def _json(self, method: Any, *arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = method(*arguments, **({"as_json": True} if self.is_grpc else {}))
        return found

    def server_metadata(self) -> dict[str, Any]:
        return self._json(self.client.get_server_metadata)

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        found = self._json(self.client.get_model_metadata, model, version)
        for one in [*found["inputs"], *found["outputs"]]:
            one["shape"] = [int(size) for size in one["shape"]]  # gRPC's JSON has strings
        return found

    def infer(self, model: str, given: Given = (), **options: Any) -> Answer:
        """Arguments as of _infer()."""
        if self._name == "rest-json":  # without names the client asks for binary data
            options.setdefault("outputs", [one["name"] for one in self.metadata(model)["outputs"]])
        return self._infer(model, given, **options)

    def _infer(
        self,
        model: str,
        given: Given = (),
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        **parameters: Any,
    ) -> Answer:
        inputs = []
        for name, array in given:
            one = self._module.InferInput(name, [*array.shape], DATATYPES[str(array.dtype)])
            inputs.append(one.set_data_from_numpy(array, **self._binary))
        result = self.client.infer(
            model,
            inputs,
            version,
            [self._module.InferRequestedOutput(name, **self._binary) for name in outputs] or None,
            request_id=request_id,
            headers=headers,
            parameters=parameters,
        )
        response = self._json(result.get_response)
        return Answer(
            id=response.get("id", ""),
            model=response["model_name"],
            version=response["model_version"],
            parameters={k: _plain(v) for k, v in response["parameters"].items()},
            outputs={o["name"]: _array(result.as_numpy(o["name"])) for o in response["outputs"]},
        )

    def refusal(self, model: str, given: Given = (), **options: Any) -> Refusal:
        """The error of an inference; arguments as of _infer()."""
        try:
            found = self._infer(model, given, **options)
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            return Refusal(status=status, message=error.message())
        raise AssertionError(found)


def _plain(value: Any) -> Any:
    """A parameter; gRPC's JSON has its type beside it, and strings for integers."""
    if not isinstance(value, dict):
        return value
    ((kind, plain),) = value.items()
    return int(plain) if kind == "int64_param" else plain


def _array(found: Any) -> Any:
    if found.dtype != object:
        return found
    return [one.decode() if isinstance(one, bytes) else one for one in found.tolist()]


@contextmanager
def connected(name: str, served: Listening) -> Iterator[Wire]:
    """A client of a replica over the wire of this name."""
    url = served.grpc_address if name == "grpc" else served.url.removeprefix("http://")
    wire = Wire(name, url)
    try:
        yield wire
    finally:
        wire.client.close()


def rows(*values: Any, dtype: Any = np.float32) -> Any:
    """A tensor of rows."""
    return np.array(values, dtype)
