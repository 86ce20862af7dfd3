"""The OpenAPI 3.1 document of a replica, from its request types and what it hosts."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from aigc.artifact import Manifest
from serve.dialects.admin import DeployRequest, PinRequest, RemoveRequest, Targets
from serve.dialects.codes import ERRORS
from serve.dialects.completions import COMPLETIONS, CompletionRequest, CompletionResponse
from serve.dialects.interpolate import (
    INTERPOLATE,
    MEDIA_TYPES,
    InterpolatedTexts,
    InterpolationRequest,
)
from serve.dialects.native import ModelList, ModelSummary, SampleRequest, SampleResponse
from serve.dialects.oip_messages import (
    InferenceError,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
)
from serve.dialects.openai import IMAGES, ImageRequest, ImageResponse
from serve.dialects.sounds import MEDIA_TYPES as MEDIA_TYPES_OF_SOUND
from serve.dialects.speech import SPEECH, SpeechRequest
from serve.dialects.verify import VERIFY, Verdict
from serve.http import ErrorBody
from serve.settings import Limits

_REFERENCE = "#/components/schemas/{name}"

_HEADERS = {
    "X-Aigc-Model": "`name@version` of the model that answered.",
    "X-Aigc-Digest": "Digest of its artifact's manifest.",
    "X-Aigc-Seed": "The seed, where there is one; with it again come the same samples.",
    "X-Aigc-First-Index": "Index of the first sample within the seed.",
    "X-Aigc-Reproducibility": "bit, uint8 or tolerance, as this replica measured it.",
    "X-Aigc-Replica": "The replica that answered.",
}

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BYTES = {"application/octet-stream": _BINARY}
_LINES = {"text/plain": {"schema": {"type": "string"}}}

_TYPES = (
    SampleRequest,
    SampleResponse,
    ModelList,
    ModelSummary,
    InterpolationRequest,
    InterpolatedTexts,
    Verdict,
    ImageRequest,
    ImageResponse,
    SpeechRequest,
    CompletionRequest,
    CompletionResponse,
    ErrorBody,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    InferenceError,
)
_ADMIN_TYPES = (DeployRequest, RemoveRequest, PinRequest, Targets)

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_OPEN = ("/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready")
"""What needs no key, whoever has any."""


def document(
    manifests: Sequence[Manifest], limits: Limits, *, guarded: bool = False, admin: bool = False
) -> bytes:
    """openapi.json for the models hosted now, as UTF-8 JSON.

    `guarded`: keys are asked for. `admin`: there are admin routes.
    """
    types = (*_TYPES, *_ADMIN_TYPES) if admin else _TYPES
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    names = sorted({name for manifest in manifests for name in manifest.offered})
    for kind in (
        "SampleRequest",
        "InterpolationRequest",
        "ImageRequest",
        "SpeechRequest",
        "CompletionRequest",
    ):
        request = schemas[kind]["properties"]
        request["model"]["examples"] = [manifest.id for manifest in manifests]
        request["signature"]["examples"] = names
        if "n" in request:
            request["n"]["maximum"] = limits.max_n
    body = {
        "openapi": "3.1.0",
        "info": {
            "title": "aigc",
            "version": version("aigc"),
            "description": "Samples of generative models. A seed is a promise: sample *i* of seed"
            " *s* is the same alone, in a batch and on every replica, up to the reproducibility"
            " level that the answer states.\n\n" + _table(manifests),
        },
        "paths": _guarded(
            {
                **_paths(manifests),
                **_inference_paths(manifests),
                **(_admin_paths(manifests) if admin else {}),
            },
            guarded,
        ),
        "components": {"schemas": schemas, **({"securitySchemes": _SECURITY} if guarded else {})},
    }
    return json.dumps(body).encode()


def _table(manifests: Sequence[Manifest]) -> str:
    lines = ["| model | family | signatures | classes |", "|---|---|---|---|"]
    for manifest in manifests:
        labels = [s.label for s in manifest.signatures.values() if s.label is not None]
        classes = ", ".join(labels[0].classes) if labels else "none"
        lines.append(
            f"| {manifest.id} | {manifest.family} | {', '.join(manifest.offered)} | {classes} |"
        )
    return "\n".join(lines)


def _paths(manifests: Sequence[Manifest]) -> dict[str, Any]:
    model = manifests[0].id if manifests else "digits@1"
    return {
        "/v1/samples": {"post": _samples(model)},
        INTERPOLATE: {"post": _interpolation(model)},
        VERIFY: {"post": _verification()},
        IMAGES: {"post": _images(model)},
        SPEECH: {"post": _speech(model)},
        COMPLETIONS: {"post": _completions(model)},
        "/v1/models": {
            "get": _get("listModels", "What is hosted", "models", "ModelList", 500, 503)
        },
        "/v1/models/{id}": {
            "get": {
                **_get("getModel", "One model", "models", "ModelSummary", 404, 500, 503),
                "parameters": [
                    _parameter("id", "`name` (its newest version here) or `name@version`.", model)
                ],
            }
        },
        "/healthz": {"get": _text("health", "200 while the replica works", 500)},
        "/readyz": {"get": _text("ready", "200 when the references were replayed", 503)},
        "/metrics": {"get": _text("metrics", "Prometheus metrics of this machine", 500)},
    }


def _admin_paths(manifests: Sequence[Manifest]) -> dict[str, Any]:
    name, number = (manifests[0].name, manifests[0].version) if manifests else ("digits", "1")
    answers = _json("Targets")

    def post(kind: str, summary: str, example: dict[str, Any]) -> dict[str, Any]:
        request = _json_body(kind, example)
        found = _post(kind, summary, "admin", request, "What is to be hosted.", answers, {})
        found["responses"] |= _errors(408, 409, 415)
        return {"post": found}

    return {
        "/v1/admin/target": {
            "get": _get("getTarget", "What every replica is to host", "admin", "Targets", 500)
        },
        "/v1/admin/deploy": post(
            "DeployRequest", "Host one more artifact", {"artifact": f"artifacts/{name}@{number}"}
        ),
        "/v1/admin/remove": post("RemoveRequest", "Host one less", {"model": f"{name}@{number}"}),
        "/v1/admin/pin": post(
            "PinRequest", "What a name means", {"model": name, "version": number}
        ),
    }


def _guarded(paths: dict[str, Any], guarded: bool) -> dict[str, Any]:
    """The same, each operation with what keys and budgets may answer."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            if path in _OPEN:
                continue
            schema = "InferenceError" if path.startswith("/v2") else "ErrorBody"
            draws = method == "post" and not path.startswith("/v1/admin")
            codes = (401, 403, 422, 429, 504) if draws else (401, 403)
            operation["responses"] |= _errors(*codes, schema=schema)
            if guarded:
                operation["security"] = [{scheme: []} for scheme in _SECURITY]
    return paths


