"""Autoregressive decoding: the loop around a graph that computes one step.

The step takes the text's inputs (a latent, a class), the previous token and a state, and returns
logits of the next token and the next state. An output `next_state` is the input `state` of the next
run, zeros at first. The random number behind each token is an input too, a function of (seed,
index, position), so texts are a function of their inputs like all other samples.

Rows are decoded in one batch, each at its own position; they do not influence each other.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.manifest import ArtifactError, Signature
from aigc.artifact.outputs import ValuesError
from aigc.artifact.sampling_inputs import PREFIX as PREFIX
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.vocabulary import END

Run = Callable[[Arrays], Arrays]
"""Runs a graph: tensors by name, batch axis first, to tensors by name."""

LOGITS, TOKEN, NEXT = "logits", "token", "next_"
NOISE, TEMPERATURE, TOP_K, MAX_TOKENS = "noise", "temperature", "top_k", "max_tokens"
MIN_ROWS = 2
"""Smallest batch: a single row is duplicated. Matrix products of one row are summed in another
order
than larger ones, and a text must not depend on its batch."""


def check(name: str, signature: Signature, step: Signature) -> None:
    """Raise ArtifactError unless `step` can be run for `signature`."""
    outputs = {spec.name for spec in step.outputs}
    carried = {output.removeprefix(NEXT) for output in outputs if output.startswith(NEXT)}
    names = {spec.name for spec in signature.inputs} | carried | {TOKEN}
    missing = sorted({spec.name for spec in step.inputs} - names)
    if missing or LOGITS not in outputs or len(signature.outputs) != 1:
        raise ArtifactError(
            f"signature {name!r} cannot be run by step {signature.step!r}: nothing gives its inputs"
            f" {missing}, its outputs are {sorted(outputs)}; it needs {LOGITS!r}"
        )


class TokenDecoder:
    """Rows of one signature in progress; every step decodes one more token of each.

    decoder = TokenDecoder(signature, step, run)
    decoder.join([inputs])                  # adds rows
    while len(decoder):
        decoder.advance()
        done = decoder.tokens[decoder.ended]
        decoder.keep(~decoder.ended)        # removes rows
    """

    def __init__(self, signature: Signature, step: Signature, run: Run) -> None:
        self.run = run
        self._length = signature.outputs[0].fixed_shape[0]
        self._noisy = any(spec.name == NOISE for spec in signature.inputs)
        self._step = step
        kept = {spec.name: np.zeros((0, *spec.fixed_shape), spec.dtype) for spec in step.inputs}
        self._feeds: Arrays = {TOKEN: np.zeros(0, np.int64)} | kept
        """Inputs of the next step."""
        self._draws: Arrays = {}
        self._draws = self._sampling_inputs({}, 0)
        self.tokens = np.zeros((0, self._length), np.int64)
        """(N, L) tokens so far, followed by ends."""
        self.position = np.zeros(0, np.int64)
        """(N,) number of tokens so far, the end included."""
        self.ended = np.zeros(0, bool)
        """(N,) True for complete rows."""
        self.begun = np.zeros(0, np.int64)
        """(N,) number of tokens of the prefix."""
        self.failed = np.zeros(0, bool)
        """(N,) True for rows that ended because their logits were not finite."""

    def __len__(self) -> int:
        return len(self.position)

    def join(self, parts: Sequence[Arrays]) -> None:
        """Add rows. Each part has the signature's inputs, and may have a `prefix`.

        Inputs are those that the step takes at every position, and `noise` (N, L) in [0, 1),
        `temperature`, `top_k` and `max_tokens`, each (N,). Without noise, or at temperature 0, the
        likeliest token is taken; top_k 0 allows all.
        """
        sizes = [len(next(iter(part.values()))) for part in parts]
        rows = sum(sizes)
        fed: dict[str, list[NDArray[Any]]] = {name: [a] for name, a in self._feeds.items()}
        drawn: dict[str, list[NDArray[Any]]] = {name: [a] for name, a in self._draws.items()}
        for part, n in zip(parts, sizes, strict=True):
            for spec in self._step.inputs:
                new = part.get(spec.name)
                fed[spec.name].append(
                    np.zeros((n, *spec.fixed_shape), spec.dtype) if new is None else new
                )
            for name, array in self._sampling_inputs(part, n).items():
                drawn[name].append(array)
        feeds = {name: np.concatenate(arrays) for name, arrays in fed.items()}
        draws = {name: np.concatenate(arrays) for name, arrays in drawn.items()}
        ends = np.full((rows, self._length), END, np.int64)
        tokens = np.concatenate([self.tokens, ends])
        position = np.concatenate([self.position, np.zeros(rows, np.int64)])
        ended = np.concatenate([self.ended, np.zeros(rows, bool)])
        failed = np.concatenate([self.failed, np.zeros(rows, bool)])
        forced = draws[PREFIX][len(self.begun) :]
        begun = np.concatenate([self.begun, (forced != END).sum(1)])
        # Assigned last: if anything above fails, no row was added.
        self._feeds, self._draws = feeds, draws
        self.tokens, self.position, self.begun = tokens, position, begun
        self.ended, self.failed = ended, failed

    def _sampling_inputs(self, part: Arrays, n: int) -> Arrays:
        """Inputs of choose() for n rows, with defaults."""
        ends = np.full((n, self._length), END, np.int64)
        return {
            NOISE: part.get(NOISE, np.zeros((n, self._length), np.float32)),
            TEMPERATURE: part.get(TEMPERATURE, np.full(n, self._noisy, np.float32)),
            TOP_K: part.get(TOP_K, np.zeros(n, np.int64)),
            MAX_TOKENS: part.get(MAX_TOKENS, np.full(n, self._length, np.int64)),
            PREFIX: part.get(PREFIX, ends),
        }

    def advance(self) -> None:
        """Decode one more token of every row; a row that has ended gets another end.

        If the graph fails, the state is unchanged.
        """
        n = len(self)
        outputs = self.run({name: _padded(value) for name, value in self._feeds.items()})
        outputs = {name: value[:n] for name, value in outputs.items()}
        at = (np.arange(n), np.minimum(self.position, self._length - 1))
        draws = self._draws
        noise, forced = draws[NOISE][at], draws[PREFIX][at]
        logits = outputs[LOGITS]
        lost = ~np.isfinite(logits.max(1)) & (forced == END) & ~self.ended
        if lost.any():
            logits = np.where(lost[:, None], 0, logits)
        token = choose(logits, noise, draws[TEMPERATURE], draws[TOP_K])
        token = np.where(forced == END, token, forced)
        token = np.where(self.ended | lost, END, token)
        written = np.where(self.ended, self.tokens[at], token)
        position = self.position + ~self.ended
        ended = self.ended | (token == END) | (position >= draws[MAX_TOKENS])
        carried = {
            name.removeprefix(NEXT): value
            for name, value in outputs.items()
            if name.startswith(NEXT)
        }
        # Assigned last: if the graph fails, no row takes a step twice.
        self.tokens[at] = written
        self.position, self.ended, self.failed = position, ended, self.failed | lost
        self._feeds = {**self._feeds, TOKEN: token, **carried}

    def keep(self, rows: NDArray[Any] | Sequence[int]) -> None:
        """Remove all rows but these, a mask or indices."""
        rows = np.asarray(rows) if len(rows) else np.zeros(0, np.int64)
        self._feeds = {name: array[rows] for name, array in self._feeds.items()}
        self._draws = {name: array[rows] for name, array in self._draws.items()}
        self.tokens, self.position = self.tokens[rows], self.position[rows]
        self.ended, self.begun = self.ended[rows], self.begun[rows]
        self.failed = self.failed[rows]

    def copy(self, rows: NDArray[Any] | Sequence[int]) -> "TokenDecoder":
        """A decoder with a copy of these rows."""
        decoder = copy(self)
        decoder.keep(rows)
        return decoder


def stream(
    signature: Signature, step: Signature, run: Run, inputs: Arrays
) -> Iterator[NDArray[np.int64]]:
    """Yield the tokens of each position, (N,) int64, until all rows have ended.

    `inputs` are those of TokenDecoder.join(). Raises ValuesError for logits that are not finite.
    """
    decoder = TokenDecoder(signature, step, run)
    decoder.join([inputs])
    for position in range(signature.outputs[0].fixed_shape[0]):
        decoder.advance()
        _check_numbers(decoder)
        yield decoder.tokens[:, position].copy()
        if decoder.ended.all():
            return


def generate(signature: Signature, step: Signature, run: Run, inputs: Arrays) -> Arrays:
    """The tokens of stream() as the signature's output: {name: (N, L) int64}, padded with ends.

    Raises ValuesError as stream() does.
    """
    decoder = TokenDecoder(signature, step, run)
    decoder.join([inputs])
    while not decoder.ended.all():
        decoder.advance()
    _check_numbers(decoder)
    return {signature.outputs[0].name: decoder.tokens}


def not_finite() -> ValuesError:
    """The error for logits that are not finite."""
    return ValuesError(f"the {LOGITS} of a step are not finite")


def _check_numbers(decoder: TokenDecoder) -> None:
    if decoder.failed.any():
        raise not_finite()


def choose(
    logits: NDArray[np.float32],
    noise: NDArray[np.float32],
    temperature: NDArray[np.float32],
    top_k: NDArray[np.int64],
) -> NDArray[np.int64]:
    """logits: (N, V); noise in [0, 1), temperature >= 0, top_k >= 0, each (N,) -> (N,) int64.

    The token at which the cumulative distribution passes the noise; computed in float64, so that
    texts rarely differ between machines.
    """
    x = logits.astype(np.float64)
    best = x.argmax(1)
    x -= x.max(1, keepdims=True)
    heat = temperature.astype(np.float64)[:, None]
    p = np.exp(x / np.where(heat > 0, heat, 1))
    if top_k.any():
        rank = np.argsort(np.argsort(-x, axis=1, kind="stable"), axis=1)
        p[(rank >= top_k[:, None]) & (top_k[:, None] > 0)] = 0
    total = p.cumsum(1)
    drawn = (total <= noise.astype(np.float64)[:, None] * total[:, -1:]).sum(1)
    return np.asarray(np.where(temperature > 0, np.minimum(drawn, x.shape[1] - 1), best))


def _padded(value: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([value] * MIN_ROWS) if len(value) == 1 else value
