"""From one sample to another: what lies between two seeds, as a strip or an animation.

    POST /v1/interpolate {"model": "digits", "from_seed": 7, "to_seed": 8, "frames": 9, "label": 3}

The first frame is sample `index` of from_seed and the last that of to_seed, to the bit. Between
them latents go along the sphere (White 2016, arXiv:1609.04468); a class changes half-way.
"""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from aigc.artifact import codecs
from aigc.artifact.codecs import Provenance
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects.native import API
from serve.hosting import PIXELS
from serve.http import (
    NO_STORE,
    Endpoints,
    Headers,
    HTTPError,
    Receive,
    Response,
    Scope,
    decode,
)
from serve.sampling import Sampler
from serve.settings import MAX_SEED

INTERPOLATE = "/v1/interpolate"

MAX_FRAMES = 256
"""Most frames of one answer, whatever the limits of a replica are."""
FRAME_DURATIONS_MS = (20, 10_000)
"""Shortest and longest time of a frame; browsers slow down what is faster."""

Format = Literal["png", "apng", "gif"]
MEDIA_TYPES: dict[Format, bytes] = {"png": b"image/png", "apng": b"image/apng", "gif": b"image/gif"}


def _seed(description: str) -> Meta:
    return Meta(description=description, extra_json_schema={"minimum": 0, "maximum": MAX_SEED})


class InterpolationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which two samples, and in how many steps from the one to the other."""

    model: Annotated[str, Meta(description="`name` (its newest version here) or `name@version`.")]
    from_seed: Annotated[int, _seed("Seed of the first frame.")]
    to_seed: Annotated[int, _seed("Seed of the last frame.")]
    signature: Annotated[
        str, Meta(description="One that gives images of nothing but a seed and a label.")
    ] = "sample"
    index: Annotated[int, _seed("Index of both samples within their seeds.")] = 0
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
    format: Annotated[
        Format, Meta(description="png: side by side in one image. apng, gif: an endless animation.")
    ] = "png"
    frame_duration_ms: Annotated[
        int,
        Meta(
            description="Of an animation.",
            extra_json_schema=dict(zip(("minimum", "maximum"), FRAME_DURATIONS_MS, strict=True)),
        ),
    ] = 100


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
            start, stop = self.check(request)
            call.metrics = start.lane.metrics
            outputs = await between(self._sampler, call, start, stop, request.frames)
            pixels = outputs[PIXELS]
            headers = [*self._sampler.signed(start), (b"x-aigc-to-seed", b"%d" % stop.seed)]
            answer = partial(encode, request, start, stop, pixels, headers)
            return await self._sampler.encoded(pixels.size, answer)

        return await self._sampler.counted(API, scope["headers"], work)

    def check(self, request: InterpolationRequest) -> tuple[Ask, Ask]:
        """Both ends. Raises HTTPError 400 or 404 with a stable code."""
        label = request.label
        labels = label if isinstance(label, tuple) else (label, label)
        start, stop = (
            self._sampler.ask(
                model=request.model,
                signature=request.signature,
                seed=seed,
                first_index=request.index,
                label=one,
            )
            for seed, one in zip((request.from_seed, request.to_seed), labels, strict=True)
        )
        lane = start.lane
        if lane.image is None:
            message = f"signature {lane.name!r} of {lane.artifact.id} gives no image"
            raise HTTPError(400, "format_needs_image", message, param="signature")
        most = min(MAX_FRAMES, self._sampler.most(lane))
        if not 2 <= request.frames <= most:
            message = f"frames must be in [2, {most}] for {lane.artifact.id}, got {request.frames}"
            raise HTTPError(400, "frames_out_of_range", message, param="frames")
        shortest, longest = FRAME_DURATIONS_MS
        if not shortest <= request.frame_duration_ms <= longest:
            message = (
                f"frame_duration_ms must be in [{shortest}, {longest}],"
                f" got {request.frame_duration_ms}"
            )
            raise HTTPError(400, "frame_duration_out_of_range", message, param="frame_duration_ms")
        return start, stop


async def between(sampler: Sampler, call: Call, start: Ask, stop: Ask, frames: int) -> Arrays:
    """The outputs of frames from one sample to another of the same lane. HTTPError 429 or 503."""
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
    if request.format == "png":
        data = codecs.png(codecs.arranged(pixels, made_by), made_by)
    else:
        data = codecs.animation(pixels, request.format, request.frame_duration_ms, made_by)
    return Response(data, MEDIA_TYPES[request.format], headers=[*headers, NO_STORE])


def provenance(start: Ask, stop: Ask, frames: int) -> Provenance:
    """Of all frames side by side."""
    return replace(
        start.provenance(0),
        n=frames,
        columns=frames,
        to_seed=stop.seed,
        to_label=stop.label_of(0),
    )
