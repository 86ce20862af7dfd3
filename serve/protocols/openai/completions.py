"""OpenAI's completions API, for the unmodified `openai` SDK.

    client = OpenAI(base_url="http://localhost:8000/v1", api_key="any")
    client.completions.create(model="words", prompt="twenty", n=4, seed=7, stream=True)

The models are not language models: a text is drawn from a latent of the seed. A prompt is a prefix
of the text, which the model continues under that latent; it may be empty. `label` in extra_body
selects a class, if the model has any. Completion i is sample first_index + i of the seed: the same
alone, in a batch and streamed. The default of max_tokens is the model's maximum length; OpenAI's
is 16.

Unsupported options of OpenAI's API are refused by name, except for values without effect.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from aigc.artifact.autoregressive import MAX_TOKENS, TEMPERATURE, TOP_K
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.vocabulary import END
from serve.batching.jobs import Outcome, PartialOutput
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner
from serve.http import NO_STORE, Headers, Response, Route, Scope, Stream, json_response
from serve.operation import SAMPLE_HEADERS, SAMPLING_ERRORS, TEXT, Operation
from serve.protocols import text_codec
from serve.protocols.endpoint import endpoint, json_decoder
from serve.protocols.fields import field, seed_field
from serve.protocols.openai.images import API, Origin, provenance_fields
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.sampling_params import Choices
from serve.sampling_request import SamplingRequest

COMPLETIONS = "/v1/completions"

Prompt = str | list[str | int | list[int]] | None


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted and ignored."""


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's request for texts; further fields go into the SDK's extra_body."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    prompt: Annotated[Prompt, field("Prefix of the texts: a string, or several strings.")] = None
    n: Annotated[int | None, field("Number of texts per prompt.")] = 1
    max_tokens: Annotated[
        int | None,
        field("Maximum number of tokens after the prompt; by default the model's."),
    ] = None
    temperature: Annotated[float | None, field("0 takes the most probable token.")] = None
    top_k: Annotated[int | None, field("Sample among the k most probable tokens; 0: all.")] = None
    stop: Annotated[str | list[str] | None, field("Up to 4 strings that end a text.")] = None
    echo: Annotated[bool | None, field("Include the prompt in the texts.")] = False
    stream: Annotated[bool | None, field("Send texts while they are generated.")] = False
    stream_options: StreamOptions | None = None
    seed: Annotated[
        int | None,
        seed_field("Seed of the texts; drawn by the server and returned if absent."),
    ] = None
    user: Annotated[str | None, field("Accepted and ignored.")] = None
    top_p: Annotated[float | None, field("1 only; use top_k.")] = None
    best_of: Annotated[int | None, field("Equal to n only.")] = None
    frequency_penalty: Annotated[float | None, field("0 only.")] = None
    presence_penalty: Annotated[float | None, field("0 only.")] = None
    logit_bias: Annotated[dict[str, float] | None, field("Empty only.")] = None
    logprobs: Annotated[int | None, field("null only.")] = None
    suffix: Annotated[str | None, field("Empty only.")] = None
    first_index: Annotated[
        int,
        seed_field("Index of the first text within the seed."),
    ] = 0
    label: Annotated[
        int | str | list[int | str] | None,
        field("Classes by number or name: one, or one for each text."),
    ] = None
    signature: Annotated[
        str | None,
        field("A signature that draws texts from a seed; by default the model's own."),
    ] = None


class Choice(msgspec.Struct, kw_only=True):
    """A text, or in a stream the part of it since the previous chunk."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    """length: max_tokens or the model's maximum is reached. null while the text goes on."""
    logprobs: None = None


class Usage(msgspec.Struct, kw_only=True):
    """Numbers of tokens of the model's own vocabulary."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionResponse(msgspec.Struct, kw_only=True):
    """OpenAI's response, or a chunk of a stream; `aigc` is an extension."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str
    """Digest of the artifact: with another one, the same seed gives other texts."""
    choices: list[Choice]
    object: Literal["text_completion"] = "text_completion"
    usage: Usage | None = None
    aigc: Origin | None = None
    """Provenance of the texts; chunks have it in their headers."""


CREATE_COMPLETION = Operation(
    id="createCompletion",
    summary="Draw texts, for the openai SDK; each event of a stream is a CompletionResponse",
    tag="openai",
    request={"application/json": CompletionRequest},
    example=lambda model: {"model": model.id, "prompt": "", "n": 2, "seed": 7},
    response={"application/json": CompletionResponse, "text/event-stream": TEXT},
    description="The texts.",
    headers=SAMPLE_HEADERS,
    errors=SAMPLING_ERRORS,
)


