"""OpenAI's completions: the unmodified `openai` SDK has texts written by the models hosted here.

    client = OpenAI(base_url="http://localhost:8000/v1", api_key="any")
    client.completions.create(model="words", prompt="twenty", n=4, seed=7, stream=True)

The models here are not language models: a text is drawn from a latent, which nobody chooses. A
prompt is how the text begins, token by token, and what the model goes on with under that latent; an
empty one leaves all to it. `label` in extra_body chooses a class where there are any. Completion i
is sample first_index + i of the seed: the same alone, in a batch and streamed. Without max_tokens
a text may be as long as the model has room for; OpenAI's own default is 16.

Whatever OpenAI's API has and this has not is refused by name, never passed over, but for values
that ask for nothing.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import orjson
from msgspec import Meta
from numpy.typing import NDArray

from aigc.artifact.steps import MAX_TOKENS, TEMPERATURE, TOP_K
from aigc.artifact.vocabulary import END
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import texts
from serve.dialects.fields import of_seed
from serve.dialects.openai import API, Origin, origin
from serve.fair import GoesOn, Outcome
from serve.http import (
    NO_STORE,
    Endpoints,
    Headers,
    HTTPError,
    Receive,
    Response,
    Scope,
    Stream,
    decode,
    json_response,
)
from serve.lane import Choices, SignatureLane
from serve.sampling import Sampler

COMPLETIONS = "/v1/completions"

Prompt = str | list[str | int | list[int]] | None


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted; nothing is padded."""


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's request for texts, and in the SDK's extra_body what seeds need beyond it."""

    model: Annotated[str, Meta(description="`name` (its newest version here) or `name@version`.")]
    prompt: Annotated[
        Prompt, Meta(description="How the texts begin: a string, or several of them.")
    ] = None
    n: Annotated[int | None, Meta(description="How many texts for each prompt.")] = 1
    max_tokens: Annotated[
        int | None, Meta(description="Most tokens after the prompt; all that there is room for.")
    ] = None
    temperature: Annotated[float | None, Meta(description="0: the likeliest token.")] = None
    top_k: Annotated[int | None, Meta(description="Among so many tokens; 0: among all.")] = None
    stop: Annotated[
        str | list[str] | None, Meta(description="Up to 4 strings that end a text.")
    ] = None
    echo: Annotated[bool | None, Meta(description="Texts begin with the prompt.")] = False
    stream: Annotated[bool | None, Meta(description="Texts as they are written.")] = False
    stream_options: StreamOptions | None = None
    seed: Annotated[
        int | None,
        of_seed("Names the texts; drawn by the server and returned if absent."),
    ] = None
    user: Annotated[str | None, Meta(description="Accepted and not kept.")] = None
    top_p: Annotated[float | None, Meta(description="1: take top_k.")] = None
    best_of: Annotated[int | None, Meta(description="As n: none is left out.")] = None
    frequency_penalty: Annotated[float | None, Meta(description="0.")] = None
    presence_penalty: Annotated[float | None, Meta(description="0.")] = None
    logit_bias: Annotated[dict[str, float] | None, Meta(description="Empty.")] = None
    logprobs: Annotated[int | None, Meta(description="null.")] = None
    suffix: Annotated[str | None, Meta(description="Empty.")] = None
    first_index: Annotated[
        int,
        of_seed("Index of the first text within the seed."),
    ] = 0
    label: Annotated[
        int | list[int] | None, Meta(description="Class numbers: one, or one for each text.")
    ] = None
    signature: Annotated[str, Meta(description="One that writes texts of nothing but a seed.")] = (
        "sample"
    )


class Choice(msgspec.Struct, kw_only=True):
    """One text, or what was written of it since the chunk before."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    """length: max_tokens, or all that the model has room for. null while it goes on."""
    logprobs: None = None


class Usage(msgspec.Struct, kw_only=True):
    """Tokens of the model's own vocabulary."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionResponse(msgspec.Struct, kw_only=True):
    """OpenAI's answer, and each chunk of a stream; `aigc` is what it has beyond that."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str
    """The digest: with another one, the same seed gives other texts."""
    choices: list[Choice]
    object: Literal["text_completion"] = "text_completion"
    usage: Usage | None = None
    aigc: Origin | None = None
    """Where the texts come from; not in chunks, whose headers tell it."""


class CompletionsApi:
    """The endpoint in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._decoder = msgspec.json.Decoder(CompletionRequest)

    def routes(self) -> dict[str, Endpoints]:
        """Exact paths, for `serve.http.Application`."""
        return {COMPLETIONS: {"POST": self.complete}}

    async def complete(self, scope: Scope, receive: Receive) -> Response:
        sampler = self._sampler

        async def work(call: Call) -> Response:
            body = await call.read(scope, receive, sampler.limits.max_body_bytes)
            request = decode(self._decoder, body, COMPLETIONS)
            asked = await check(sampler, request, call)
            if request.stream:
                events = asked.events(sampler, call)
                # Made before the status is sent, so that a full queue still is a 503.
                first = await anext(events)
                headers = [*sampler.signed(asked.ask), NO_STORE]
                return Stream(
                    first, b"text/event-stream", headers=headers, chunks=events, failure=_failure
                )
            outputs = await sampler.run(asked.ask, call)
            answer = partial(asked.answer, outputs, sampler.signed(asked.ask))
            return await sampler.encoded(asked.ask.n * asked.ask.lane.values_per_sample, answer)

        return await sampler.counted(API, scope["headers"], work)