def _samples(model: str) -> dict[str, Any]:
    example = {"model": model, "n": 4, "seed": 7, "format": "grid"}
    answers = {
        "application/json": {"schema": _ref("SampleResponse")},
        "application/x-ndjson": {"schema": _ref("Sample")},
        **_LINES,
        "image/png": _BINARY,
        "audio/wav": _BINARY,
        "audio/flac": _BINARY,
        "application/octet-stream": _BINARY,
    }
    request = _json_body("SampleRequest", example)
    as_json = {"settings": {"contentType": "application/json"}}
    request["multipart/form-data"] = {"schema": _ref("SampleRequest"), "encoding": as_json}
    said = "The samples, in the format asked for."
    return _post("createSamples", "Samples of a seed", "samples", request, said, answers, _HEADERS)


def _interpolation(model: str) -> dict[str, Any]:
    example = {"model": model, "from_seed": 7, "to_seed": 8, "frames": 9}
    answers = dict.fromkeys((media.decode() for media in MEDIA_TYPES.values()), _BINARY)
    answers |= {"application/json": {"schema": _ref("InterpolatedTexts")}, **_LINES}
    headers = {**_HEADERS, "X-Aigc-To-Seed": "The seed of the last frame."}
    request = _json_body("InterpolationRequest", example)
    said = "The frames, in the format asked for."
    what = "From one sample to another"
    return _post("interpolate", what, "samples", request, said, answers, headers)


def _verification() -> dict[str, Any]:
    files = ("image/png", "image/webp", "image/jpeg", "audio/wav", "audio/flac")
    request = dict.fromkeys(files, _BINARY)
    answers = {"application/json": {"schema": _ref("Verdict")}}
    what = "Was this file made here? It is made again and compared, bit for bit"
    return _post("verify", what, "samples", request, "The verdict.", answers, {})


def _images(model: str) -> dict[str, Any]:
    example = {"model": model, "prompt": "", "n": 2, "size": "auto", "seed": 7}
    answers = {"application/json": {"schema": _ref("ImageResponse")}}
    request = _json_body("ImageRequest", example)
    what = "Images, for the openai SDK"
    return _post("createImage", what, "openai", request, "The images.", answers, _HEADERS)


