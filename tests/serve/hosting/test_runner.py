"""Samples that go by steps: whatever joins, leaves and fails beside them, each is itself alone."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from aigc.artifact import Artifact, Signature
from aigc.artifact.autoregressive import PREFIX
from aigc.artifact.sampling_inputs import Arrays
from serve.batching.batcher import Batcher
from serve.batching.jobs import (
    BatchStats,
    ClosedError,
    DeadlineError,
    Job,
    Outcome,
    OverloadedError,
)
from serve.hosting.memory_budget import MemoryBudget, MemoryLimitError
from serve.hosting.models import ModelLoader
from serve.hosting.runner import AutoregressiveRunner
from serve.metrics import Metrics
from serve.sampling_params import SamplingParams
from tests.serve.artifacts import WORDS_LENGTH
from tests.serve.batching.runners import Doubler, settled

LENGTH = WORDS_LENGTH


@pytest.fixture(scope="module")
def runner(words: str) -> AutoregressiveRunner:
    memory = MemoryBudget(limit_bytes=1 << 40)
    loader = ModelLoader(
        threads=1, max_batch=6, memory=memory, metrics=Metrics(), batcher=Batcher(max_queue=1)
    )
    runner = loader.open(words).runners["sample"]
    assert isinstance(runner, AutoregressiveRunner)
    return runner


@pytest.fixture(scope="module")
def artifact(words: str) -> Artifact:
    return Artifact.open(words, verify=False)


def copied(runner: AutoregressiveRunner) -> AutoregressiveRunner:
    """A runner of the same signature with rows of its own."""
    return AutoregressiveRunner(
        runner.artifact, runner.name, runner.max_batch, runner.metrics, Batcher(max_queue=1)
    )


def submitted(
    batcher: Batcher, runner: AutoregressiveRunner, seed: int, n: int, **options: Any
) -> "asyncio.Task[Arrays]":
    """A job of so many texts, in progress."""
    job = runner.job(SamplingParams(seed=seed, n=n), **options)
    return asyncio.create_task(batcher.submit(job))


def slow(runner: AutoregressiveRunner, seconds: float) -> AutoregressiveRunner:
    """The same runner, whose steps take so long."""
    other = copied(runner)
    run = other.decoder.run

    def later(feeds: Arrays) -> Arrays:
        time.sleep(seconds)
        return run(feeds)

    other.decoder.run = later
    return other


def prefix(n: int, *tokens: int) -> Any:
    rows = np.zeros((n, LENGTH), np.int64)
    rows[:, : len(tokens)] = tokens
    return rows


ASKS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 3),
        "first_index": st.integers(0, 40),
        "n": st.integers(1, 9),
        "temperature": st.sampled_from([0.0, 0.7, 1.0, 3.0]),
        "max_tokens": st.integers(1, LENGTH),
        "prefix": st.sampled_from([(), (3,), (5, 2, 9)]),
        "pause": st.integers(0, 4),
        "stays": st.booleans() | st.just(True),
    }
)


@pytest.mark.process
@given(asks=st.lists(ASKS, min_size=1, max_size=8), inline_s=st.sampled_from([0.0, 0.001, 3600.0]))
@examples(max_examples=25)
def test_any_mix_of_requests_is_each_alone(
    asks: list[dict[str, Any]], inline_s: float, runner: AutoregressiveRunner, artifact: Artifact
) -> None:
    async def ask(batcher: Batcher, one: dict[str, Any]) -> Arrays:
        for _ in range(one["pause"]):
            await asyncio.sleep(0.001)
        return await batcher.submit(
            runner.job(
                SamplingParams(
                    seed=one["seed"],
                    first_index=one["first_index"],
                    n=one["n"],
                    settings={key: one[key] for key in ("temperature", "max_tokens")},
                    prefix=prefix(one["n"], *one["prefix"]) if one["prefix"] else None,
                ),
            )
        )

    async def main() -> list[Any]:
        batcher = Batcher(max_queue=1000, inline_s=inline_s)
        tasks = [asyncio.create_task(ask(batcher, one)) for one in asks]
        for one, task in zip(asks, tasks, strict=True):
            if not one["stays"]:
                await asyncio.sleep(0.001)
                task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await settled(lambda: (batcher.queued, batcher.work_s) == (0, 0))
        batcher.close()
        return found

    for one, found in zip(asks, asyncio.run(main()), strict=True):
        if isinstance(found, asyncio.CancelledError):
            assert not one["stays"]
            continue
        indices = range(one["first_index"], one["first_index"] + one["n"])
        chosen = {key: one[key] for key in ("temperature", "max_tokens")}
        inputs = artifact.draw("sample", one["seed"], indices, None, chosen)
        inputs[PREFIX] = prefix(one["n"], *one["prefix"])
        assert np.array_equal(found["text"], artifact.run("sample", inputs)["text"])
        for row in range(one["n"]):
            alone = {name: array[row : row + 1] for name, array in inputs.items()}
            assert np.array_equal(found["text"][row], artifact.run("sample", alone)["text"][0])


def test_rows_join_as_others_end_and_never_more_than_a_batch(runner: AutoregressiveRunner) -> None:
    sizes: list[int] = []
    joined: list[int] = []
    other = copied(runner)
    run, join = other.decoder.run, other.join

    def counted(feeds: Arrays) -> Arrays:
        sizes.append(len(feeds["token"]))
        return run(feeds)

    def noted(rows: Any, inputs: Arrays) -> None:
        joined.append(len(sizes))
        join(rows, inputs)

    other.decoder.run = counted
    other.join = noted  # type: ignore[method-assign]

    async def main() -> None:
        batcher = Batcher(max_queue=1000)
        await submitted(batcher, other, 1, 30)
        batcher.close()

    asyncio.run(main())
    assert max(sizes) == 6
    assert sizes.count(6) > 0.7 * len(sizes), "places stay empty while samples wait"
    assert len(joined) > 5, "rows joined at different steps"


def test_progress_is_reported_before_the_end(
    runner: AutoregressiveRunner, artifact: Artifact
) -> None:
    async def main() -> list[tuple[int, Outcome]]:
        progress: list[tuple[int, Outcome]] = []
        batcher = Batcher(max_queue=100)
        job = runner.job(SamplingParams(seed=1, n=2))
        job.on_progress = lambda index, outcome: progress.append((index, outcome))
        await batcher.submit(job)
        batcher.close()
        return progress

    progress = asyncio.run(main())
    whole = artifact.sample(seed=1, n=2)["text"]
    for row in range(2):
        outcomes = [outcome for index, outcome in progress if index == row]
        *parts, last = outcomes
        assert len(parts) > 3
        for i, part in enumerate(parts):
            assert not isinstance(part, dict | Exception)
            assert np.array_equal(part.part, whole[row, : i + 1])
        assert isinstance(last, dict)
        assert np.array_equal(last["text"][0], whole[row])


async def known(runner: AutoregressiveRunner, inline_s: float) -> Batcher:
    """A batcher that has written texts, so that it knows how long steps take."""
    batcher = Batcher(max_queue=100, inline_s=inline_s)
    await submitted(batcher, runner, 1, 2)
    await settled(lambda: batcher.is_idle)
    return batcher


def test_short_steps_run_on_the_event_loop_however_long_their_texts_take(
    runner: AutoregressiveRunner, artifact: Artifact
) -> None:
    other = slow(runner, 0.005)
    threads: list[int] = []
    step = other.advance

    def advance() -> Any:
        threads.append(threading.get_ident())
        return step()

    other.advance = advance  # type: ignore[method-assign]

    async def main(inline_s: float) -> None:
        batcher = await known(other, inline_s)
        begun = threads[0], threads[-1]
        threads.clear()
        found = await submitted(batcher, other, 1, 2)
        batcher.close()
        assert np.array_equal(found["text"], artifact.sample(seed=1, n=2)["text"])
        here = threading.get_ident()
        assert begun[0] != here, "the first step may take any time"
        if inline_s > 0.005:
            assert len(threads) * 0.005 > inline_s
            assert {begun[1], *threads} == {here}
        else:
            assert here not in {begun[1], *threads}
        threads.clear()

    asyncio.run(main(0.05))
    asyncio.run(main(0.001))


def test_the_event_loop_is_kept_for_no_longer_than_it_may_be(runner: AutoregressiveRunner) -> None:
    other = slow(runner, 0.005)
    steps: list[int] = []
    step = other.advance

    def advance() -> Any:
        steps.append(len(other.rows))
        return step()

    async def main() -> list[int]:
        batcher = await known(other, 0.025)
        other.advance = advance  # type: ignore[method-assign]
        turns: list[int] = []
        job = other.job(SamplingParams(seed=1, n=2))
        texts = asyncio.create_task(batcher.submit(job))
        while not texts.done():
            await asyncio.sleep(0)
            turns.append(len(steps))
        batcher.close()
        return np.diff(turns).tolist()

    in_a_row = [steps for steps in asyncio.run(main()) if steps]
    assert in_a_row[0] == 1, "the first token is told of at once"
    assert 1 < max(in_a_row) <= 0.025 / 0.005


def test_new_rows_join_at_the_next_step(runner: AutoregressiveRunner) -> None:
    progress: list[int] = []

    async def ask(batcher: Batcher, seed: int, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        job = runner.job(SamplingParams(seed=seed, n=1))
        job.on_progress = lambda index, outcome: progress.append(seed)
        await batcher.submit(job)

    async def main() -> None:
        batcher = await known(runner, 3600.0)
        # As many turns as there are from a socket to the queue.
        await asyncio.gather(ask(batcher, 1, 0), ask(batcher, 2, 3))
        batcher.close()

    asyncio.run(main())
    assert progress[:5] == [1, 1, 2, 1, 2]


def test_cancelled_rows_leave_at_the_next_step(runner: AutoregressiveRunner) -> None:
    other = slow(runner, 0.01)

    async def main() -> None:
        batcher = Batcher(max_queue=100)
        gone = submitted(batcher, other, 1, 9)
        await settled(lambda: len(other.rows) == 6)
        stays = submitted(batcher, other, 2, 1)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert batcher.queued == 1
        await settled(lambda: len(other.rows) == 1)
        assert len((await stays)["text"]) == 1
        await settled(lambda: (batcher.queued, batcher.work_s) == (0, 0))
        batcher.close()

    asyncio.run(main())


def test_other_runners_have_their_turn_between_any_two_steps(runner: AutoregressiveRunner) -> None:
    other, plain = slow(runner, 0.005), Doubler(4)
    turns: list[str] = []
    step, run = other.advance, plain.run

    def advance() -> Any:
        turns.append("step")
        return step()

    def double(inputs: Mapping[str, Any]) -> Arrays:
        turns.append("plain")
        return run(inputs)

    other.advance = advance  # type: ignore[method-assign]
    plain.run = double  # type: ignore[method-assign]

    async def main() -> None:
        batcher = Batcher(max_queue=100)
        text = submitted(batcher, other, 1, 2)
        await settled(lambda: len(turns) > 2)
        await batcher.submit(plain.job(0, 20))
        assert not text.done()
        await text
        batcher.close()

    asyncio.run(main())
    first = turns.index("plain")
    assert turns[first : first + 9] == ["plain", "step"] * 4 + ["plain"]


def test_a_stopping_criterion_ends_a_row(runner: AutoregressiveRunner, artifact: Artifact) -> None:
    whole = artifact.sample(seed=1, n=3)["text"]

    async def main() -> Arrays:
        batcher = Batcher(max_queue=100)
        job = runner.job(
            SamplingParams(seed=1, n=3, stopping_criterion=lambda tokens: len(tokens) >= 4)
        )
        found = await batcher.submit(job)
        batcher.close()
        return found

    found = asyncio.run(main())["text"]
    assert np.array_equal(found[:, :4], whole[:, :4])
    assert not found[:, 4:].any()


def test_deadlines_bound_the_beginning_of_rows(runner: AutoregressiveRunner) -> None:
    other = slow(runner, 0.01)

    async def main() -> None:
        batcher = Batcher(max_queue=100)
        soon = time.monotonic() + 0.1
        begun = submitted(batcher, other, 1, 6, deadline_s=soon)
        await settled(lambda: len(other.rows) == 6)
        late = other.job(SamplingParams(seed=2, n=12), deadline_s=soon)
        with pytest.raises(DeadlineError):
            await batcher.submit(late)
        assert time.monotonic() >= soon
        assert len((await begun)["text"]) == 6
        # Now it is known how long texts take.
        full = submitted(batcher, other, 1, 60)
        await settled(lambda: len(other.rows) == 6)
        soon = time.monotonic() + 0.05
        with pytest.raises(OverloadedError, match="longer than the deadline allows"):
            await submitted(batcher, other, 2, 9, deadline_s=soon)
        full.cancel()
        await asyncio.wait([full])
        batcher.close()

    asyncio.run(main())


def test_how_long_texts_take_is_known_from_their_steps(runner: AutoregressiveRunner) -> None:
    other = slow(runner, 0.002)

    async def main() -> None:
        batcher = Batcher(max_queue=1000)
        began = time.monotonic()
        await submitted(batcher, other, 1, 60)
        per_sample = (time.monotonic() - began) / 60
        assert batcher.latency.seconds_per_sample(other) == pytest.approx(per_sample, rel=0.5)
        waiting = submitted(batcher, other, 1, 60)
        await settled(lambda: len(other.rows) == 6)
        assert batcher.work_s == pytest.approx(57 * per_sample, rel=0.5)
        assert batcher.admission.wait_s(other, 1) < 12 * per_sample  # it passes the large one
        waiting.cancel()
        await asyncio.wait([waiting])
        batcher.close()

    asyncio.run(main())


def test_a_fault_is_its_own_rows_alone(runner: AutoregressiveRunner, artifact: Artifact) -> None:
    """A row on which the graph fails, one that cannot join, and the others."""
    other = copied(runner)
    run = other.decoder.run

    def picky(feeds: Arrays) -> Arrays:
        if (feeds["latent"] > 50).any():
            raise RuntimeError("bad latent")
        return run(feeds)

    other.decoder.run = picky
    bad = artifact.draw("sample", 1, range(2))
    bad["latent"][1] = 99
    odd = artifact.draw("sample", 1, range(2))
    odd["temperature"][:] = -1

    def job(inputs: Arrays) -> Job:
        return Job(
            runner=other,
            params=SamplingParams(n=2),
            draw=lambda a, b: {k: v[a:b] for k, v in inputs.items()},
        )

    async def main() -> list[Any]:
        batcher = Batcher(max_queue=100)
        jobs = [
            other.job(SamplingParams(seed=3, n=3)),
            job(bad),
            job(odd),
            other.job(SamplingParams(seed=3, first_index=3, n=3)),
        ]
        found = await asyncio.gather(*map(batcher.submit, jobs), return_exceptions=True)
        batcher.close()
        return found

    first, failed, refused, last = asyncio.run(main())
    assert isinstance(failed, RuntimeError)
    assert isinstance(refused, ValueError)
    whole = artifact.sample(seed=3, n=6)["text"]
    assert np.array_equal(np.concatenate([first["text"], last["text"]]), whole)


def test_batches_are_counted_by_steps_and_samples_as_they_end(runner: AutoregressiveRunner) -> None:
    observed: list[BatchStats] = []
    other = copied(runner)
    other.observe = observed.append  # type: ignore[method-assign]

    async def main() -> int:
        batcher = Batcher(max_queue=100)
        found = await submitted(batcher, other, 1, 9)
        batcher.close()
        text = found["text"]
        return int(np.minimum((text != 0).sum(1) + 1, LENGTH).sum())

    steps = asyncio.run(main())
    assert sum(batch.ended or 0 for batch in observed) == 9
    assert sum(batch.size for batch in observed) == steps
    assert sum(len(batch.waits_s) for batch in observed) == 1


def test_closing_fails_what_waits_and_lets_end_what_runs(runner: AutoregressiveRunner) -> None:
    other = slow(runner, 0.005)

    async def main() -> None:
        batcher = Batcher(max_queue=100)
        running = submitted(batcher, other, 1, 6)
        await settled(lambda: len(other.rows) == 6)
        waiting = submitted(batcher, other, 2, 2)
        await asyncio.sleep(0)
        batcher.close()
        with pytest.raises(ClosedError):
            await waiting
        outcomes = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(outcomes[0], dict | ClosedError)
        with pytest.raises(ClosedError):
            await submitted(batcher, other, 2, 2)

    asyncio.run(main())


def test_full_batches_of_steps_are_tried_before_they_are_served(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [0]
    run = Artifact._run

    def noted(artifact: Artifact, spec: Signature, feeds: Arrays) -> Arrays:
        rows.append(len(next(iter(feeds.values()))))
        return run(artifact, spec, feeds)

    monkeypatch.setattr(Artifact, "_run", noted)
    roomy = MemoryBudget(limit_bytes=1 << 40)
    ModelLoader(
        threads=1, max_batch=64, memory=roomy, metrics=Metrics(), batcher=Batcher(max_queue=1)
    ).open(words)
    assert {2, 4, 16, 64} <= set(rows)
    rows[:] = [0]
    tight = MemoryBudget(limit_bytes=30_000, resident=lambda: 1000 * (1 + max(rows)))
    with pytest.raises(MemoryLimitError, match="a batch of 64"):
        ModelLoader(
            threads=1, max_batch=64, memory=tight, metrics=Metrics(), batcher=Batcher(max_queue=1)
        ).open(words)
    assert max(rows) == 16, "what would be too much was not run"
