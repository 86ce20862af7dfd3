"""Texts in every dialect: strings to tokens and back, checked; what ends a text early.

spec = text_of(lane)                        # None for a lane that gives no text
rows = tokens(spec, ["seven"], "prompt")    # HTTPError 400 for what cannot be one
texts = read(spec, rows, stop)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import TensorSpec, latents
from aigc.artifact.contract import Arrays
from aigc.artifact.vocabulary import END, Vocabulary
from serve.ask import Ask, check_label, check_settings
from serve.call import Call
from serve.hosting import Hosted
from serve.http import Headers, HTTPError, Response
from serve.lane import SignatureLane
from serve.sampling import Sampler

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64

LINES = b"text/plain; charset=utf-8"

ENCODE, DECODE, RECONSTRUCT, TRANSLATE = "encode", "decode", "reconstruct", "translate"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Ends a text when one of the strings has appeared in what was drawn of it."""

    pieces: tuple[str, ...]
    strings: tuple[str, ...]

    def __call__(self, drawn: NDArray[np.int64]) -> bool:
        # Every token is a character or more: in the last few of them is all that is new.
        last = drawn[-max(map(len, self.strings)) :]
        text = "".join(self.pieces[token] for token in last.tolist())
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        """What is before the first of the strings."""
        ends = (text.find(string) for string in self.strings if string in text)
        return text[: min(ends, default=len(text))]

    def settled(self, text: str) -> int:
        """How much of a text stays, whatever comes: its end may be the beginning of a stop."""
        stays = len(self.cut(text))
        for string in self.strings:
            for size in range(min(len(string) - 1, len(text)), 0, -1):
                if text.endswith(string[:size]):
                    stays = min(stays, len(text) - size)
                    break
        return stays


NO_STOP = Stop(pieces=(), strings=())


def text_of(lane: SignatureLane) -> TensorSpec | None:
    """The text that a lane gives, if it gives one."""
    return next((spec for spec in lane.spec.outputs if spec.kind == "text"), None)


def vocabulary(spec: TensorSpec) -> Vocabulary:
    """What the tokens of a text stand for."""
    return _vocabulary(spec.vocabulary)


