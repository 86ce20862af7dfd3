"""OpenAI's dialect: the unmodified `openai` SDK draws from the models hosted here.

    client = OpenAI(base_url="http://localhost:8000/v1", api_key="any")
    client.images.generate(model="digits", prompt="seven", n=4, extra_body={"seed": 7})

The prompt chooses a class: by its name in any case ("seven"), or by its number ("7", "label: 7").
An empty prompt, or the model's own name, leaves the class to the seed; for a model without classes
these two are all that there is, for it draws one kind of thing whatever is said. `label` in
extra_body decides where both are given, and they may not contradict each other.

Whatever OpenAI's API has and a fixed generator has not is refused by name, never passed over, but
for values that ask for nothing ("auto", null) and for `user`, which changes no image. Errors have
the one shape of this server, a superset of OpenAI's; `/v1/models` is the native one, likewise.

OpenAI's completions and its speech, which stream, have files of their own.
"""

import base64
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from aigc.artifact import codecs
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects.classes import either, resolve
from serve.dialects.fields import field, of_seed
from serve.http import (
    Endpoint,
    Endpoints,
    Headers,
    HTTPError,
    Receive,
    Response,
    Scope,
    decode,
    json_response,
)
from serve.lane import PIXELS, SignatureLane
from serve.sampling import Sampler

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
"""Fields with few values; the first is what is given where the field is absent or null."""

_HINTS = {
    "response_format": "; this server keeps no files that a URL could lead to",
    "background": "; the images have no transparency",
}


def _choice(name: str, description: str) -> Meta:
    return field(description, enum=[*_ALLOWED[name], None])


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's request for images, and in the SDK's extra_body what seeds need beyond it."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    prompt: Annotated[
        str,
        field("A class by name or number; empty or the model's name: drawn from the seed."),
    ]
    n: Annotated[int | None, field("How many images.", minimum=1)] = 1
    size: Annotated[str | None, field("auto, or the WxH that the model gives.")] = "auto"
    response_format: Annotated[str | None, _choice("response_format", "Images come inline.")] = None
    output_format: Annotated[
        str | None, _choice("output_format", "Each image says in it what made it.")
    ] = None
    output_compression: Annotated[
        int | None,
        field(
            "Quality of jpeg (100 if absent) and of webp (lossless if absent).",
            minimum=0,
            maximum=100,
        ),
    ] = None
    quality: Annotated[str | None, _choice("quality", "There is one quality.")] = None
    style: Annotated[str | None, _choice("style", "There is one style.")] = None
    background: Annotated[str | None, _choice("background", "Images are opaque.")] = None
    moderation: Annotated[str | None, _choice("moderation", "Nothing is filtered.")] = None
    stream: Annotated[bool | None, field("Images come whole.", enum=[False, None])] = None
    user: Annotated[str | None, field("Accepted and not kept.")] = None
    safety_identifier: Annotated[str | None, field("Accepted and not kept.")] = None
    seed: Annotated[
        int | None,
        of_seed("Names the images; drawn by the server and returned if absent."),
    ] = None
    first_index: Annotated[int, of_seed("Index of the first image within the seed.")] = 0
    label: Annotated[
        int | list[int] | None, field("Class numbers in place of a prompt: one, or n of them.")
    ] = None
    signature: Annotated[str, field("One that gives images of nothing but a seed.")] = "sample"


class ImageData(msgspec.Struct, kw_only=True):
    """One image."""

    b64_json: str
    """base64 of the file, which carries its provenance."""


class Origin(msgspec.Struct, kw_only=True):
    """What made the samples: with it any of them can be made again."""

    model: str
    """`name@version`."""
    digest: str
    signature: str
    seed: int
    first_index: int
    labels: list[int] | None
    """Their classes, asked for or drawn; null for models without classes."""
    reproducibility: str
    """bit, uint8 or tolerance, as measured by the replica that answered."""


class ImageResponse(msgspec.Struct, kw_only=True):
    """OpenAI's answer; `aigc` is what it has beyond that."""

    created: int
    """Seconds since 1970."""
    data: list[ImageData]
    output_format: str
    size: str
    aigc: Origin


