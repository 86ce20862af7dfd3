"""Texts token by token: the loop round a graph that knows one step.

The step takes what a text is made of (a latent, a class), the token before and its state; it gives
logits of the next token and the state to go on with. An output `next_state` is the next run's
input `state`, which begins as zeros. The draw of each token is an input too, (seed, index,
position) having given it, so texts are a function of their inputs like everything else.

Rows are written together, each at its own position: which others are there changes none of them.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.contract import Arrays
from aigc.artifact.manifest import ArtifactError, Signature
from aigc.artifact.vocabulary import END

Run = Callable[[Arrays], Arrays]
"""Tensors by name, batch axis first, to tensors by name."""

LOGITS, TOKEN, CARRIED = "logits", "token", "next_"
NOISE, TEMPERATURE, TOP_K, MAX_TOKENS = "noise", "temperature", "top_k", "max_tokens"
PREFIX = "prefix"
"""(N, L) int64 that a row begins with, whatever would be drawn; what is no end in it is forced."""
LEAST_ROWS = 2
"""A text alone goes with a copy of itself: products of matrices with one row are summed in another
order than those with more, and a text alone must be the one that it is in a batch."""


def check(name: str, signature: Signature, step: Signature) -> None:
    """Raise ArtifactError unless `step` can be run for `signature`."""
    outputs = {spec.name for spec in step.outputs}
    carried = {output.removeprefix(CARRIED) for output in outputs if output.startswith(CARRIED)}
    given = {spec.name for spec in signature.inputs} | carried | {TOKEN}
    missing = sorted({spec.name for spec in step.inputs} - given)
    if missing or LOGITS not in outputs or len(signature.outputs) != 1:
        raise ArtifactError(
            f"signature {name!r} cannot be written by {signature.step!r}: nothing gives its inputs"
            f" {missing}, its outputs are {sorted(outputs)}; it needs {LOGITS!r}"
        )


class Writing:
    """Rows of one signature while they are written; each goes a token further with every step.

    writing = Writing(signature, step, run)
    writing.join([inputs])                  # rows begin, beside those that there are
    while len(writing):
        writing.advance()
        done = writing.tokens[writing.ended]
        writing.keep(~writing.ended)        # they leave, the others go on
    """

    def __init__(self, signature: Signature, step: Signature, run: Run) -> None:
        self._run = run
        self._length = signature.outputs[0].shape[0]
        self._noisy = any(spec.name == NOISE for spec in signature.inputs)
        self._step = step
        kept = {spec.name: np.zeros((0, *spec.shape), spec.dtype) for spec in step.inputs}
        self._feeds: Arrays = {TOKEN: np.zeros(0, np.int64)} | kept
        """What the step is given next."""
        self._draws: Arrays = {}
        self._draws = self._drawing({}, 0)
        self.tokens = np.zeros((0, self._length), np.int64)
        """(N, L) what was written so far; ends from there on."""
        self.position = np.zeros(0, np.int64)
        """(N,) how many tokens that is, the end counted."""
        self.ended = np.zeros(0, bool)
        """(N,) whether a row needs no further step."""
        self.begun = np.zeros(0, np.int64)
        """(N,) how many tokens its prefix has."""

    def __len__(self) -> int:
        return len(self.position)

    def join(self, parts: Sequence[Arrays]) -> None:
        """Rows begin. Each part has the signature's inputs, and may have a `prefix`.

        What the step is given at every position, and `noise` (N, L) in [0, 1), `temperature`,
        `top_k` and `max_tokens`, each (N,). Without noise, and at temperature 0, the likeliest
        token is taken; top_k 0 chooses among all.
        """
        sizes = [len(next(iter(part.values()))) for part in parts]
        rows = sum(sizes)
        fed: dict[str, list[NDArray[Any]]] = {name: [a] for name, a in self._feeds.items()}
        drawn: dict[str, list[NDArray[Any]]] = {name: [a] for name, a in self._draws.items()}
        for part, n in zip(parts, sizes, strict=True):
            for spec in self._step.inputs:
                new = part.get(spec.name)
                fed[spec.name].append(
                    np.zeros((n, *spec.shape), spec.dtype) if new is None else new
                )
            for name, array in self._drawing(part, n).items():
                drawn[name].append(array)
        self._feeds = {name: np.concatenate(arrays) for name, arrays in fed.items()}
        self._draws = {name: np.concatenate(arrays) for name, arrays in drawn.items()}
        ends = np.full((rows, self._length), END, np.int64)
        self.tokens = np.concatenate([self.tokens, ends])
        self.position = np.concatenate([self.position, np.zeros(rows, np.int64)])
        self.ended = np.concatenate([self.ended, np.zeros(rows, bool)])
        forced = self._draws[PREFIX][len(self.begun) :]
        self.begun = np.concatenate([self.begun, (forced != END).sum(1)])

    def _drawing(self, part: Arrays, n: int) -> Arrays:
        """What tokens are chosen by, of n rows."""
        ends = np.full((n, self._length), END, np.int64)
        return {
            NOISE: part.get(NOISE, np.zeros((n, self._length), np.float32)),
            TEMPERATURE: part.get(TEMPERATURE, np.full(n, self._noisy, np.float32)),
            TOP_K: part.get(TOP_K, np.zeros(n, np.int64)),
            MAX_TOKENS: part.get(MAX_TOKENS, np.full(n, self._length, np.int64)),
            PREFIX: part.get(PREFIX, ends),
        }

    def advance(self) -> None:
        """One token more for every row; a row that had ended gets another end.

        When the graph fails nothing has changed.
        """
        n = len(self)
        outputs = self._run({name: _padded(value) for name, value in self._feeds.items()})
        outputs = {name: value[:n] for name, value in outputs.items()}
        at = (np.arange(n), np.minimum(self.position, self._length - 1))
        draws = self._draws
        noise, forced = draws[NOISE][at], draws[PREFIX][at]
        token = choose(outputs[LOGITS], noise, draws[TEMPERATURE], draws[TOP_K])
        token = np.where(forced == END, token, forced)
        token = np.where(self.ended, END, token)
        self.tokens[at] = np.where(self.ended, self.tokens[at], token)
        self.position += ~self.ended
        self.ended |= (token == END) | (self.position >= draws[MAX_TOKENS])
        self._feeds[TOKEN] = token
        for name, value in outputs.items():
            if name.startswith(CARRIED):
                self._feeds[name.removeprefix(CARRIED)] = value

    def keep(self, rows: NDArray[Any] | Sequence[int]) -> None:
        """Only these stay, a mask or indices: the others' places are free."""
        rows = np.asarray(rows) if len(rows) else np.zeros(0, np.int64)
        self._feeds = {name: array[rows] for name, array in self._feeds.items()}
        self._draws = {name: array[rows] for name, array in self._draws.items()}
        self.tokens, self.position = self.tokens[rows], self.position[rows]
        self.ended, self.begun = self.ended[rows], self.begun[rows]

    def copy(self, rows: NDArray[Any] | Sequence[int]) -> "Writing":
        """These rows as they are now, in a writing of their own."""
        found = copy(self)
        found.keep(rows)
        return found


