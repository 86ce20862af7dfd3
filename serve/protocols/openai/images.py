"""OpenAI's images API, for the unmodified `openai` SDK.

    client = OpenAI(base_url="http://localhost:8000/v1", api_key="any")
    client.images.generate(model="digits", prompt="seven", n=4, extra_body={"seed": 7})

The prompt selects a class: by its name in any case ("seven"), or by its number ("7", "label: 7").
An empty prompt, or the model's own name, leaves the class to the seed; a model without classes
takes these two only. `label` in extra_body selects classes, too; it must not contradict the prompt.

Options of OpenAI's API that a fixed generator does not have are refused by name, except for values
without effect ("auto", null) and for `user`. Errors and `/v1/models` have this server's form, a
superset of OpenAI's.
"""

import base64
import time
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aigc.artifact import image_files
from aigc.artifact.sampling_inputs import Arrays, channels
from serve.errors import HTTPError
from serve.hosting.runner import PIXELS, SignatureRunner
from serve.http import Headers, Response, Route, Scope, json_response
from serve.operation import SAMPLE_HEADERS, SAMPLING_ERRORS, Operation
from serve.protocols.endpoint import endpoint, json_decoder
from serve.protocols.fields import field, seed_field
from serve.protocols.openai.class_names import format_choices, resolve
from serve.protocols.sizes import chosen_sizes
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.sampling_request import SamplingRequest

API = "openai"
IMAGES = "/v1/images/generations"

_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "response_format": ("b64_json",),
    "output_format": ("png", "webp", "jpeg"),
    "quality": ("auto", "standard"),
    "style": ("auto", "vivid"),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
}
"""Allowed values of fields; the first is the default."""

_HINTS = {
    "response_format": "; this server keeps no files that a URL could lead to",
    "background": "; the images have no transparency but what the model gives",
}


def _choice(name: str, description: str) -> Meta:
    return field(description, enum=[*_ALLOWED[name], None])


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's request for images; further fields go into the SDK's extra_body."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    prompt: Annotated[
        str,
        field("A class by name or number; empty or the model's name: drawn from the seed."),
    ]
    n: Annotated[int | None, field("Number of images.", minimum=1)] = 1
    size: Annotated[str | None, field("auto, or a WIDTHxHEIGHT of the model.")] = "auto"
    response_format: Annotated[
        str | None, _choice("response_format", "Images are sent inline.")
    ] = None
    output_format: Annotated[
        str | None, _choice("output_format", "File format; provenance is inside.")
    ] = None
    output_compression: Annotated[
        int | None,
        field(
            "Quality of jpeg (100 if absent) and of webp (lossless if absent).",
            minimum=0,
            maximum=100,
        ),
    ] = None
    quality: Annotated[str | None, _choice("quality", "There is one quality only.")] = None
    style: Annotated[str | None, _choice("style", "There is one style only.")] = None
    background: Annotated[str | None, _choice("background", "Whatever the model generates.")] = None
    moderation: Annotated[str | None, _choice("moderation", "Nothing is filtered.")] = None
    stream: Annotated[bool | None, field("Images are not streamed.", enum=[False, None])] = None
    user: Annotated[str | None, field("Accepted and ignored.")] = None
    safety_identifier: Annotated[str | None, field("Accepted and ignored.")] = None
    seed: Annotated[
        int | None,
        seed_field("Seed of the images; drawn by the server and returned if absent."),
    ] = None
    first_index: Annotated[int, seed_field("Index of the first image within the seed.")] = 0
    label: Annotated[
        int | str | list[int | str] | None,
        field("Classes in place of a prompt, by number or name: one, or n of them."),
    ] = None
    signature: Annotated[
        str | None,
        field("A signature that draws images from a seed; by default the model's own."),
    ] = None


class ImageData(msgspec.Struct, kw_only=True):
    """One image."""

    b64_json: str
    """base64 of the file, its provenance inside."""


class Origin(msgspec.Struct, kw_only=True):
    """Provenance of the samples: enough to draw any of them again."""

    model: str
    """`name@version`."""
    digest: str
    signature: str
    seed: int
    first_index: int
    labels: list[int] | None
    """Their classes, requested or drawn; null for models without classes."""
    reproducibility: str
    """bit, uint8 or tolerance, as measured by the replica that responded."""


class ImageResponse(msgspec.Struct, kw_only=True):
    """OpenAI's response; `aigc` is an extension."""

    created: int
    """Seconds since 1970."""
    data: list[ImageData]
    output_format: str
    size: str
    aigc: Origin


CREATE_IMAGE = Operation(
    id="createImage",
    summary="Draw images, for the openai SDK",
    tag="openai",
    request={"application/json": ImageRequest},
    example=lambda model: {"model": model.id, "prompt": "", "n": 2, "size": "auto", "seed": 7},
    response={"application/json": ImageResponse},
    description="The images.",
    headers=SAMPLE_HEADERS,
    errors=SAMPLING_ERRORS,
)


