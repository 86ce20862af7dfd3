"""Texts token by token: the loop round a graph that knows one step.

The step takes what a text is made of (a latent, a class), the token before and its state; it gives
logits of the next token and the state to go on with. An output `next_state` is the next run's
input `state`, which begins as zeros. The draw of each token is an input too, (seed, index,
position) having given it, so texts are a function of their inputs like everything else.
"""

from collections.abc import Callable, Iterator
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


def write(
    signature: Signature, step: Signature, run: Run, inputs: Arrays
) -> Iterator[NDArray[np.int64]]:
    """The texts' tokens, position by position: (N,) int64 each, until all texts have ended.

    `inputs` are those of the signature: what the step is given at every position, and `noise`
    (N, L) in [0, 1), `temperature`, `top_k` and `max_tokens`, each (N,). Without noise, and at
    temperature 0, the likeliest token is taken; top_k 0 chooses among all.
    """
    length = signature.outputs[0].shape[0]
    n = len(next(iter(inputs.values())))
    inputs = {name: _padded(value) for name, value in inputs.items()}
    rows = max(n, LEAST_ROWS)
    ones = np.ones(rows, np.int64)
    noise = inputs.get(NOISE, np.zeros((rows, length), np.float32))
    temperature = inputs.get(TEMPERATURE, ones * (NOISE in inputs))
    top_k, most = inputs.get(TOP_K, ones * 0), inputs.get(MAX_TOKENS, ones * length)
    feeds = {spec.name: inputs[spec.name] for spec in step.inputs if spec.name in inputs}
    for spec in step.inputs:
        if spec.name not in feeds:
            feeds[spec.name] = np.zeros((rows, *spec.shape), spec.dtype)
    open_ = np.ones(rows, bool)
    for position in range(length):
        outputs = run(feeds)
        token = choose(outputs[LOGITS], noise[:, position], temperature, top_k)
        open_ &= position < most
        token = np.where(open_, token, END)
        open_ &= token != END
        yield token[:n]
        if not open_.any():
            return
        feeds[TOKEN] = token
        for name, value in outputs.items():
            if name.startswith(CARRIED):
                feeds[name.removeprefix(CARRIED)] = value


def whole(signature: Signature, step: Signature, run: Run, inputs: Arrays) -> Arrays:
    """What write() gives, as the signature's output: {name: (N, L) int64}, ends to the last."""
    spec = signature.outputs[0]
    n = len(next(iter(inputs.values())))
    tokens = np.full((n, spec.shape[0]), END, np.int64)
    for position, token in enumerate(write(signature, step, run, inputs)):
        tokens[:, position] = token
    return {spec.name: tokens}


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