def write(
    signature: Signature, step: Signature, run: Run, inputs: Arrays
) -> Iterator[NDArray[np.int64]]:
    """The texts' tokens, position by position: (N,) int64 each, until all texts have ended.

    `inputs` are those of Writing.join().
    """
    writing = Writing(signature, step, run)
    writing.join([inputs])
    for position in range(signature.outputs[0].shape[0]):
        writing.advance()
        yield writing.tokens[:, position].copy()
        if writing.ended.all():
            return


def whole(signature: Signature, step: Signature, run: Run, inputs: Arrays) -> Arrays:
    """What write() gives, as the signature's output: {name: (N, L) int64}, ends to the last."""
    writing = Writing(signature, step, run)
    writing.join([inputs])
    while not writing.ended.all():
        writing.advance()
    return {signature.outputs[0].name: writing.tokens}


def choose(
    logits: NDArray[np.float32],
    noise: NDArray[np.float32],
    temperature: NDArray[np.float32],
    top_k: NDArray[np.int64],
) -> NDArray[np.int64]:
    """logits: (N, V); noise in [0, 1), temperature >= 0, top_k >= 0, each (N,) -> (N,) int64.

    The token at which the distribution's sum, over tokens in order, passes the noise; in float64,
    so that a text that differs between machines is rare.
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
    return np.concatenate([value] * LEAST_ROWS) if len(value) == 1 else value
