"""Interpolation between the samples of two seeds, as a strip or an animation.

    POST /v1/interpolate {"model": "digits", "from_seed": 7, "to_seed": 8, "frames": 9, "label": 3}

The first frame is sample `index` of from_seed and the last that of to_seed, to the bit. Latents in
between are interpolated spherically (White 2016, arXiv:1609.04468); a class changes half-way.

The frames of a model of texts are texts; from_text and to_text may take the place of the seeds, and
the ends are then their reconstructions.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from aigc.artifact import image_files, latents
from aigc.artifact.image_files import Provenance
from aigc.artifact.sampling_inputs import Arrays
from serve.errors import HTTPError
from serve.hosting.runner import PIXELS, SignatureRunner
from serve.http import NO_STORE, Headers, Response, Route, Scope, json_response
from serve.operation import BINARY, SAMPLE_HEADERS, SAMPLING_ERRORS, TEXT, Operation
from serve.protocols import text_codec
from serve.protocols.endpoint import endpoint, json_decoder
from serve.protocols.fields import field, seed_field
from serve.protocols.native import request_inputs
from serve.protocols.native.routes import API
from serve.protocols.sizes import chosen_sizes
from serve.request_context import RequestContext
from serve.sampler import ENCODE_INLINE_VALUES, Sampler
from serve.sampling_request import SamplingRequest

INTERPOLATE = "/v1/interpolate"

MAX_FRAMES = 256
"""Maximum number of frames, whatever the limits of a replica are."""
FRAME_DURATIONS_MS = (20, 10_000)
"""Range of a frame's duration; browsers slow down faster animations."""

Format = Literal["png", "apng", "gif"]
MEDIA_TYPES: dict[Format, bytes] = {"png": b"image/png", "apng": b"image/apng", "gif": b"image/gif"}


OneLabel = int | str | None
"""A class by number or name."""


class InterpolationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two samples, and the number of frames from one to the other."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    from_seed: Annotated[int | None, seed_field("Seed of the first frame.")] = None
    to_seed: Annotated[int | None, seed_field("Seed of the last frame.")] = None
    from_text: Annotated[
        str | None,
        field("In place of from_seed, for models that encode and decode texts."),
    ] = None
    to_text: Annotated[str | None, field("In place of to_seed.")] = None
    signature: Annotated[
        str | None,
        field("A signature that draws images from a seed; the model's default if absent."),
    ] = None
    index: Annotated[int, seed_field("Index of both samples within their seeds.")] = 0
    label: Annotated[
        int | str | tuple[int | str, int | str] | None,
        field(
            "The class of all frames, or [first, last], by number or name; drawn from the seeds if"
            " absent."
        ),
    ] = None
    frames: Annotated[
        int,
        field(
            "Number of frames, both ends included.",
            minimum=2,
            maximum=MAX_FRAMES,
        ),
    ] = 9
    settings: Annotated[
        dict[str, float] | None,
        field("Settings of the signature, for all frames."),
    ] = None
    size: Annotated[
        str | None,
        field("WIDTHxHEIGHT of images with free sizes; the default of the signature if absent."),
    ] = None
    sizes: Annotated[
        dict[str, int] | None,
        field("Sizes of the signature's free axes by name, for all frames."),
    ] = None
    format: Annotated[
        Format | None,
        field(
            "For images. png, the default: side by side; apng, gif: an endless"
            " animation. Texts are sent as JSON, or as lines with Accept: text/plain."
        ),
    ] = None
    frame_duration_ms: Annotated[
        int,
        field(
            "For animations.",
            minimum=FRAME_DURATIONS_MS[0],
            maximum=FRAME_DURATIONS_MS[1],
        ),
    ] = 100


class InterpolatedTexts(msgspec.Struct, kw_only=True):
    """The frames of a model of texts."""

    model: str
    """`name@version`."""
    digest: str
    signature: str
    """Signature that generated the texts."""
    reproducibility: str
    texts: list[str]


CREATE_INTERPOLATION = Operation(
    id="interpolate",
    summary="Interpolate between two samples",
    tag="samples",
    request={"application/json": InterpolationRequest},
    example=lambda model: {"model": model.id, "from_seed": 7, "to_seed": 8, "frames": 9},
    response={
        **{media_type.decode(): BINARY for media_type in MEDIA_TYPES.values()},
        "application/json": InterpolatedTexts,
        "text/plain": TEXT,
    },
    description="The frames, in the requested format.",
    headers={**SAMPLE_HEADERS, "X-Aigc-To-Seed": "The seed of the last frame."},
    errors=SAMPLING_ERRORS,
)


