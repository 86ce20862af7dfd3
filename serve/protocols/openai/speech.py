"""OpenAI's speech API, for the unmodified `openai` SDK.

    with client.audio.speech.with_streaming_response.create(
        model="voices", input="seven three", voice="default", response_format="wav"
    ) as answer:
        answer.stream_to_file("seven-three.wav")

The input consists of names of the model's classes. Each is one sample: word i is sample
first_index + i of the seed; `sizes` in extra_body is the length of each, where it is free. A longer
input is sent while it is generated. WAV and FLAC carry their provenance, so that `aigc verify` can
recreate them.
"""

import contextlib
import re
from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Annotated

import msgspec
import numpy as np

from aigc.artifact import TensorSpec
from aigc.artifact.image_files import Provenance
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner
from serve.http import NO_STORE, Response, Route, Scope, Stream
from serve.operation import BINARY, SAMPLE_HEADERS, SAMPLING_ERRORS, Operation
from serve.protocols import audio_responses
from serve.protocols.endpoint import endpoint, json_decoder
from serve.protocols.fields import field, seed_field
from serve.protocols.openai.class_names import format_choices, parse_class_name, unknown_class_error
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.sampling_request import SamplingRequest

API = "openai"
SPEECH = "/v1/audio/speech"

MAX_INPUT = 4096
"""Maximum length of an input in characters, OpenAI's own."""
WORDS_AT_ONCE = 4
"""Number of words generated and sent at a time; a shorter input is sent whole."""

_BREAKS = re.compile(r"[.,;:!?\"'()\[\]…–—]+")
_VOICES = ("default", "auto")


class SpeechRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's request for speech; further fields go into the SDK's extra_body."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    input: Annotated[str, field("Names of the model's classes.", maxLength=MAX_INPUT)]
    voice: Annotated[str | None, field("The seed selects the voice.", enum=[*_VOICES, None])] = None
    response_format: Annotated[
        str | None,
        field("pcm: 16 bits, little-endian, no header.", enum=[*audio_responses.MEDIA_TYPES, None]),
    ] = None
    speed: Annotated[float | None, field("There is one speed only.", enum=[1, None])] = None
    instructions: Annotated[str | None, field("Not supported.", enum=["", None])] = None
    stream_format: Annotated[str | None, field("Raw audio only.", enum=["audio", None])] = None
    seed: Annotated[
        int | None,
        seed_field("Seed of the speech; drawn by the server and returned if absent."),
    ] = None
    first_index: Annotated[int, seed_field("Index of the first word within the seed.")] = 0
    sizes: Annotated[
        dict[str, int] | None,
        field(
            "Sizes of the signature's free axes by name, for every word; others have the model's"
            " defaults."
        ),
    ] = None
    signature: Annotated[
        str | None,
        field("A signature that draws sounds of a class; by default the model's own."),
    ] = None


CREATE_SPEECH = Operation(
    id="createSpeech",
    summary="Speak words, for the openai SDK",
    tag="openai",
    request={"application/json": SpeechRequest},
    example=lambda model: {
        "model": model.id,
        "input": "seven three",
        "voice": "default",
        "seed": 7,
    },
    response={media_type.decode(): BINARY for media_type in audio_responses.MEDIA_TYPES.values()},
    description="The sound; a long one is sent while it is generated.",
    headers=SAMPLE_HEADERS,
    errors=SAMPLING_ERRORS,
)


