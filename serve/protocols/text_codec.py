"""Texts in every protocol: strings to tokens and back, and stop strings.

spec = text_output(runner)                      # None for a runner without texts
rows = encode_texts(spec, ["seven"], "prompt")  # HTTPError 400 for texts that do not fit
texts = decode_texts(spec, rows, stop)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import TensorSpec, user_inputs
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.vocabulary import END, Vocabulary
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner
from serve.http import Headers, Response
from serve.sampling_request import SamplingRequest

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64

LINES = b"text/plain; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stopping criterion: one of the strings has appeared in the drawn part of a text."""

    pieces: tuple[str, ...]
    strings: tuple[str, ...]

    def __call__(self, drawn: NDArray[np.int64]) -> bool:
        # A token has at least one character, so the last few tokens hold all that is new.
        last = drawn[-max(map(len, self.strings)) :]
        text = "".join(self.pieces[token] for token in last.tolist())
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        """The text before the first of the strings."""
        ends = (text.find(string) for string in self.strings if string in text)
        return text[: min(ends, default=len(text))]

    def settled(self, text: str) -> int:
        """Length that stays, whatever follows: the end may be the beginning of a stop string."""
        stays = len(self.cut(text))
        for string in self.strings:
            for size in range(min(len(string) - 1, len(text)), 0, -1):
                if text.endswith(string[:size]):
                    stays = min(stays, len(text) - size)
                    break
        return stays


NO_STOP = Stop(pieces=(), strings=())


def text_output(runner: SignatureRunner) -> TensorSpec | None:
    """The text output of a runner; None if it has none."""
    return next((spec for spec in runner.spec.outputs if spec.kind == "text"), None)


def vocabulary(spec: TensorSpec) -> Vocabulary:
    """The vocabulary of a text."""
    return _vocabulary(spec.vocabulary)


@lru_cache(maxsize=64)
def _vocabulary(pieces: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(pieces)


def check_stop(stop: str | Sequence[str] | None, runner: SignatureRunner) -> Stop | None:
    """The stop strings of a request; None if there are none. Raises HTTPError 400."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not strings:
        return None
    spec = text_output(runner)
    if spec is None or not runner.spec.step:
        message = (
            f"signature {runner.name!r} of {runner.artifact.id} writes no text that could stop"
        )
        raise HTTPError(400, "stop_not_supported", message, param="stop")
    longest = max(map(len, strings))
    if len(strings) > MAX_STOPS or longest > MAX_STOP_CHARACTERS or "" in strings:
        raise HTTPError(
            400,
            "stop_out_of_range",
            f"stop must be at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters,"
            f" got {len(strings)} of up to {longest} characters",
            param="stop",
        )
    return Stop(pieces=spec.vocabulary, strings=strings)


def encode_texts(spec: TensorSpec, texts: Sequence[str], param: str) -> NDArray[np.int64]:
    """Texts -> (N, L) int64. Raises HTTPError 400 for unknown characters and long texts."""
    known, length = vocabulary(spec), spec.fixed_shape[0]
    pieces = set(known.pieces)
    most = (length - 1) * max(map(len, pieces))
    rows = np.full((len(texts), length), END, np.int64)
    for row, one in enumerate(texts):
        text = user_inputs.text(spec, one)
        if unknown := set(text) - pieces:
            raise _unknown(unknown, known, param)
        # Checked first: encoding takes the square of the length.
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


def tokenize_cost(texts: Iterable[str]) -> int:
    """Cost of encoding texts, in values as Sampler.encode() counts them.

    Joining pairs of characters takes the square of a text's length.
    """
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


def decode_texts(spec: TensorSpec, rows: NDArray[np.int64], stop: Stop | None = None) -> list[str]:
    """(N, L) int64 -> N texts, each cut before its first stop string."""
    return vocabulary(spec).texts(rows, stop.strings if stop is not None else ())


def wants_lines(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """True if Accept names text/plain and not JSON.

    Libraries name both: `application/json, text/plain, */*` is what axios sends with every request.
    """
    accepted = b",".join(value for name, value in headers if name == b"accept")
    named = {one.split(b";")[0].strip().lower() for one in accepted.split(b",")}
    return b"text/plain" in named and b"application/json" not in named


def lines(texts: Sequence[str], headers: Headers) -> Response:
    """A response with one line per text."""
    return Response("".join(f"{text}\n" for text in texts).encode(), LINES, headers=headers)


def response_texts(request: SamplingRequest, outputs: Arrays) -> list[str]:
    """The texts of a request, from its outputs."""
    spec = text_output(request.runner)
    assert spec is not None
    stop = request.params.stopping_criterion
    return decode_texts(spec, outputs[spec.name], stop if isinstance(stop, Stop) else None)
