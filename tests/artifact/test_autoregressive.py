"""The loop round a step graph: draws, settings, ends; a batch is each of its texts alone."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from aigc.artifact import ArtifactError, Signature, TensorSpec, autoregressive, latents
from aigc.artifact.sampling_inputs import Arrays
from aigc.models import text_vae

VOCABULARY, LENGTH = 5, 8
EXPORTS = text_vae.Model(
    text_vae.Config(shape=(LENGTH,), vocabulary=VOCABULARY, latent=2, width=4)
).exports()
SAMPLE, DECODE, STEP = (EXPORTS[name].signature for name in ("sample", "decode", "step"))
WEIGHTS = latents.normal(1, range(2 + 4 + VOCABULARY), (4 + VOCABULARY,), "weights")


def run(feeds: Arrays) -> Arrays:
    """A step of its own: one dense layer over latent, state and token."""
    token = np.eye(VOCABULARY, dtype=np.float32)[feeds["token"]]
    # Not one product of matrices: its sums would depend on the number of rows.
    x = np.concatenate([feeds["latent"], feeds["state"], token], 1)[:, :, None] * WEIGHTS
    out = np.tanh(x.sum(1)) * 2
    return {"logits": out[:, 4:], "next_state": out[:, :4]}


def inputs(n: int, **settings: float) -> Arrays:
    chosen = {"temperature": 1.0, "top_k": 0, "max_tokens": LENGTH} | settings
    return {
        "latent": latents.normal(3, range(n), (2,)),
        "noise": latents.uniform(3, range(n), (LENGTH,), "noise"),
        "temperature": np.full(n, chosen["temperature"], np.float32),
        "top_k": np.full(n, chosen["top_k"], np.int64),
        "max_tokens": np.full(n, chosen["max_tokens"], np.int64),
    }


def texts(given: Arrays, signature: Signature = SAMPLE) -> NDArray[np.int64]:
    return autoregressive.generate(signature, STEP, run, given)["text"]


def test_sampled_text_is_independent_of_its_batch() -> None:
    given = inputs(40)
    together = texts(given)
    assert together.shape == (40, LENGTH)
    assert len({row.tobytes() for row in together}) > 20
    for row in range(40):
        alone = texts({name: value[row : row + 1] for name, value in given.items()})
        assert np.array_equal(alone[0], together[row])


def test_single_text_runs_in_two_rows() -> None:
    rows = []

    def watched(feeds: Arrays) -> Arrays:
        rows.append({len(value) for value in feeds.values()})
        return run(feeds)

    autoregressive.generate(SAMPLE, STEP, watched, inputs(1))
    assert rows[0] == {2}


def test_settings_apply_per_text() -> None:
    given = inputs(20)
    given["max_tokens"] = np.arange(20) % LENGTH + 1
    given["top_k"][::2] = 1
    found = texts(given)
    for row in range(20):
        short = texts(inputs(20, max_tokens=int(given["max_tokens"][row]), top_k=(row + 1) % 2))
        assert np.array_equal(found[row], short[row])
        assert (found[row, given["max_tokens"][row] :] == 0).all()


def test_zero_temperature_noise_and_top_k_of_1_are_greedy() -> None:
    cold = texts(inputs(9, temperature=0))
    assert np.array_equal(cold, texts(inputs(9, top_k=1)))
    given = {name: inputs(9)[name] for name in ("latent", "max_tokens")}
    assert np.array_equal(cold, texts(given, DECODE))
    assert not np.array_equal(cold, texts(inputs(9)))


def test_tokens_stream_until_all_texts_end() -> None:
    given = inputs(3)
    drawn = list(autoregressive.stream(SAMPLE, STEP, run, given))
    whole = texts(given)
    assert np.array_equal(np.stack(drawn, 1), whole[:, : len(drawn)])
    assert (whole[:, len(drawn) :] == 0).all()
    short = list(autoregressive.stream(SAMPLE, STEP, run, inputs(3, max_tokens=2)))
    assert len(short) <= 3
    ended = (whole == 0).cumsum(1) > 0
    assert (whole[ended] == 0).all()  # nothing after an end


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.0001, 0.6999]], np.float32)).repeat(20_000, 0)
    noise = latents.uniform(0, range(20_000), (), "noise")
    one, none = np.ones(20_000, np.float32), np.zeros(20_000, np.int64)
    shares = np.bincount(autoregressive.choose(logits, noise, one, none), minlength=4) / 20_000
    assert np.abs(shares - [0.1, 0.2, 0.0001, 0.6999]).max() < 0.01
    shares = np.bincount(autoregressive.choose(logits, noise, one, none + 2), minlength=4) / 20_000
    assert np.abs(shares - [0, 2 / 9, 0, 7 / 9]).max() < 0.01
    squares = np.array([0.01, 0.04, 0, 0.49]) / 0.54
    shares = np.bincount(autoregressive.choose(logits, noise, one / 2, none), minlength=4) / 20_000
    assert np.abs(shares - squares).max() < 0.01


@pytest.mark.parametrize("noise", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_draws_skip_impossible_tokens(noise: float) -> None:
    logits = np.array([[-1e4, 0, 1, -1e4]], np.float32)
    given = np.array([noise], np.float32)
    chosen = autoregressive.choose(logits, given, np.ones(1, np.float32), np.zeros(1, np.int64))
    assert chosen[0] in (1, 2)


def test_steps_refuse_graphs_that_cannot_run() -> None:
    autoregressive.check("sample", SAMPLE, STEP)
    stateless = replace(STEP, outputs=STEP.outputs[:1])
    with pytest.raises(ArtifactError, match=r"nothing gives its inputs \['state'\]"):
        autoregressive.check("sample", SAMPLE, stateless)
    other = TensorSpec(name="more", kind="vector", dtype="float32", shape=(1,))
    with pytest.raises(ArtifactError, match=r"\['more'\]"):
        autoregressive.check("sample", SAMPLE, replace(STEP, inputs=(*STEP.inputs, other)))
    with pytest.raises(ArtifactError, match="it needs 'logits'"):
        autoregressive.check("sample", SAMPLE, replace(STEP, outputs=STEP.outputs[1:]))


def test_joining_and_leaving_rows_change_no_other() -> None:
    given = inputs(12)
    expected = texts(given)
    writing = autoregressive.TokenDecoder(SAMPLE, STEP, run)
    there: list[int] = []
    found: dict[int, NDArray[np.int64]] = {}
    for step in range(60):
        if step % 2 == 0 and step // 2 < 12:  # one more at every other step
            row = step // 2
            writing.join([{name: value[row : row + 1] for name, value in given.items()}])
            there.append(row)
        if there:
            writing.advance()
        found |= {row: writing.tokens[i] for i, row in enumerate(there) if writing.ended[i]}
        there = [row for i, row in enumerate(there) if not writing.ended[i]]
        writing.keep(~writing.ended)
        assert len(writing) == len(there)
    assert np.array_equal(np.stack([found[row] for row in range(12)]), expected)


def test_prefix_starts_the_row() -> None:
    given = inputs(9)
    given[autoregressive.PREFIX] = np.zeros((9, LENGTH), np.int64)
    given[autoregressive.PREFIX][:6, :2] = 3, 1
    found = texts(given)
    assert (found[:6, :2] == [3, 1]).all()
    assert np.array_equal(found[6:], texts(inputs(9))[6:])
    assert len({row.tobytes() for row in found[:6]}) > 1, "they go on as they like"
    given["max_tokens"][:] = 3
    assert np.array_equal(texts(given)[:, :3], found[:, :3])
    assert not texts(given)[:, 3:].any()


def test_failed_graph_run_leaves_the_state_unchanged() -> None:
    broken = False

    def run_or_fail(feeds: Arrays) -> Arrays:
        if broken:
            raise RuntimeError("the graph fell over")
        return run(feeds)

    writing = autoregressive.TokenDecoder(SAMPLE, STEP, run_or_fail)
    writing.join([inputs(4)])
    writing.advance()
    before, broken = writing.tokens.copy(), True
    with pytest.raises(RuntimeError, match="fell over"):
        writing.advance()
    assert np.array_equal(writing.tokens, before)
    broken = False
    part = writing.copy([2])
    while not writing.ended.all():
        writing.advance()
    while not part.ended.all():
        part.advance()
    assert np.array_equal(writing.tokens, texts(inputs(4)))
    assert np.array_equal(part.tokens[0], writing.tokens[2])