R = TypeVar("R", bound=msgspec.Struct)
Check = Callable[[Sampler, R, Call], Ask]
Encode = Callable[[R, Ask, Arrays, Headers], Response]


class OpenAIApi:
    """The endpoints of OpenAI's dialect in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> dict[str, Endpoints]:
        """Exact paths, for `serve.http.Application`."""
        return {IMAGES: {"POST": self._endpoint(IMAGES, ImageRequest, check, encode)}}

    def _endpoint(
        self, path: str, request: type[R], check: Check[R], encode: Encode[R]
    ) -> Endpoint:
        decoder = msgspec.json.Decoder(request)
        sampler = self._sampler

        async def endpoint(scope: Scope, receive: Receive) -> Response:
            async def work(call: Call) -> Response:
                body = await call.read(scope, receive, sampler.limits.max_body_bytes)
                asked = decode(decoder, body, path)
                ask = check(sampler, asked, call)
                call.metrics = ask.lane.metrics
                outputs = await sampler.run(ask, call)
                answer = partial(encode, asked, ask, outputs, sampler.signed(ask))
                return await sampler.encoded(ask.n * ask.lane.values_per_sample, answer)

            return await sampler.counted(API, scope["headers"], work)

        return endpoint


def check(sampler: Sampler, request: ImageRequest, call: Call) -> Ask:
    """What is to be done. Raises HTTPError 400 or 404 with a stable code and the field at fault."""
    if request.stream:
        message = "stream must not be true: images come whole; ask without it"
        raise HTTPError(400, "unsupported_value", message, param="stream")
    for name, allowed in _ALLOWED.items():
        given = getattr(request, name)
        if given is not None and given not in allowed:
            message = f"{name} must be {either(allowed)}, got {given[:60]!r}"
            message += _HINTS.get(name, "")
            raise HTTPError(400, "unsupported_value", message, param=name)
    _check_compression(request)
    lane = sampler.lane(request.model, request.signature)
    if lane.image is None:
        message = f"signature {lane.name!r} of {lane.artifact.id} gives no image; see /v1/models"
        raise HTTPError(400, "model_gives_no_image", message, param="model")
    if request.size not in (None, "auto", size(lane)):
        given = (request.size or "")[:60]
        message = f"{lane.artifact.id} gives {size(lane)}; size must be that or auto, got {given!r}"
        raise HTTPError(400, "unsupported_value", message, param="size")
    return sampler.ask(
        model=lane.artifact.id,
        signature=request.signature,
        n=1 if request.n is None else request.n,
        seed=call.seed(request.seed),
        first_index=request.first_index,
        label=resolve(request.prompt, request.label, lane),
    )


def _check_compression(request: ImageRequest) -> None:
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


def size(lane: SignatureLane) -> str:
    """WIDTHxHEIGHT of a lane's images."""
    assert lane.image is not None
    _, height, width = lane.image.shape
    return f"{width}x{height}"


def encode(request: ImageRequest, ask: Ask, outputs: Arrays, headers: Headers) -> Response:
    """Outputs of a lane -> OpenAI's answer, every image with its provenance in it."""
    lane = ask.lane
    form = request.output_format or "png"
    images = []
    for position, pixels in enumerate(outputs[PIXELS]):
        made_by, quality = ask.provenance(position), request.output_compression
        if form == "png":
            data = codecs.png(pixels, made_by)
        elif form == "webp":
            data = codecs.webp(pixels, made_by, quality)
        else:
            data = codecs.jpeg(pixels, made_by, 100 if quality is None else quality)
        images.append({"b64_json": base64.b64encode(data).decode()})
    body = {
        "created": int(time.time()),
        "data": images,
        "output_format": form,
        "size": size(lane),
        "aigc": origin(ask),
    }
    return json_response(body, headers)


def origin(ask: Ask) -> dict[str, Any]:
    """The fields of Origin."""
    manifest = ask.lane.artifact.manifest
    return {
        "model": manifest.id,
        "digest": manifest.digest,
        "signature": ask.lane.name,
        "seed": ask.seed,
        "first_index": ask.first_index,
        "labels": ask.labels(),
        "reproducibility": ask.lane.level,
    }
