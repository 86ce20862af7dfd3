"""From one sample to another: what lies between two seeds, as a strip or an animation.

    POST /v1/interpolate {"model": "digits", "from_seed": 7, "to_seed": 8, "frames": 9, "label": 3}

The first frame is sample `index` of from_seed and the last that of to_seed, to the bit. Between
them latents go along the sphere (White 2016, arXiv:1609.04468); a class changes half-way.

Of a model of texts the frames are texts, and from_text and to_text may be the ends: what the model
makes of them.
"""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from aigc.artifact import codecs, latents
from aigc.artifact.codecs import Provenance
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import given, texts
from serve.dialects.fields import of_seed
from serve.dialects.native import API
from serve.http import (
    NO_STORE,
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

INTERPOLATE = "/v1/interpolate"

MAX_FRAMES = 256
"""Most frames of one answer, whatever the limits of a replica are."""
FRAME_DURATIONS_MS = (20, 10_000)
"""Shortest and longest time of a frame; browsers slow down what is faster."""

Format = Literal["png", "apng", "gif"]
MEDIA_TYPES: dict[Format, bytes] = {"png": b"image/png", "apng": b"image/apng", "gif": b"image/gif"}


class InterpolationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which two samples, and in how many steps from the one to the other."""

    model: Annotated[str, Meta(description="`name` (its newest version here) or `name@version`.")]
    from_seed: Annotated[int | None, of_seed("Seed of the first frame.")] = None
    to_seed: Annotated[int | None, of_seed("Seed of the last frame.")] = None
    from_text: Annotated[
        str | None, Meta(description="In place of seeds, for models that encode and decode texts.")
    ] = None
    to_text: Annotated[str | None, Meta(description="The other end.")] = None
    signature: Annotated[
        str, Meta(description="One that gives images of nothing but a seed and a label.")
    ] = "sample"
    index: Annotated[int, of_seed("Index of both samples within their seeds.")] = 0
    label: Annotated[
        int | tuple[int, int] | None,
        Meta(
            description="The class of all frames, or [first, last]; each end's own, drawn from its"
            " seed, if absent."
        ),
    ] = None
    frames: Annotated[
        int,
        Meta(
            description="How many, both ends counted.",
            extra_json_schema={"minimum": 2, "maximum": MAX_FRAMES},
        ),
    ] = 9
    settings: Annotated[
        dict[str, float] | None,
        Meta(description="What the signature lets a caller choose, for all frames."),
    ] = None
    format: Annotated[
        Format | None,
        Meta(
            description="Of images: png, side by side in one, if absent; apng, gif: an endless"
            " animation. Texts come as JSON, or as lines with Accept: text/plain."
        ),
    ] = None
    frame_duration_ms: Annotated[
        int,
        Meta(
            description="Of an animation.",
            extra_json_schema=dict(zip(("minimum", "maximum"), FRAME_DURATIONS_MS, strict=True)),
        ),
    ] = 100


class InterpolatedTexts(msgspec.Struct, kw_only=True):
    """The frames of a model of texts."""

    model: str
    """`name@version`."""
    digest: str
    signature: str
    """That wrote them."""
    reproducibility: str
    texts: list[str]


class InterpolationApi:
    """The endpoint for interpolations in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._decoder = msgspec.json.Decoder(InterpolationRequest)

    def routes(self) -> dict[str, Endpoints]:
        """Exact paths, for `serve.http.Application`."""
        return {INTERPOLATE: {"POST": self.interpolate}}

    async def interpolate(self, scope: Scope, receive: Receive) -> Response:
        async def work(call: Call) -> Response:
            body = await call.read(scope, receive, self._sampler.limits.max_body_bytes)
            request = decode(self._decoder, body, INTERPOLATE)
            as_lines = texts.wants_lines(scope["headers"])
            if request.from_text is not None or request.to_text is not None:
                ask, outputs = await self._between_texts(request, call)
                return _answer(self._sampler, ask, outputs, as_lines)
            start, stop = self.check(request)
            call.metrics = start.lane.metrics
            outputs = await between(self._sampler, call, start, stop, request.frames)
            if start.lane.image is None:
                return _answer(self._sampler, start, outputs, as_lines)
            pixels = outputs[PIXELS]
            headers = [*self._sampler.signed(start), (b"x-aigc-to-seed", b"%d" % stop.seed)]
            answer = partial(encode, request, start, stop, pixels, headers)
            return await self._sampler.encoded(pixels.size, answer)

        return await self._sampler.counted(API, scope["headers"], work)

    def check(self, request: InterpolationRequest) -> tuple[Ask, Ask]:
        """Both ends. Raises HTTPError 400 or 404 with a stable code."""
        seeds = (request.from_seed, request.to_seed)
        if None in seeds:
            raise _one_end("from_seed", "to_seed")
        start, stop = (
            self._sampler.ask(
                model=request.model,
                signature=request.signature,
                seed=seed,
                first_index=request.index,
                label=one,
                settings=request.settings,
            )
            for seed, one in zip(seeds, _labels(request), strict=True)
        )
        lane = start.lane
        if lane.image is None and (texts.text_of(lane) is None or request.format is not None):
            message = f"signature {lane.name!r} of {lane.artifact.id} gives no image"
            raise HTTPError(400, "format_needs_image", message, param="signature")
        self._check_frames(request, lane)
        shortest, longest = FRAME_DURATIONS_MS
        if not shortest <= request.frame_duration_ms <= longest:
            message = (
                f"frame_duration_ms must be in [{shortest}, {longest}],"
                f" got {request.frame_duration_ms}"
            )
            raise HTTPError(400, "frame_duration_out_of_range", message, param="frame_duration_ms")
        return start, stop

    def _check_frames(self, request: InterpolationRequest, lane: SignatureLane) -> None:
        most = min(MAX_FRAMES, self._sampler.most(lane))
        if not 2 <= request.frames <= most:
            message = f"frames must be in [2, {most}] for {lane.artifact.id}, got {request.frames}"
            raise HTTPError(400, "frames_out_of_range", message, param="frames")

    async def _between_texts(self, request: InterpolationRequest, call: Call) -> tuple[Ask, Arrays]:
        """The frames between two texts. Raises HTTPError 400, 404, 429 or 503."""
        encode, decode, inputs = self._check_texts(request)
        call.metrics = decode.lane.metrics
        await self._sampler.pay(decode.n, decode.lane, call)
        _, (start, stop) = await given.encoded(self._sampler, encode, inputs, call)
        codes = latents.slerp(start, stop, np.linspace(0, 1, decode.n))
        return await given.decoded(self._sampler, decode, codes, call)

    def _check_texts(self, request: InterpolationRequest) -> tuple[Ask, Ask, given.Inputs]:
        """What encodes both texts, what decodes the frames, and the texts.

        Raises HTTPError 400 or 404.
        """
        if request.from_text is None or request.to_text is None:
            raise _one_end("from_text", "to_text")
        if request.from_seed is not None or request.to_seed is not None:
            message = "give from_seed and to_seed, or from_text and to_text, not both"
            raise HTTPError(400, "ends_twice", message, param="from_seed")
        if request.format is not None:
            message = f"texts are sent as JSON or lines, not {request.format}"
            raise HTTPError(400, "format_needs_image", message, param="format")
        for name, nothing in (("index", (0,)), ("signature", ("sample", given.DECODE))):
            if getattr(request, name) not in nothing:
                message = f"{name} has no effect where texts are given: they are no samples"
                raise HTTPError(400, "no_effect", message, param=name)
        self._check_frames(request, self._sampler.lane(request.model, given.DECODE))
        first, last = _labels(request)
        ends = every = None
        if first is not None and last is not None:
            ends = [first, last]
            near = np.linspace(0, 1, request.frames) < 0.5
            every = [first if each else last for each in near.tolist()]
        encode = self._sampler.ask(
            model=request.model, signature=given.ENCODE, n=2, label=ends, given=True
        )
        decode = self._sampler.ask(
            model=request.model,
            signature=given.DECODE,
            n=request.frames,
            label=every,
            settings=request.settings,
            given=True,
        )
        inputs: given.Inputs = {_text_input(encode.lane): [request.from_text, request.to_text]}
        given.check_inputs(encode, inputs)
        given.check_decoding(decode)
        return encode, decode, inputs


def _text_input(lane: SignatureLane) -> str:
    """The input of a lane that is a text; its usual name if there is none."""
    return next((spec.name for spec in lane.spec.inputs if spec.kind == "text"), "text")


def _labels(request: InterpolationRequest) -> tuple[int | None, int | None]:
    label = request.label
    return label if isinstance(label, tuple) else (label, label)


def _one_end(start: str, stop: str) -> HTTPError:
    message = f"give both {start} and {stop}"
    return HTTPError(400, "end_missing", message, param=stop)


def _answer(sampler: Sampler, ask: Ask, outputs: Arrays, as_lines: bool) -> Response:
    manifest = ask.lane.artifact.manifest
    headers = [*sampler.model_headers(ask.lane), NO_STORE]
    found = texts.of_ask(ask, outputs)
    if as_lines:
        return texts.lines(found, headers)
    body = InterpolatedTexts(
        model=manifest.id,
        digest=manifest.digest,
        signature=ask.lane.name,
        reproducibility=ask.lane.level,
        texts=found,
    )
    return json_response(msgspec.to_builtins(body), headers)


async def between(sampler: Sampler, call: Call, start: Ask, stop: Ask, frames: int) -> Arrays:
    """The frames from one sample to another of the same lane, as the lane gives them.

    Settings are those of the first. Raises HTTPError 429 or 503.
    """
    # In a thread: many frames of a large latent would hold up the event loop.
    inputs = await asyncio.to_thread(
        start.lane.artifact.draw_between,
        start.lane.name,
        start.seed,
        stop.seed,
        frames,
        index=start.first_index,
        label=start.label_of(0),
        to_label=stop.label_of(0),
        settings=start.settings,
    )
    return await sampler.infer(start.lane, inputs, call)


def encode(
    request: InterpolationRequest,
    start: Ask,
    stop: Ask,
    pixels: NDArray[np.uint8],
    headers: Headers,
) -> Response:
    """Frames -> the answer in the format asked for, with its provenance in it."""
    made_by = provenance(start, stop, len(pixels))
    form = request.format or "png"
    if form == "png":
        data = codecs.png(codecs.arranged(pixels, made_by), made_by)
    else:
        data = codecs.animation(pixels, form, request.frame_duration_ms, made_by)
    return Response(data, MEDIA_TYPES[form], headers=[*headers, NO_STORE])


def provenance(start: Ask, stop: Ask, frames: int) -> Provenance:
    """Of all frames side by side."""
    return replace(
        start.provenance(0),
        n=frames,
        columns=frames,
        to_seed=stop.seed,
        to_label=stop.label_of(0),
    )