def _speech(model: str) -> dict[str, Any]:
    example = {"model": model, "input": "seven three", "voice": "default", "seed": 7}
    answers = {media.decode(): _BINARY for media in MEDIA_TYPES_OF_SOUND.values()}
    request = _json_body("SpeechRequest", example)
    what = "Words spoken, for the openai SDK"
    said = "The sound, sent while it is made if the input is long."
    return _post("createSpeech", what, "openai", request, said, answers, _HEADERS)


def _completions(model: str) -> dict[str, Any]:
    example = {"model": model, "prompt": "", "n": 2, "seed": 7}
    answers = {
        "application/json": {"schema": _ref("CompletionResponse")},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    request = _json_body("CompletionRequest", example)
    what = "Texts, for the openai SDK; streamed, each event is a CompletionResponse"
    said = "The texts."
    return _post("createCompletion", what, "openai", request, said, answers, _HEADERS)


def _json_body(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(schema), "example": example}}


def _post(
    operation: str,
    summary: str,
    tag: str,
    request: dict[str, Any],
    description: str,
    answers: dict[str, Any],
    headers: dict[str, str],
) -> dict[str, Any]:
    said = {k: {"description": v, "schema": {"type": "string"}} for k, v in headers.items()}
    success = {"description": description, "content": answers}
    if said:
        success["headers"] = said
    return {
        "operationId": operation,
        "summary": summary,
        "tags": [tag],
        "requestBody": {"required": True, "content": request},
        "responses": {"200": success, **_errors(400, 404, 408, 413, 500, 503)},
    }


def _inference_paths(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """The Open Inference Protocol; what a model has, each of its versions has too."""
    examples = (manifests[-1].name, manifests[-1].version) if manifests else ("digits", "1")
    model = _parameter("model", "`artifact` for its samples, or `artifact:signature`.", examples[0])
    number = _parameter("version", "Of the artifact; the newest if left out.", examples[1])
    paths = {
        "/v2": {"get": _inference("getServer", "The server's name and extensions", 500)},
        "/v2/health/live": {"get": _inference("getLive", "200 while the replica works", 500)},
        "/v2/health/ready": {"get": _inference("getReady", "200 when models are served", 503)},
    }
    for top, suffix, parameters in (
        ("/v2/models/{model}", "", [model]),
        ("/v2/models/{model}/versions/{version}", "OfVersion", [model, number]),
    ):
        about = _inference(f"getMetadata{suffix}", "Inputs and outputs", 404, 503)
        about["responses"]["200"]["content"] = _json("ModelMetadata")
        ready = _inference(f"getModelReady{suffix}", "200 when the model is served", 404, 503)
        infer = _inference(
            f"infer{suffix}", "Samples of a seed, or of tensors", 400, 404, 408, 413, 415, 500, 503
        )
        infer["responses"]["200"]["content"] = _json("InferenceResponse") | _BYTES
        infer["requestBody"] = {
            "required": True,
            "description": "Binary tensors may follow the JSON as little-endian bytes; the header"
            " Inference-Header-Content-Length then gives the size of the JSON.",
            "content": _json("InferenceRequest") | _BYTES,
        }
        infer["requestBody"]["content"]["application/json"]["example"] = {
            "inputs": [],
            "parameters": {"seed": 7, "n": 1},
        }
        for path, method, operation in (
            (top, "get", about),
            (f"{top}/ready", "get", ready),
            (f"{top}/infer", "post", infer),
        ):
            paths[path] = {method: {**operation, "parameters": parameters}}
    return paths


def _inference(operation: str, summary: str, *errors: int) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["open inference protocol"],
        "responses": {
            "200": {"description": summary, "content": {"application/json": {}}},
            **_errors(*errors, schema="InferenceError"),
        },
    }


def _parameter(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "examples": [example]},
    }


def _get(operation: str, summary: str, tag: str, schema: str, *errors: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema)}}
    return {
        "operationId": operation,
        "summary": summary,
        "tags": [tag],
        "responses": {"200": {"description": summary, "content": content}, **_errors(*errors)},
    }


def _text(operation: str, summary: str, *errors: int) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["operation"],
        "responses": {"200": {"description": summary, "content": content}, **_errors(*errors)},
    }


def _errors(*codes: int, schema: str = "ErrorBody") -> dict[str, Any]:
    content = _json(schema)
    return {str(code): {"description": ERRORS[code], "content": content} for code in codes}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(schema)}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=name)}
