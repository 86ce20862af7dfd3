"""Operations of the OpenAPI document, each stated beside the route that it describes.

Operation(
    id="createImage",
    summary="Images, for the openai SDK",
    tag="openai",
    request={"application/json": ImageRequest},
    example=lambda model: {"model": model.id, "prompt": ""},
    response={"application/json": ImageResponse},
    errors=SAMPLING_ERRORS,
)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serve.errors import ErrorBody, describe

REFERENCE = "#/components/schemas/{name}"

Content = Mapping[str, type[msgspec.Struct] | Mapping[str, Any]]
"""Media type -> the type of its JSON, or the OpenAPI media type object itself."""

BINARY: Mapping[str, Any] = {"schema": {"type": "string", "format": "binary"}}
TEXT: Mapping[str, Any] = {"schema": {"type": "string"}}

SAMPLING_ERRORS = (400, 404, 408, 413, 415, 422, 429, 500, 503, 504)
"""Statuses of a route that reads a body and draws samples, besides those for keys."""

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""OpenAPI security schemes, where keys are needed."""

SAMPLE_HEADERS = {
    "X-Aigc-Model": "`name@version` of the model that answered.",
    "X-Aigc-Digest": "Digest of its artifact's manifest.",
    "X-Aigc-Seed": "The seed, where there is one; with it again come the same samples.",
    "X-Aigc-First-Index": "Index of the first sample within the seed.",
    "X-Aigc-Reproducibility": "bit, uint8 or tolerance, as this replica measured it.",
    "X-Aigc-Replica": "The replica that answered.",
}
"""Response headers of the routes that return samples."""


@dataclass(frozen=True, kw_only=True)
class ExampleModel:
    """The model that examples use: one that is hosted, if any is."""

    name: str = "digits"
    version: str = "1"

    @property
    def id(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A path parameter."""

    name: str
    description: str
    example: Callable[[ExampleModel], str]

    def document(self, model: ExampleModel) -> dict[str, Any]:
        """The OpenAPI parameter object."""
        return {
            "name": self.name,
            "in": "path",
            "required": True,
            "description": self.description,
            "schema": {"type": "string", "examples": [self.example(model)]},
        }


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path, as the OpenAPI document describes it."""

    id: str
    summary: str
    tag: str
    response: Content
    """Body of a 200."""
    description: str = ""
    """Description of the 200 response; the summary if absent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the 200 response and their descriptions."""
    request: Content = field(default_factory=dict)
    request_description: str = ""
    example: Callable[[ExampleModel], Mapping[str, Any]] | None = None
    """Example of a JSON request."""
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    """Statuses besides 200, and besides 401 and 403 where a key is needed."""
    error_type: type[msgspec.Struct] = ErrorBody
    needs_key: bool = True
    """A key is needed where the server has any."""

    def types(self) -> Iterator[type[msgspec.Struct]]:
        """Types whose schemas the operation refers to."""
        yield self.error_type
        for content in (*self.request.values(), *self.response.values()):
            if isinstance(content, type):
                yield content

    def document(self, model: ExampleModel, *, guarded: bool) -> dict[str, Any]:
        """The OpenAPI operation object; `guarded`: the server has keys."""
        success: dict[str, Any] = {
            "description": self.description or self.summary,
            "content": _content(self.response),
        }
        if self.headers:
            success["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in self.headers.items()
            }
        errors = (*self.errors, 401, 403) if self.needs_key else self.errors
        failure = _content({"application/json": self.error_type})
        operation: dict[str, Any] = {
            "operationId": self.id,
            "summary": self.summary,
            "tags": [self.tag],
            "responses": {
                "200": success,
                **{
                    str(status): {"description": describe(status), "content": failure}
                    for status in errors
                },
            },
        }
        if self.request:
            content = _content(self.request)
            if self.example is not None:
                content["application/json"]["example"] = self.example(model)
            operation["requestBody"] = {"required": True, "content": content}
            if self.request_description:
                operation["requestBody"]["description"] = self.request_description
        if self.parameters:
            operation["parameters"] = [one.document(model) for one in self.parameters]
        if guarded and self.needs_key:
            operation["security"] = [{scheme: []} for scheme in SECURITY]
        return operation


def reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    """A reference to the schema of a type."""
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def _content(content: Content) -> dict[str, Any]:
    return {
        media: {"schema": reference(one)} if isinstance(one, type) else dict(one)
        for media, one in content.items()
    }