def _failure(error: HTTPError) -> bytes:
    return b"data: " + error.body() + b"\n\n"


class Asked:
    """A request that was found valid."""

    def __init__(self, request: CompletionRequest, ask: Ask, prompts: Sequence[str]) -> None:
        spec = texts.text_of(ask.lane)
        assert spec is not None
        self.ask = ask
        self._request = request
        self._spec = spec
        self._pieces = spec.vocabulary
        self._prompts = prompts
        """One for each text."""
        self._stop = ask.until if isinstance(ask.until, texts.Stop) else texts.NO_STOP
        self._prefixes = [0] * ask.n
        if ask.prefix is not None:
            self._prefixes = (ask.prefix != END).sum(1).tolist()
        manifest = ask.lane.artifact.manifest
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": manifest.id,
            "system_fingerprint": manifest.digest,
        }
        self._completed = 0
        self._ended: set[int] = set()
        """Texts whose end was told of."""

    def answer(self, outputs: Arrays, headers: Headers) -> Response:
        """All texts."""
        choices = []
        for i, row in enumerate(outputs[self._spec.name]):
            text = self._begin(i) + self._stop.cut(self._drawn(i, row))
            choices.append(_choice(i, text, self._end(i, row)))
        body = {**self._head, "choices": choices, "usage": self._usage(), "aigc": origin(self.ask)}
        return json_response(body, headers)

    async def events(self, sampler: Sampler, call: Call) -> AsyncGenerator[bytes, None]:
        """The texts as they are written, as server-sent events. Raises HTTPError 429 or 503."""
        options = self._request.stream_options or StreamOptions()
        usage = {"usage": None} if options.include_usage else {}
        # All of an event but its choice is the same.
        begin = _event({**self._head, **usage, "choices": []}).removesuffix(b"]}\n\n")
        sent = [0] * self.ask.n
        outcomes = sampler.stream(self.ask, call)
        try:
            async for came in outcomes:
                choices = [self._more(i, outcome, sent) for i, outcome in came]
                events = [
                    begin + orjson.dumps(choice) + b"]}\n\n"
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

    def _more(self, i: int, outcome: Outcome, sent: list[int]) -> dict[str, Any] | None:
        """What is new in a text; None for what is of the prompt, or may yet prove to be a stop."""
        assert not isinstance(outcome, Exception)
        if i in self._ended:
            return None  # told again, by the replica that took the place of one that died
        done = not isinstance(outcome, GoesOn)
        row = outcome.part if isinstance(outcome, GoesOn) else outcome[self._spec.name][0]
        text = self._drawn(i, row)
        text = self._stop.cut(text) if done else text[: self._stop.settled(text)]
        if not done and len(text) <= sent[i]:
            return None
        new = text[sent[i] :] if sent[i] else self._begin(i) + text
        sent[i] = len(text)
        return _choice(i, new, self._end(i, row) if done else None)

    def _begin(self, i: int) -> str:
        return self._prompts[i] if self._request.echo else ""

    def _drawn(self, i: int, row: NDArray[np.int64]) -> str:
        """What was written of a text after its prompt; an end is an empty piece."""
        return "".join([self._pieces[token] for token in row[self._prefixes[i] :].tolist()])

    def _end(self, i: int, row: NDArray[np.int64]) -> str:
        """Why a text ended. Counts its tokens."""
        self._ended.add(i)
        written = int((row != END).sum())
        self._completed += max(0, written - self._prefixes[i])
        text = self._drawn(i, row)
        most = self._spec.shape[0]
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


async def check(sampler: Sampler, request: CompletionRequest, call: Call) -> Asked:
    """What is to be done, paid for. Raises HTTPError 400, 404 or 429 with a stable code and the
    field at fault."""
    _check_supported(request)
    lane = sampler.lane(request.model, request.signature)
    spec = texts.text_of(lane)
    if spec is None or not lane.spec.step:
        message = f"signature {lane.name!r} of {lane.artifact.id} writes no text; see /v1/models"
        raise HTTPError(400, "model_gives_no_text", message, param="model")
    prompts = _prompts(request.prompt)
    each = 1 if request.n is None else request.n
    sampler.check_n(each * len(prompts) if each > 0 else each, lane)
    settings = {TEMPERATURE: request.temperature, TOP_K: request.top_k}
    ask = sampler.ask(
        model=lane.artifact.id,
        signature=request.signature,
        n=each * len(prompts),
        seed=call.seed(request.seed),
        first_index=request.first_index,
        label=request.label,
        settings={name: value for name, value in settings.items() if value is not None},
    )
    until = texts.check_stop(request.stop, lane)

    def read() -> tuple[NDArray[np.int64], Choices]:
        rows = texts.tokens(spec, prompts, "prompt").repeat(each, 0)
        if request.max_tokens is None:
            return rows, ask.settings
        most = _most(request.max_tokens, (rows != END).sum(1), lane)
        return rows, {**ask.settings, MAX_TOKENS: most.tolist()}

    call.metrics = lane.metrics
    rows, chosen = await sampler.read(ask.n, lane, call, texts.work(prompts), read)
    prefix = rows if (rows != END).any() else None
    ask = replace(ask, settings=chosen, prefix=prefix, until=until)
    return Asked(request, ask, [prompt for prompt in prompts for _ in range(each)])


def _prompts(prompt: Prompt) -> list[str]:
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    strings = [one for one in prompt if isinstance(one, str)]
    if not strings or len(strings) != len(prompt):
        message = "prompt must be a string or several; token ids are not taken"
        raise HTTPError(400, "unsupported_value", message, param="prompt")
    return strings


def _most(asked: int, begun: NDArray[np.int64], lane: SignatureLane) -> NDArray[np.int64]:
    """(N,) how many tokens each text may have, its prompt counted. Raises HTTPError 400."""
    spec = next((spec for spec in lane.spec.inputs if spec.name == MAX_TOKENS), None)
    if spec is None or spec.range is None:
        message = f"signature {lane.name!r} of {lane.artifact.id} has no setting {MAX_TOKENS!r}"
        raise HTTPError(400, "unknown_setting", message, param=MAX_TOKENS)
    most = int(spec.range[1]) - int(begun.max())
    if not 1 <= asked <= most:
        beside = f" beside a prompt of {begun.max()}" if begun.any() else ""
        message = f"max_tokens must be in [1, {most}]{beside}, got {asked}"
        raise HTTPError(400, "setting_out_of_range", message, param=MAX_TOKENS)
    return begun + asked


def _check_supported(request: CompletionRequest) -> None:
    each = 1 if request.n is None else request.n
    for name, nothing, hint in (
        ("top_p", (None, 1), "1; take top_k"),
        ("best_of", (None, each), f"n, which is {each}: no text is left out"),
        ("frequency_penalty", (None, 0), "0"),
        ("presence_penalty", (None, 0), "0"),
        ("logit_bias", (None, {}), "empty"),
        ("logprobs", (None,), "null"),
        ("suffix", (None, ""), "empty: a text is written from its beginning"),
    ):
        given = getattr(request, name)
        if given not in nothing:
            message = f"{name} must be {hint}, got {str(given)[:60]!r}"
            raise HTTPError(400, "unsupported_value", message, param=name)
    if request.stream_options is not None and not request.stream:
        message = "stream_options are for stream true"
        raise HTTPError(400, "unsupported_value", message, param="stream_options")
