"""OpenAI's speech: the unmodified `openai` SDK has words spoken by the models hosted here.

    with client.audio.speech.with_streaming_response.create(
        model="voices", input="seven three", voice="default", response_format="wav"
    ) as answer:
        answer.stream_to_file("seven-three.wav")

The input is words that the model knows, the names of its classes, and each is one sample: word i
is sample first_index + i of the seed. More than a few are sent while the rest is made. What spoke
them is written into WAV and FLAC, and `aigc verify` makes them again.
"""

import contextlib
import re
from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Annotated

import msgspec
import numpy as np

from aigc.artifact import TensorSpec, sound
from aigc.artifact.codecs import Provenance
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import sounds
from serve.dialects.classes import class_of, either, no_such_class
from serve.dialects.fields import field, of_seed
from serve.http import (
    NO_STORE,
    Endpoints,
    HTTPError,
    Receive,
    Response,
    Scope,
    Stream,
    decode,
)
from serve.lane import SignatureLane
from serve.sampling import Sampler

API = "openai"
SPEECH = "/v1/audio/speech"

MAX_INPUT = 4096
"""Most characters of an input, as OpenAI has it."""
WORDS_AT_ONCE = 4
"""Of an input that is longer, so many are spoken before the first of them is sent."""

_BREAKS = re.compile(r"[.,;:!?\"'()\[\]…–—]+")
_VOICES = ("default", "auto")


class SpeechRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's request for speech, and in the SDK's extra_body what seeds need beyond it."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    input: Annotated[
        str, field("Words that the model knows: names of its classes.", maxLength=MAX_INPUT)
    ]
    voice: Annotated[str | None, field("The seed chooses the voice.", enum=[*_VOICES, None])] = None
    response_format: Annotated[
        str | None,
        field("pcm: 16 bits, little-endian, no head.", enum=[*sounds.MEDIA_TYPES, None]),
    ] = None
    speed: Annotated[float | None, field("There is one speed.", enum=[1, None])] = None
    instructions: Annotated[str | None, field("There are none to give.", enum=["", None])] = None
    stream_format: Annotated[str | None, field("Sound is sent as it is.", enum=["audio", None])] = (
        None
    )
    seed: Annotated[
        int | None,
        of_seed("Names the speech; drawn by the server and returned if absent."),
    ] = None
    first_index: Annotated[int, of_seed("Index of the first word within the seed.")] = 0
    signature: Annotated[str, field("One that gives a sound of a class.")] = "sample"