class InterpolationApi:
    """The interpolation endpoint of one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        decoder = json_decoder(InterpolationRequest, INTERPOLATE)
        interpolate = endpoint(self._sampler, API, decoder, self._respond)
        return (Route("POST", INTERPOLATE, interpolate, CREATE_INTERPOLATION),)

    async def _respond(
        self, request: InterpolationRequest, scope: Scope, context: RequestContext
    ) -> Response:
        as_lines = text_codec.wants_lines(scope["headers"])
        if request.from_text is not None or request.to_text is not None:
            sampling, outputs = await self._between_texts(request, context)
            return _encode_texts(self._sampler, sampling, outputs, as_lines)
        start, stop = self._parse_request(request)
        context.metrics = start.runner.metrics
        outputs = await between(self._sampler, context, start, stop, request.frames)
        if start.runner.image is None:
            return _encode_texts(self._sampler, start, outputs, as_lines)
        pixels = outputs[PIXELS]
        headers = [
            *self._sampler.provenance_headers(start),
            (b"x-aigc-to-seed", b"%d" % stop.params.seed),
        ]
        encoding = partial(encode, request, start, stop, pixels, headers)
        return await self._sampler.encode(context, pixels.size, encoding)

    def _end(self, request: InterpolationRequest, name: str, label: OneLabel) -> SamplingRequest:
        """The validated request of the end whose seed is in field `name`. Raises HTTPError."""
        try:
            runner = self._sampler.runner(request.model, request.signature)
            return self._sampler.build_request(
                runner,
                seed=getattr(request, name),
                first_index=request.index,
                label=label,
                settings=request.settings,
                sizes=chosen_sizes(runner, request.size, request.sizes),
            )
        except HTTPError as error:
            error.param = {"seed": name, "first_index": "index"}.get(error.param or "", error.param)
            raise

    def _parse_request(
        self, request: InterpolationRequest
    ) -> tuple[SamplingRequest, SamplingRequest]:
        """The validated requests of both ends. Raises HTTPError 400 or 404."""
        seeds = (request.from_seed, request.to_seed)
        if None in seeds:
            raise _missing_end("from_seed", "to_seed")
        start, stop = (
            self._end(request, name, label)
            for name, label in zip(("from_seed", "to_seed"), _labels(request), strict=True)
        )
        runner = start.runner
        if runner.image is None and (
            text_codec.text_output(runner) is None or request.format is not None
        ):
            raise HTTPError(400, "format_needs_image", runner.no_image, param="signature")
        self._check_frames(request, runner)
        shortest, longest = FRAME_DURATIONS_MS
        if not shortest <= request.frame_duration_ms <= longest:
            message = (
                f"frame_duration_ms must be in [{shortest}, {longest}],"
                f" got {request.frame_duration_ms}"
            )
            raise HTTPError(400, "frame_duration_out_of_range", message, param="frame_duration_ms")
        return start, stop

    def _check_frames(self, request: InterpolationRequest, runner: SignatureRunner) -> None:
        most = min(MAX_FRAMES, self._sampler.max_n(runner))
        if not 2 <= request.frames <= most:
            message = (
                f"frames must be in [2, {most}] for {runner.artifact.id}, got {request.frames}"
            )
            raise HTTPError(400, "frames_out_of_range", message, param="frames")

    async def _between_texts(
        self, request: InterpolationRequest, context: RequestContext
    ) -> tuple[SamplingRequest, Arrays]:
        """The frames between two texts. Raises HTTPError 400, 404, 429 or 503."""
        encode, decode, inputs = self._check_texts(request)
        context.metrics = decode.runner.metrics
        await self._sampler.charge(decode.n, decode.runner, context)
        _, (start, stop) = await request_inputs.run_encoder(self._sampler, encode, inputs, context)
        codes = latents.slerp(start, stop, np.linspace(0, 1, decode.n))
        return await request_inputs.run_decoder(self._sampler, decode, codes, context)

    def _check_texts(
        self, request: InterpolationRequest
    ) -> tuple[SamplingRequest, SamplingRequest, request_inputs.Inputs]:
        """The requests that encode both texts and decode the frames, and the inputs.

        Raises HTTPError 400 or 404.
        """
        if request.from_text is None or request.to_text is None:
            raise _missing_end("from_text", "to_text")
        if request.from_seed is not None or request.to_seed is not None:
            message = "give from_seed and to_seed, or from_text and to_text, not both"
            raise HTTPError(400, "ends_twice", message, param="from_seed")
        if request.format is not None:
            message = f"texts are sent as JSON or lines, not {request.format}"
            raise HTTPError(400, "format_needs_image", message, param="format")
        for name, nothing in (
            ("index", (0,)),
            ("signature", (None, "sample", request_inputs.DECODE)),
            ("size", (None,)),
            ("sizes", (None,)),
        ):
            if getattr(request, name) not in nothing:
                message = f"{name} has no effect on an interpolation between texts"
                raise HTTPError(400, "no_effect", message, param=name)
        lane = self._sampler.runner(request.model, request_inputs.DECODE)
        self._check_frames(request, lane)
        first, last = _labels(request)
        ends = every = None
        if first is not None and last is not None:
            ends = [first, last]
            near = np.linspace(0, 1, request.frames) < 0.5
            every = [first if each else last for each in near.tolist()]
        encode = self._sampler.build_request(
            self._sampler.runner(request.model, request_inputs.ENCODE),
            n=2,
            label=ends,
            has_inputs=True,
        )
        decode = self._sampler.build_request(
            lane, n=request.frames, label=every, settings=request.settings, has_inputs=True
        )
        inputs: request_inputs.Inputs = {
            _text_input(encode.runner): [request.from_text, request.to_text]
        }
        request_inputs.check_inputs(encode, inputs)
        request_inputs.check_decoding(decode)
        return encode, decode, inputs


def _text_input(runner: SignatureRunner) -> str:
    """Name of a runner's text input; `text` if there is none."""
    return next((spec.name for spec in runner.spec.inputs if spec.kind == "text"), "text")