class ImagesApi:
    """OpenAI's endpoint for images in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        images = endpoint(self._sampler, API, json_decoder(ImageRequest, IMAGES), self._respond)
        return (Route("POST", IMAGES, images, CREATE_IMAGE),)

    async def _respond(
        self, request: ImageRequest, scope: Scope, context: RequestContext
    ) -> Response:
        sampler = self._sampler
        sampling = parse_request(sampler, request, context)
        context.metrics = sampling.runner.metrics
        outputs = await sampler.run(sampling, context)
        encoding = partial(encode, request, sampling, outputs, sampler.provenance_headers(sampling))
        return await sampler.encode(
            context, sampling.n * sampling.runner.values_per_sample, encoding
        )


def parse_request(
    sampler: Sampler, request: ImageRequest, context: RequestContext
) -> SamplingRequest:
    """The validated request. Raises HTTPError 400 or 404, naming the field at fault."""
    if request.stream:
        message = "stream must not be true: images are not streamed"
        raise HTTPError(400, "unsupported_value", message, param="stream")
    _check_choices(request)
    runner = sampler.runner(request.model, request.signature)
    if runner.image is None:
        message = f"{runner.no_image}; see /v1/models"
        raise HTTPError(400, "model_gives_no_image", message, param="model")
    if image_files.has_alpha(channels(runner.image)):
        _check_alpha(request, runner)
    sizes = None
    if request.size not in (None, "auto"):
        if runner.spec.axes:
            sizes = chosen_sizes(runner, request.size)
        elif request.size != size(runner):
            value = (request.size or "")[:60]
            message = f"{runner.artifact.id} gives {size(runner)}; size must be that or auto, got"
            raise HTTPError(400, "unsupported_value", f"{message} {value!r}", param="size")
    return sampler.build_request(
        runner,
        n=1 if request.n is None else request.n,
        sizes=sizes,
        seed=context.seed(request.seed),
        first_index=request.first_index,
        label=resolve(request.prompt, request.label, runner),
    )


def check_values(request: Any, runner: SignatureRunner) -> None:
    """Raise HTTPError 400 for values of a request's fields that are not allowed, or not for the
    images of a runner."""
    _check_choices(request)
    if runner.image is not None and image_files.has_alpha(channels(runner.image)):
        _check_alpha(request, runner)


def _check_choices(request: Any) -> None:
    for name, allowed in _ALLOWED.items():
        value = getattr(request, name, None)
        if value is not None and value not in allowed:
            message = f"{name} must be {format_choices(allowed)}, got {value[:60]!r}"
            message += _HINTS.get(name, "")
            raise HTTPError(400, "unsupported_value", message, param=name)
    _check_compression(request)


def _check_alpha(request: Any, runner: SignatureRunner) -> None:
    """Raise HTTPError 400 for options that exclude transparency."""
    for name, value, allowed in (
        ("output_format", request.output_format == "jpeg", "png or webp"),
        ("background", request.background == "opaque", "auto"),
    ):
        if value:
            message = (
                f"{runner.artifact.id} gives images with transparency: {name} must be {allowed}"
            )
            raise HTTPError(400, "unsupported_value", message, param=name)


def _check_compression(request: Any) -> None:
    quality = request.output_compression
    if quality is None:
        return
    if not 0 <= quality <= 100:
        message = f"output_compression must be in [0, 100], got {quality}"
    elif request.output_format in (None, "png") and quality != 100:
        message = f"png keeps every pixel: output_compression {quality} needs jpeg or webp"
    else:
        return
    raise HTTPError(400, "unsupported_value", message, param="output_compression")


def size(runner: SignatureRunner) -> str:
    """WIDTHxHEIGHT of a runner's images."""
    assert runner.image is not None
    _, height, width = runner.image.fixed_shape
    return f"{width}x{height}"


def encode(
    request: ImageRequest, sampling: SamplingRequest, outputs: Arrays, headers: Headers
) -> Response:
    """Outputs -> OpenAI's response, every image with its provenance inside."""
    runner = sampling.runner
    format_name = request.output_format or "png"
    images = []
    for position, pixels in enumerate(outputs[PIXELS]):
        provenance, quality = sampling.provenance(position), request.output_compression
        if format_name == "png":
            data = image_files.png(pixels, provenance)
        elif format_name == "webp":
            data = image_files.webp(pixels, provenance, quality)
        else:
            data = image_files.jpeg(pixels, provenance, 100 if quality is None else quality)
        images.append({"b64_json": base64.b64encode(data).decode()})
    body = {
        "created": int(time.time()),
        "data": images,
        "output_format": format_name,
        "size": size(runner),
        "aigc": provenance_fields(sampling),
    }
    return json_response(body, headers)


def provenance_fields(sampling: SamplingRequest) -> dict[str, Any]:
    """The fields of Origin."""
    manifest = sampling.runner.artifact.manifest
    return {
        "model": manifest.id,
        "digest": manifest.digest,
        "signature": sampling.runner.name,
        "seed": sampling.params.seed,
        "first_index": sampling.params.first_index,
        "labels": sampling.labels(),
        "reproducibility": sampling.runner.level,
    }