class SpeechApi:
    """The endpoint for speech in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._decoder = msgspec.json.Decoder(SpeechRequest)

    def routes(self) -> dict[str, Endpoints]:
        """Exact paths, for `serve.http.Application`."""
        return {SPEECH: {"POST": self.speech}}

    async def speech(self, scope: Scope, receive: Receive) -> Response:
        async def work(call: Call) -> Response:
            sampler = self._sampler
            body = await call.read(scope, receive, sampler.limits.max_body_bytes)
            request = decode(self._decoder, body, SPEECH)
            ask, spec = check(sampler, request, call)
            call.metrics = ask.lane.metrics
            form: sounds.Format = request.response_format or "wav"  # type: ignore[assignment]
            headers = [*sampler.signed(ask), NO_STORE]
            media_type = sounds.MEDIA_TYPES[form]
            if ask.n > WORDS_AT_ONCE and form != "flac":
                await sampler.pay(ask.n, ask.lane, call)
                chunks = self._chunks(ask, spec, call)
                # Made before the status is sent, so that a full queue still is a 503.
                first = _head(form, ask, spec) + await anext(chunks)
                return Stream(first, media_type, headers=headers, chunks=chunks, failure=None)
            outputs = await sampler.run(ask, call)

            def encode() -> Response:
                clip = np.concatenate([*sounds.clips(spec, outputs)])
                data = sounds.file(form, clip, spec.sample_rate_hz, made_by(ask))
                return Response(data, media_type, headers=headers)

            return await sampler.encoded(ask.n * ask.lane.values_per_sample, encode)

        return await self._sampler.counted(API, scope["headers"], work)

    async def _chunks(self, ask: Ask, spec: TensorSpec, call: Call) -> AsyncGenerator[bytes, None]:
        """The words as raw samples, some at a time. Raises HTTPError 503."""
        parts = list(ask.parts(min(WORDS_AT_ONCE, ask.lane.max_batch)))
        running = self._sampler.run_parts(parts, call)
        async with contextlib.aclosing(running):
            for part in parts:
                outputs = await anext(running)
                values = part.n * part.lane.values_per_sample
                yield await self._sampler.encoded(values, partial(_raw, spec, outputs))


def check(sampler: Sampler, request: SpeechRequest, call: Call) -> tuple[Ask, TensorSpec]:
    """What is to be spoken, and the sound that it is to be. Raises HTTPError 400 or 404."""
    _check_choices(request)
    lane = sampler.lane(request.model, request.signature)
    spec = sounds.sound_of(lane)
    if spec is None:
        message = f"signature {lane.name!r} of {lane.artifact.id} gives no sound; see /v1/models"
        raise HTTPError(400, "model_gives_no_sound", message, param="model")
    labels = words(request.input, lane)
    ask = sampler.ask(
        model=lane.artifact.id,
        signature=request.signature,
        n=len(labels),
        seed=call.seed(request.seed),
        first_index=request.first_index,
        label=labels,
    )
    return ask, spec


def _check_choices(request: SpeechRequest) -> None:
    for name, allowed, hint in (
        ("voice", _VOICES, "; no model here has voices to choose from, the seed chooses"),
        ("response_format", tuple(sounds.MEDIA_TYPES), ""),
        ("speed", (1.0,), "; speech has the speed of what the model learnt"),
        ("instructions", ("",), "; a model speaks as it learnt"),
        ("stream_format", ("audio",), "; sound is sent as it is, while it is made"),
    ):
        given = getattr(request, name)
        if given is not None and given not in allowed:
            message = f"{name} must be {either([str(one) for one in allowed])},"
            message += f" got {str(given)[:60]!r}{hint}"
            raise HTTPError(400, "unsupported_value", message, param=name)


def words(text: str, lane: SignatureLane) -> list[int]:
    """The classes that a text names, word after word, the longest name first where two fit.

    Raises HTTPError 400 for an empty text, one that is too long, and a word that is no class.
    """
    if len(text) > MAX_INPUT:
        message = f"input must be at most {MAX_INPUT} characters, got {len(text)}"
        raise HTTPError(400, "input_too_long", message, param="input")
    phrases = [part.split() for part in _BREAKS.split(text)]
    classes = lane.spec.label.classes if lane.spec.label else ()
    longest = max((len(name.split()) for name in classes), default=1)
    labels = [label for phrase in phrases for label in _phrase(phrase, longest, lane)]
    if not labels:
        raise HTTPError(400, "unknown_prompt", "input must hold a word to speak", param="input")
    return labels


def _phrase(spoken: list[str], longest: int, lane: SignatureLane) -> Iterator[int]:
    """Classes of words between two breaks; a name has at most `longest` of them."""
    at = 0
    while at < len(spoken):
        for stop in range(min(at + longest, len(spoken)), at, -1):
            label = class_of(" ".join(spoken[at:stop]), lane)
            if label is not None:
                break
        else:
            message = no_such_class(spoken[at], lane, "a word of the input")
            raise HTTPError(400, "unknown_prompt", message, param="input")
        yield label
        at = stop


def made_by(ask: Ask) -> Provenance:
    """What made the speech: a word as any sample, several as those of a grid, one after another."""
    return ask.provenance(0) if ask.n == 1 else ask.of_grid()


def _head(form: str, ask: Ask, spec: TensorSpec) -> bytes:
    """What comes before the raw samples of all words."""
    if form == "pcm":
        return b""
    channels, length = spec.shape
    return sound.wav_head(ask.n * length, channels, spec.sample_rate_hz, made_by(ask))


def _raw(spec: TensorSpec, outputs: Arrays) -> bytes:
    return b"".join(map(sound.pcm, sounds.clips(spec, outputs)))
