"""Texts in every dialect: strings to tokens and back, checked; what ends a text early.

spec = text_of(lane)                        # None for a lane that gives no text
rows = tokens(spec, ["seven"], "prompt")    # HTTPError 400 for what cannot be one
texts = read(spec, rows, stop)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import TensorSpec
from aigc.artifact.contract import Arrays
from aigc.artifact.vocabulary import END, Vocabulary
from serve.ask import Ask
from serve.http import Headers, HTTPError, Response
from serve.lane import SignatureLane

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64

LINES = b"text/plain; charset=utf-8"


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