@lru_cache(maxsize=64)
def _vocabulary(pieces: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(pieces)


def check_stop(stop: str | Sequence[str] | None, lane: SignatureLane) -> Stop | None:
    """What ends a text of a lane early; None for nothing. Raises HTTPError 400."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not strings:
        return None
    spec = text_of(lane)
    if spec is None or not lane.spec.step:
        message = f"signature {lane.name!r} of {lane.artifact.id} writes no text that could stop"
        raise HTTPError(400, "stop_not_supported", message, param="stop")
    longest = max(map(len, strings))
    if len(strings) > MAX_STOPS or longest > MAX_STOP_CHARACTERS or "" in strings:
        found = f"{len(strings)} of up to {longest} characters"
        raise HTTPError(
            400,
            "stop_out_of_range",
            f"stop must be at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters,"
            f" got {found}",
            param="stop",
        )
    return Stop(pieces=spec.vocabulary, strings=strings)


def tokens(spec: TensorSpec, texts: Sequence[str], param: str) -> NDArray[np.int64]:
    """(N, L) int64 of texts. Raises HTTPError 400 for characters and lengths that cannot be."""
    known, length = vocabulary(spec), spec.shape[0]
    pieces = set(known.pieces)
    most = (length - 1) * max(map(len, pieces))
    rows = np.full((len(texts), length), END, np.int64)
    for row, text in enumerate(texts):
        if unknown := set(text) - pieces:
            raise _unknown(unknown, known, param)
        # Before it is encoded, which takes the square of its length.
        ids = known.encode(text) if len(text) <= most else None
        if ids is None or len(ids) >= length:
            raise HTTPError(
                400,
                "text_too_long",
                f"{param} must be at most {length - 1} tokens long, got {len(text)} characters:"
                f" {text[:60]!r}",
                param=param,
            )
        rows[row, : len(ids)] = ids
    return rows


def work(texts: Iterable[str]) -> int:
    """Of reading them, in values as Sampler.encoded() counts: joining pairs of characters takes
    the square of a text's length."""
    return sum(len(text) ** 2 for text in texts)


def _unknown(characters: set[str], known: Vocabulary, param: str) -> HTTPError:
    first = sorted(characters)
    listed = ", ".join(map(repr, first[:10])) + (", ..." if len(first) > 10 else "")
    single = "".join(piece for piece in known.pieces if len(piece) == 1)
    message = (
        f"{param} has characters that the model's vocabulary lacks: {listed}; it has:"
        f" {single[:200]!r}"
    )
    return HTTPError(400, "unknown_characters", message, param=param)


def read(spec: TensorSpec, rows: NDArray[np.int64], stop: Stop | None = None) -> list[str]:
    """(N, L) int64 -> N texts, each cut before the first string that ends it."""
    return vocabulary(spec).texts(rows, stop.strings if stop is not None else ())


def wants_lines(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the client takes plain text, says so, and does not name JSON as well.

    Libraries do: `application/json, text/plain, */*` is what axios sends with every request.
    """
    accepted = b",".join(value for name, value in headers if name == b"accept")
    named = {one.split(b";")[0].strip().lower() for one in accepted.split(b",")}
    return b"text/plain" in named and b"application/json" not in named


def lines(texts: Sequence[str], headers: Headers) -> Response:
    """A line for each text."""
    return Response("".join(f"{text}\n" for text in texts).encode(), LINES, headers=headers)


def of_ask(ask: Ask, outputs: Arrays) -> list[str]:
    """The texts that were asked for."""
    spec = text_of(ask.lane)
    assert spec is not None
    return read(spec, outputs[spec.name], ask.until if isinstance(ask.until, Stop) else None)


class Request(Protocol):
    """What there may be beside texts in a request."""

    @property
    def label(self) -> int | list[int] | None: ...
    @property
    def settings(self) -> dict[str, float] | None: ...
    @property
    def stop(self) -> str | list[str] | None: ...


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a signature is to be run on."""

    name: str = ""
    """Of the input; empty for the one that there is."""
    texts: Sequence[str]
    label: int | list[int] | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    stop: str | Sequence[str] | None = None


def given(inputs: Mapping[str, Any], request: Request, n: int) -> Given:
    """The texts of a request, one for all `n` or a list of them. Raises HTTPError 400 unless they
    are those of one input."""
    if len(inputs) != 1:
        message = f"inputs must name one input, got {len(inputs)}: {', '.join(inputs)[:100]}"
        raise HTTPError(400, "inputs_count", message, param="inputs")
    ((name, found),) = inputs.items()
    texts = [found] * n if isinstance(found, str) else found
    if not all(isinstance(text, str) for text in texts):
        message = f"input {name[:60]!r} must be texts"
        raise HTTPError(400, "malformed_input", message, param="inputs")
    return Given(
        name=name,
        texts=texts,
        label=request.label,
        settings=request.settings or {},
        stop=request.stop,
    )


def is_composed(hosted: Hosted, signature: str) -> bool:
    """Whether a signature is two of a model's: it encodes, then decodes."""
    lanes = hosted.lanes
    return signature == RECONSTRUCT and signature not in lanes and lanes.keys() >= {ENCODE, DECODE}


@dataclass(frozen=True, kw_only=True)
class Written:
    """What came of it."""

    lane: SignatureLane
    outputs: Arrays
    stop: Stop | None = None

    def texts(self) -> list[str]:
        """Raises HTTPError 400 if there are none."""
        spec = text_of(self.lane)
        if spec is None:
            message = f"signature {self.lane.name!r} of {self.lane.artifact.id} gives no text"
            raise HTTPError(400, "format_needs_text", message, param="format")
        return read(spec, self.outputs[spec.name], self.stop)

    def document(self, signature: str) -> dict[str, Any]:
        """The body of the native dialect's SampleResponse, its numbers still arrays."""
        manifest = self.lane.artifact.manifest
        if text_of(self.lane) is not None:
            samples = [{"index": i, "text": text} for i, text in enumerate(self.texts())]
        else:
            n = len(next(iter(self.outputs.values())))
            samples = [
                {"index": i, "outputs": {k: v[i].copy() for k, v in self.outputs.items()}}
                for i in range(n)
            ]
        return {
            "model": manifest.id,
            "digest": manifest.digest,
            "signature": signature,
            "seed": None,
            "reproducibility": self.lane.level,
            "samples": samples,
        }


async def reconstruct(sampler: Sampler, model: str, given: Given, call: Call) -> Written:
    """Encode texts and decode them. Raises HTTPError 400, 404, 429 or 503."""
    codes = await encode(sampler, model, given, call)
    return await decode(sampler, model, codes, given, call)


async def encode(sampler: Sampler, model: str, given: Given, call: Call) -> NDArray[np.float32]:
    """(N, latent) what the model makes of texts: the means of its posterior."""
    lane = sampler.lane(model, ENCODE)
    outputs = await _infer(sampler, lane, _without_writing(given), call)
    return outputs[lane.spec.outputs[0].name]


def _without_writing(given: Given) -> Given:
    return Given(name=given.name, texts=given.texts, label=given.label)


async def _infer(sampler: Sampler, lane: SignatureLane, given: Given, call: Call) -> Arrays:
    call.metrics = lane.metrics
    specs = [spec for spec in lane.spec.inputs if spec.kind == "text"]
    spec = next((spec for spec in specs if given.name in ("", spec.name)), None)
    if spec is None:
        known = ", ".join(spec.name for spec in specs) or "none"
        message = (
            f"signature {lane.name!r} of {lane.artifact.id} takes no text {given.name[:60]!r}, it"
            f" takes: {known}"
        )
        raise HTTPError(400, "unknown_input", message, param="inputs")
    sampler.check_n(len(given.texts), lane)

    def read_all() -> Arrays:
        rows = tokens(spec, given.texts, spec.name)
        return completed(lane, {spec.name: rows}, given)

    n = len(given.texts)
    return await sampler.infer(
        lane, await sampler.read(n, lane, call, work(given.texts), read_all), call
    )


async def decode(
    sampler: Sampler,
    model: str,
    codes: NDArray[np.float32],
    given: Given,
    call: Call,
) -> Written:
    """The texts of latents, (N, latent)."""
    lane = sampler.lane(model, DECODE)
    call.metrics = lane.metrics
    sampler.check_n(len(codes), lane)
    stop = check_stop(given.stop, lane)
    spec = next(spec for spec in lane.spec.inputs if spec.kind == "vector")
    if codes.shape[1:] != spec.shape:
        message = (
            f"signature {DECODE!r} of {lane.artifact.id} takes {spec.name} {list(spec.shape)},"
            f" {ENCODE!r} gives {list(codes.shape[1:])}"
        )
        raise HTTPError(400, "signature_needs_input", message, param="signature")
    inputs = completed(lane, {spec.name: codes}, given)
    return Written(lane=lane, outputs=await sampler.infer(lane, inputs, call), stop=stop)


def completed(lane: SignatureLane, inputs: Arrays, given: Given) -> Arrays:
    """The inputs with label and settings. Raises HTTPError 400 for what is missing or wrong."""
    n = len(next(iter(inputs.values())))
    check_label(given.label, n, lane)
    check_settings(given.settings, lane)
    found: dict[str, NDArray[Any]] = dict(inputs)
    for spec in lane.spec.inputs:
        if spec.name in found:
            continue
        if spec.kind == "label" and given.label is not None:
            found[spec.name] = np.broadcast_to(np.array(given.label, np.int64), (n,)).copy()
        elif spec.kind == "setting" and spec.default is not None:
            value = given.settings.get(spec.name, spec.default)
            found[spec.name] = np.full(n, value, spec.dtype)
        else:
            message = (
                f"signature {lane.name!r} of {lane.artifact.id} needs {spec.name} beside"
                f" {', '.join(inputs)}: nothing is drawn for it"
            )
            raise HTTPError(400, "signature_needs_input", message, param=spec.name)
    return found


def between(
    start: NDArray[np.float32], stop: NDArray[np.float32], frames: int
) -> NDArray[np.float32]:
    """(frames, latent) from one latent to another along the sphere, both included."""
    return latents.slerp(start, stop, np.linspace(0, 1, frames))