def _labels(request: InterpolationRequest) -> tuple[OneLabel, OneLabel]:
    label = request.label
    return label if isinstance(label, tuple) else (label, label)


def _missing_end(start: str, stop: str) -> HTTPError:
    message = f"give both {start} and {stop}"
    return HTTPError(400, "end_missing", message, param=stop)


def _encode_texts(
    sampler: Sampler, sampling: SamplingRequest, outputs: Arrays, as_lines: bool
) -> Response:
    manifest = sampling.runner.artifact.manifest
    headers = [*sampler.model_headers(sampling.runner), NO_STORE]
    texts = text_codec.response_texts(sampling, outputs)
    if as_lines:
        return text_codec.lines(texts, headers)
    body = InterpolatedTexts(
        model=manifest.id,
        digest=manifest.digest,
        signature=sampling.runner.name,
        reproducibility=sampling.runner.level,
        texts=texts,
    )
    return json_response(msgspec.to_builtins(body), headers)


async def between(
    sampler: Sampler,
    context: RequestContext,
    start: SamplingRequest,
    stop: SamplingRequest,
    frames: int,
) -> Arrays:
    """Outputs of the frames from one sample to another of the same runner.

    Settings are those of `start`. Raises HTTPError 429 or 503.
    """
    # In a thread: many frames of a large latent would block the event loop.
    draw = partial(
        start.runner.artifact.draw_between,
        start.runner.name,
        start.params.seed,
        stop.params.seed,
        frames,
        index=start.params.first_index,
        label=start.label_of(0),
        to_label=stop.label_of(0),
        settings=start.params.settings,
        sizes=start.params.sizes,
    )
    inputs = await sampler.read(frames, start.runner, context, ENCODE_INLINE_VALUES, draw)
    return await sampler.infer(start.runner, inputs, context)


def encode(
    request: InterpolationRequest,
    start: SamplingRequest,
    stop: SamplingRequest,
    pixels: NDArray[np.uint8],
    headers: Headers,
) -> Response:
    """Frames -> the response in the requested format, its provenance inside."""
    provenance = strip_provenance(start, stop, len(pixels))
    form = request.format or "png"
    if form == "png":
        data = image_files.png(image_files.tile(pixels, provenance), provenance)
    else:
        data = image_files.animation(pixels, form, request.frame_duration_ms, provenance)
    return Response(data, MEDIA_TYPES[form], headers=[*headers, NO_STORE])


def strip_provenance(start: SamplingRequest, stop: SamplingRequest, frames: int) -> Provenance:
    """Provenance of all frames side by side."""
    return replace(
        start.provenance(0),
        n=frames,
        columns=frames,
        to_seed=stop.params.seed,
        to_label=stop.label_of(0),
    )