class SpeechApi:
    """OpenAI's endpoint for speech in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        speech = endpoint(self._sampler, API, json_decoder(SpeechRequest, SPEECH), self._respond)
        return (Route("POST", SPEECH, speech, CREATE_SPEECH),)

    async def _respond(
        self, request: SpeechRequest, scope: Scope, context: RequestContext
    ) -> Response:
        sampler = self._sampler
        sampling, spec = parse_request(sampler, request, context)
        context.metrics = sampling.runner.metrics
        format_name: audio_responses.Format = request.response_format or "wav"  # type: ignore[assignment]
        headers = [*sampler.provenance_headers(sampling), NO_STORE]
        media_type = audio_responses.MEDIA_TYPES[format_name]
        if sampling.n > WORDS_AT_ONCE and format_name in audio_responses.STREAMED:
            await sampler.charge(sampling.n, sampling.runner, context)
            chunks = self._chunks(sampling, spec, context)
            # Generated before the status is sent, so that a full queue still is a 503.
            n, provenance = sampling.n * spec.fixed_shape[1], speech_provenance(sampling)
            head = audio_responses.head(format_name, n, spec, provenance)
            first = head + await anext(chunks)
            return Stream(first, media_type, headers=headers, chunks=chunks, failure=None)
        outputs = await sampler.run(sampling, context)

        def encode() -> Response:
            clip = np.concatenate([*audio_responses.clips(spec, outputs)])
            data = audio_responses.file(
                format_name, clip, spec.sample_rate_hz, speech_provenance(sampling)
            )
            return Response(data, media_type, headers=headers)

        return await sampler.encode(context, sampling.n * sampling.runner.values_per_sample, encode)

    async def _chunks(
        self, sampling: SamplingRequest, spec: TensorSpec, context: RequestContext
    ) -> AsyncGenerator[bytes, None]:
        """The words as raw samples, WORDS_AT_ONCE at a time. Raises HTTPError 503."""
        parts = list(sampling.split(min(WORDS_AT_ONCE, sampling.runner.max_batch)))
        running = self._sampler.run_parts(parts, context)
        async with contextlib.aclosing(running):
            for part in parts:
                outputs = await anext(running)
                values = part.n * part.runner.values_per_sample
                encoding = partial(audio_responses.raw, spec, outputs)
                yield await self._sampler.encode(context, values, encoding)


def parse_request(
    sampler: Sampler, request: SpeechRequest, context: RequestContext
) -> tuple[SamplingRequest, TensorSpec]:
    """The validated request and its audio output. Raises HTTPError 400 or 404."""
    _check_choices(request)
    runner = sampler.runner(request.model, request.signature)
    spec = audio_responses.audio_output(runner)
    if spec is None:
        message = (
            f"signature {runner.name!r} of {runner.artifact.id} gives no sound; see /v1/models"
        )
        raise HTTPError(400, "model_gives_no_sound", message, param="model")
    labels = tokenize_words(request.input, runner)
    sampling = sampler.build_request(
        runner,
        n=len(labels),
        seed=context.seed(request.seed),
        first_index=request.first_index,
        label=labels,
        sizes=request.sizes,
    )
    return sampling, audio_responses.audio_output(sampling.runner) or spec


def _check_choices(request: SpeechRequest) -> None:
    for name, allowed, hint in (
        ("voice", _VOICES, "; the seed selects the voice"),
        ("response_format", tuple(audio_responses.MEDIA_TYPES), ""),
        ("speed", (1.0,), "; the model has one speed"),
        ("instructions", ("",), "; the model takes no instructions"),
        ("stream_format", ("audio",), "; audio is sent raw"),
    ):
        value = getattr(request, name)
        if value is not None and value not in allowed:
            message = f"{name} must be {format_choices([str(one) for one in allowed])},"
            message += f" got {str(value)[:60]!r}{hint}"
            raise HTTPError(400, "unsupported_value", message, param=name)


def tokenize_words(text: str, runner: SignatureRunner) -> list[int]:
    """The classes named in a text, word by word; the longest matching name wins.

    Raises HTTPError 400 for an empty or too long text, and for a word that names no class.
    """
    if len(text) > MAX_INPUT:
        message = f"input must be at most {MAX_INPUT} characters, got {len(text)}"
        raise HTTPError(400, "input_too_long", message, param="input")
    phrases = [part.split() for part in _BREAKS.split(text)]
    classes = runner.spec.label.classes if runner.spec.label else ()
    longest = max((len(name.split()) for name in classes), default=1)
    labels = [label for phrase in phrases for label in _phrase(phrase, longest, runner)]
    if not labels:
        raise HTTPError(400, "unknown_prompt", "input must hold a word to speak", param="input")
    return labels


def _phrase(spoken: list[str], longest: int, runner: SignatureRunner) -> Iterator[int]:
    """The classes of the words between two breaks; a name has at most `longest` words."""
    at = 0
    while at < len(spoken):
        for stop in range(min(at + longest, len(spoken)), at, -1):
            label = parse_class_name(" ".join(spoken[at:stop]), runner)
            if label is not None:
                break
        else:
            message = unknown_class_error(spoken[at], runner, "a word of the input")
            raise HTTPError(400, "unknown_prompt", message, param="input")
        yield label
        at = stop


def speech_provenance(sampling: SamplingRequest) -> Provenance:
    """Provenance of the speech: one word is a sample, several are like those of a grid."""
    return sampling.provenance(0) if sampling.n == 1 else sampling.of_grid()