class CompletionsApi:
    """OpenAI's endpoint for completions in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        decoder = json_decoder(CompletionRequest, COMPLETIONS)
        complete = endpoint(self._sampler, API, decoder, self._respond)
        return (Route("POST", COMPLETIONS, complete, CREATE_COMPLETION),)

    async def _respond(
        self, request: CompletionRequest, scope: Scope, context: RequestContext
    ) -> Response:
        sampler = self._sampler
        job = await parse_request(sampler, request, context)
        if request.stream:
            events = job.events(sampler, context)
            # Generated before the status is sent, so that a full queue still is a 503.
            first = await anext(events)
            headers = [*sampler.provenance_headers(job.sampling), NO_STORE]
            return Stream(
                first, b"text/event-stream", headers=headers, chunks=events, failure=_failure
            )
        outputs = await sampler.run(job.sampling, context)
        encoding = partial(job.response, outputs, sampler.provenance_headers(job.sampling))
        return await sampler.encode(
            context, job.sampling.n * job.sampling.runner.values_per_sample, encoding
        )


def _failure(error: HTTPError) -> bytes:
    return b"data: " + error.body() + b"\n\n"


class CompletionJob:
    """A validated request and the state of its texts."""

    def __init__(
        self, request: CompletionRequest, sampling: SamplingRequest, prompts: Sequence[str]
    ) -> None:
        spec = text_codec.text_output(sampling.runner)
        assert spec is not None
        self.sampling = sampling
        self._request = request
        self._spec = spec
        self._pieces = spec.vocabulary
        self._prompts = prompts
        """One prompt per text."""
        stop = sampling.params.stopping_criterion
        self._stop = stop if isinstance(stop, text_codec.Stop) else text_codec.NO_STOP
        self._prefixes = [0] * sampling.n
        if sampling.params.prefix is not None:
            self._prefixes = (sampling.params.prefix != END).sum(1).tolist()
        manifest = sampling.runner.artifact.manifest
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": manifest.id,
            "system_fingerprint": manifest.digest,
        }
        self._completed = 0
        self._ended: set[int] = set()
        """Texts whose end was sent."""

    def response(self, outputs: Arrays, headers: Headers) -> Response:
        """The response with all texts."""
        choices = []
        for i, row in enumerate(outputs[self._spec.name]):
            text = self._prompt(i) + self._stop.cut(self._text(i, row))
            choices.append(_choice(i, text, self._finish(i, row)))
        body = {
            **self._head,
            "choices": choices,
            "usage": self._usage(),
            "aigc": provenance_fields(self.sampling),
        }
        return json_response(body, headers)

    async def events(
        self, sampler: Sampler, context: RequestContext
    ) -> AsyncGenerator[bytes, None]:
        """The texts as server-sent events while they are generated. Raises HTTPError 429 or 503."""
        options = self._request.stream_options or StreamOptions()
        usage = {"usage": None} if options.include_usage else {}
        # Events differ in their choice only.
        head = _event({**self._head, **usage, "choices": []}).removesuffix(b"]}\n\n")
        sent = [0] * self.sampling.n
        outcomes = sampler.stream(self.sampling, context)
        try:
            async for progress in outcomes:
                choices = [self._next_choice(i, outcome, sent) for i, outcome in progress]
                events = [
                    head + orjson.dumps(choice) + b"]}\n\n"
                    for choice in choices
                    if choice is not None
                ]
                if events:
                    yield b"".join(events)
        finally:
            await outcomes.aclose()
        if options.include_usage:
            yield _event({**self._head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _next_choice(self, i: int, outcome: Outcome, sent: list[int]) -> dict[str, Any] | None:
        """The new part of a text; None if it is empty or may yet become a stop string."""
        assert not isinstance(outcome, Exception)
        if i in self._ended:
            return None  # sent again by a replica that replaced a lost one
        done = not isinstance(outcome, PartialOutput)
        row = outcome.part if isinstance(outcome, PartialOutput) else outcome[self._spec.name][0]
        text = self._text(i, row)
        text = self._stop.cut(text) if done else text[: self._stop.settled(text)]
        if not done and len(text) <= sent[i]:
            return None
        new = text[sent[i] :] if sent[i] else self._prompt(i) + text
        sent[i] = len(text)
        return _choice(i, new, self._finish(i, row) if done else None)

    def _prompt(self, i: int) -> str:
        return self._prompts[i] if self._request.echo else ""

    def _text(self, i: int, row: NDArray[np.int64]) -> str:
        """The text after its prompt; the end token is an empty piece."""
        return "".join([self._pieces[token] for token in row[self._prefixes[i] :].tolist()])

    def _finish(self, i: int, row: NDArray[np.int64]) -> str:
        """The finish reason of a text. Counts its tokens."""
        self._ended.add(i)
        written = int((row != END).sum())
        self._completed += max(0, written - self._prefixes[i])
        text = self._text(i, row)
        most = self._spec.fixed_shape[0]
        if self._request.max_tokens is not None:
            most = self._prefixes[i] + self._request.max_tokens
        stopped = self._stop.cut(text) != text
        return "stop" if stopped or written < most else "length"

    def _usage(self) -> dict[str, int]:
        each = self._request.n or 1
        prompted = sum(self._prefixes[::each])
        return {
            "prompt_tokens": prompted,
            "completion_tokens": self._completed,
            "total_tokens": prompted + self._completed,
        }


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def parse_request(
    sampler: Sampler, request: CompletionRequest, context: RequestContext
) -> CompletionJob:
    """The validated job, charged to the key.

    Raises HTTPError 400, 404 or 429, naming the field at fault.
    """
    _check_supported(request)
    runner = sampler.runner(request.model, request.signature)
    spec = text_codec.text_output(runner)
    if spec is None or not runner.spec.step:
        message = (
            f"signature {runner.name!r} of {runner.artifact.id} writes no text; see /v1/models"
        )
        raise HTTPError(400, "model_gives_no_text", message, param="model")
    prompts = _prompts(request.prompt)
    each = 1 if request.n is None else request.n
    sampler.check_n(each * len(prompts) if each > 0 else each, runner)
    settings = {TEMPERATURE: request.temperature, TOP_K: request.top_k}
    sampling = sampler.build_request(
        runner,
        n=each * len(prompts),
        seed=context.seed(request.seed),
        first_index=request.first_index,
        label=request.label,
        settings={name: value for name, value in settings.items() if value is not None},
        stopping_criterion=text_codec.check_stop(request.stop, runner),
    )

    def read() -> tuple[NDArray[np.int64], Choices]:
        rows = text_codec.encode_texts(spec, prompts, "prompt").repeat(each, 0)
        if request.max_tokens is None:
            return rows, sampling.params.settings
        most = _max_lengths(request.max_tokens, (rows != END).sum(1), runner)
        return rows, {**sampling.params.settings, MAX_TOKENS: most.tolist()}

    context.metrics = runner.metrics
    rows, chosen = await sampler.read(
        sampling.n, runner, context, text_codec.tokenize_cost(prompts), read
    )
    prefix = rows if (rows != END).any() else None
    sampling = sampling.with_params(settings=chosen, prefix=prefix)
    return CompletionJob(request, sampling, [prompt for prompt in prompts for _ in range(each)])


def _prompts(prompt: Prompt) -> list[str]:
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    strings = [one for one in prompt if isinstance(one, str)]
    if not strings or len(strings) != len(prompt):
        message = "prompt must be a string or a list of strings; token ids are not supported"
        raise HTTPError(400, "unsupported_value", message, param="prompt")
    return strings


def _max_lengths(
    asked: int, prefix_lengths: NDArray[np.int64], runner: SignatureRunner
) -> NDArray[np.int64]:
    """(N,) maximum length of each text in tokens, prompt included. Raises HTTPError 400."""
    spec = next((spec for spec in runner.spec.inputs if spec.name == MAX_TOKENS), None)
    if spec is None or spec.range is None:
        message = f"signature {runner.name!r} of {runner.artifact.id} has no setting {MAX_TOKENS!r}"
        raise HTTPError(400, "unknown_setting", message, param=MAX_TOKENS)
    most = int(spec.range[1]) - int(prefix_lengths.max())
    if not 1 <= asked <= most:
        beside = f" beside a prompt of {prefix_lengths.max()}" if prefix_lengths.any() else ""
        message = f"max_tokens must be in [1, {most}]{beside}, got {asked}"
        raise HTTPError(400, "setting_out_of_range", message, param=MAX_TOKENS)
    return prefix_lengths + asked


def _check_supported(request: CompletionRequest) -> None:
    each = 1 if request.n is None else request.n
    for name, nothing, hint in (
        ("top_p", (None, 1), "1; use top_k"),
        ("best_of", (None, each), f"n, which is {each}"),
        ("frequency_penalty", (None, 0), "0"),
        ("presence_penalty", (None, 0), "0"),
        ("logit_bias", (None, {}), "empty"),
        ("logprobs", (None,), "null"),
        ("suffix", (None, ""), "empty: texts are generated from left to right"),
    ):
        value = getattr(request, name)
        if value not in nothing:
            message = f"{name} must be {hint}, got {str(value)[:60]!r}"
            raise HTTPError(400, "unsupported_value", message, param=name)
    if request.stream_options is not None and not request.stream:
        message = "stream_options need stream true"
        raise HTTPError(400, "unsupported_value", message, param="stream_options")
