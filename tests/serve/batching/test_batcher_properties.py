"""Requests of every kind at once, with faults in every stage: each is answered as if it were alone.

What goes wrong is one of a dozen exceptions, raised by a job's own functions, by its runner, by the
queue or by who counts. Nothing may wait for ever, and what is not at fault must not notice, unless
it was the queue itself: then the job may fail, but with that error.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aigc.artifact import Artifact, Store
from aigc.artifact.sampling_inputs import PREFIX, Arrays
from serve.batching.batcher import Batcher
from serve.batching.fair_queue import FairQueue
from serve.batching.jobs import DeadlineError, Job, OverloadedError
from serve.hosting.memory_budget import MemoryBudget
from serve.hosting.models import ModelLoader
from serve.hosting.runner import AutoregressiveRunner, LocalRunner
from serve.metrics import Metrics
from serve.sampling_params import SamplingParams
from tests.serve.artifacts import WORDS_LENGTH
from tests.serve.batching.runners import settled
from tests.serve.faulty import publish_optional

ERRORS = (
    KeyError,
    ValueError,
    MemoryError,
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    SystemExit,
    TimeoutError,
    asyncio.CancelledError,
    RecursionError,
)
OWN = ("draw", "stopping_criterion", "on_progress")
SHARED = (
    *(
        "run",
        "advance",
        "join",
        "keep",
        "draw_together",
        "observe",
        "observe_queue",
        "observe_failure",
    ),
    *("push", "take", "resume", "discard", "waiting"),
)


class InjectedError(RuntimeError):
    pass


@pytest.fixture(scope="module")
def runners(
    store: Path, moods: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, LocalRunner]:
    """Runners of optional inputs, of labels, and of texts with settings, labels and prefixes."""
    root = tmp_path_factory.mktemp("optional")
    uris = {
        "translate": publish_optional(Store(root), root / "build", "opt"),
        "sample": f"{store}/tiny/1",
        "texts": moods,
    }
    memory = MemoryBudget(limit_bytes=1 << 40)
    loader = ModelLoader(
        threads=1, max_batch=4, memory=memory, metrics=Metrics(), batcher=Batcher(max_queue=1)
    )
    found: dict[str, LocalRunner] = {}
    for name, uri in uris.items():
        runner = loader.open(uri).runners["sample" if name == "texts" else name]
        assert isinstance(runner, LocalRunner)
        found[name] = runner
    return found


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Drop the log of a thousand faults, which is of no use."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@dataclass(frozen=True)
class Asked:
    kind: str
    n: int
    seed: int
    values: dict[str, float]
    """Values of the optional inputs that are given."""
    label: int | None
    chosen: dict[str, float]
    """Settings."""
    prefix: tuple[int, ...]
    enough: int | None
    """Tokens after which a text is ended."""
    complete: bool
    """True if the batcher is given complete inputs; else it must cope with what there is."""
    fate: str
    pause: int


numbers = st.integers(1, 9).map(float)
asked = st.builds(
    Asked,
    kind=st.sampled_from(["translate", "translate", "sample", "texts"]),
    n=st.integers(1, 6),
    seed=st.integers(0, 3),
    values=st.dictionaries(st.sampled_from("ab"), numbers, min_size=1),
    label=st.none() | st.integers(0, 1),
    chosen=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.sampled_from([0.0, 0.7, 1, 3.0]),
            "top_k": st.integers(0, 3),
            "max_tokens": st.integers(1, WORDS_LENGTH),
            "gain": st.sampled_from([2, 2**53 + 1, 2**53 + 3]),
        },
    ),
    prefix=st.sampled_from([(), (), (3,), (5, 2, 9)]),
    enough=st.none() | st.integers(1, 5),
    complete=st.booleans(),
    fate=st.sampled_from(["", "", "", "", *OWN, "cancelled", "late"]),
    pause=st.integers(0, 3),
)


def settings_of(one: Asked, runner: LocalRunner) -> dict[str, float]:
    return {name: value for name, value in one.chosen.items() if name in runner.defaults}


def inputs_of(one: Asked) -> Arrays:
    given = {name: np.full((one.n, 4), v, np.float32) for name, v in one.values.items()}
    if "gain" in one.chosen:
        given["gain"] = np.full(one.n, int(one.chosen["gain"]))
    return given


def begun(one: Asked) -> Any:
    rows = np.zeros((one.n, WORDS_LENGTH), np.int64)
    rows[:, : len(one.prefix)] = one.prefix
    return rows


def of_inputs(runner: LocalRunner, inputs: Arrays) -> Job:
    return runner.job(SamplingParams(n=len(next(iter(inputs.values())))), inputs)


def job_of(one: Asked, runner: LocalRunner) -> Job:
    if one.kind != "translate":
        enough = (lambda drawn: len(drawn) >= (one.enough or 99)) if one.enough else None
        params = SamplingParams(
            seed=one.seed,
            first_index=one.seed,
            n=one.n,
            label=one.label,
            settings=settings_of(one, runner),
            prefix=begun(one) if one.kind == "texts" and one.prefix else None,
            stopping_criterion=enough,
        )
        return runner.job(params)
    inputs = inputs_of(one)
    if one.complete:
        return of_inputs(runner, runner.complete(inputs))
    return Job(
        runner=runner,
        params=SamplingParams(n=one.n),
        draw=lambda a, b: {k: v[a:b] for k, v in inputs.items()},
    )


def alone(one: Asked, artifact: Artifact, runner: LocalRunner) -> Any:
    """Its outputs, without a batcher."""
    if one.kind == "translate":
        return artifact.run("translate", inputs_of(one))
    indices = range(one.seed, one.seed + one.n)
    label = one.label
    inputs = artifact.draw("sample", one.seed, indices, label, settings_of(one, runner))
    if one.kind == "sample":
        return {"pixels": artifact.uint8("sample", artifact.run("sample", inputs))}
    text = artifact.run("sample", {**inputs, PREFIX: begun(one)})["text"]
    if one.enough is not None:
        text = text.copy()
        text[:, len(one.prefix) + one.enough :] = 0
    return {"text": text}


class Faults:
    """Raises an error at the k-th call of one stage, or at every call from then on."""

    def __init__(self, stage: str, error: type[BaseException], at: int, stays: bool) -> None:
        self.stage = stage
        self._error = error
        self._at = at
        self._stays = stays
        self._calls = 0
        self.raised = 0
        self.over = False

    def look(self, stage: str) -> None:
        if stage != self.stage or self.over:
            return
        self._calls += 1
        if self._calls == self._at or (self._stays and self._calls > self._at):
            self.raised += 1
            raise self._error(f"injected into {stage}")

    def around(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            self.look(stage)
            return call(*arguments)

        return called


class FaultyQueue(FairQueue):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._groups = self.__dict__.pop("waiting")
        self._faults = faults

    @property
    def waiting(self) -> Any:
        if "_faults" in self.__dict__ and self._faults.stage == "waiting":
            self._faults.look("waiting")
        return self._groups

    @waiting.setter
    def waiting(self, groups: Any) -> None:
        self.__dict__["waiting"] = groups

    def push(self, job: Job) -> None:
        self._faults.look("push")
        super().push(job)

    def take(self) -> Any:
        slices = super().take()
        self._faults.look("take")  # what it took is lost
        return slices

    def resume(self, group: Any, slices: Any) -> None:
        self._faults.look("resume")
        super().resume(group, slices)

    def discard(self, job: Job) -> None:
        self._faults.look("discard")
        super().discard(job)


@contextmanager
def faulty(runners: dict[str, LocalRunner], faults: Faults) -> Iterator[dict[str, LocalRunner]]:
    """The same runners with a fault in them, fresh ones."""
    found: dict[str, LocalRunner] = {}
    for name, runner in runners.items():
        fresh = type(runner)(
            runner.artifact, runner.name, runner.max_batch, runner.metrics, Batcher(max_queue=1)
        )
        for stage in (
            "run",
            "observe",
            "observe_failure",
            "advance",
            "join",
            "keep",
            "_draw_together",
        ):
            if stage == "run" and isinstance(runner, AutoregressiveRunner):
                continue
            if hasattr(fresh, stage):
                wrapped = faults.around(stage.strip("_"), getattr(fresh, stage))
                setattr(fresh, stage, wrapped)
        found[name] = fresh
    yield found


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def raises(*_: Any) -> Any:
        raise error("injected into the job")

    return raises


async def answer(
    batcher: Batcher, one: Asked, runner: LocalRunner, error: type[BaseException]
) -> Any:
    for _ in range(one.pause):
        await asyncio.sleep(0.001)
    job = job_of(one, runner)
    if one.fate == "draw":
        job.draw = raising(error)
    elif one.fate == "stopping_criterion" and one.kind == "texts":
        job.params = replace(job.params, stopping_criterion=raising(error))
    elif one.fate == "on_progress":
        job.on_progress = raising(error)
    elif one.fate == "late":
        job.deadline_s = time.monotonic() + 0.001
    return await batcher.submit(job)


def named(error: BaseException) -> str:
    """An error and all that led to it."""
    found = repr(error)
    while error.__cause__ is not None:
        error = error.__cause__
        found += repr(error)
    return found


LATE = Asked(
    kind="translate",
    n=1,
    seed=0,
    values={"a": 1.0},
    label=None,
    chosen={},
    prefix=(),
    enough=None,
    complete=False,
    fate="late",
    pause=0,
)


@pytest.mark.process
@example(all_asked=[LATE], stage="waiting", error=SystemExit, at=1, stays=False, inline_s=0.0)
@example(
    all_asked=[LATE],
    stage="waiting",
    error=asyncio.CancelledError,
    at=1,
    stays=False,
    inline_s=0.0,
)
@given(
    all_asked=st.lists(asked, min_size=1, max_size=9),
    stage=st.sampled_from(("", *SHARED)),
    error=st.sampled_from(ERRORS),
    at=st.integers(1, 4),
    stays=st.booleans(),
    inline_s=st.sampled_from([0.0, 0.001, 3600.0]),
)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_job_is_answered_as_if_alone_or_by_its_own_error(
    all_asked: list[Asked],
    stage: str,
    error: type[BaseException],
    at: int,
    stays: bool,
    inline_s: float,
    runners: dict[str, LocalRunner],
    unlogged: None,
) -> None:
    faults = Faults(stage, error, at, stays)

    async def main() -> list[Any]:
        with faulty(runners, faults) as broken:
            batcher = Batcher(
                max_queue=1000,
                inline_s=inline_s,
                queue=FaultyQueue(faults),
                observe_queue=lambda _: faults.look("observe_queue"),
            )
            tasks = [
                asyncio.create_task(answer(batcher, one, broken[one.kind], error))
                for one in all_asked
            ]
            for one, task in zip(all_asked, tasks, strict=True):
                if one.fate == "cancelled":
                    await asyncio.sleep(0.001)
                    task.cancel()
            _done, waits = await asyncio.wait(tasks, timeout=20)
            assert not waits, "somebody waits for ever"
            await settled(lambda: batcher.is_idle)  # the queue task ends with the work
            assert batcher.queued == 0
            faults.over = True
            for one in all_asked:  # and all is as before
                job = job_of(one, broken[one.kind])
                check(await asyncio.wait_for(batcher.submit(job), 20), one, runners)
            batcher.close()
            return ["" if task.cancelled() else task.exception() or task.result() for task in tasks]

    for one, found in zip(all_asked, asyncio.run(main()), strict=True):
        if isinstance(found, dict):
            assert one.fate in ("", "cancelled", "late", *unused(one)), one.fate
            check(found, one, runners)
        elif found == "":
            assert one.fate == "cancelled"
        elif one.fate == "late":
            assert isinstance(found, DeadlineError | OverloadedError) or faults.raised
        else:
            own = one.fate in OWN and (one.fate != "stopping_criterion" or one.kind == "texts")
            assert own or faults.raised, f"{named(found)} came from nowhere"
            assert error.__name__ in named(found) or "the queue has lost" in named(found)
            assert stage not in ("observe", "observe_queue", "failed", "draw_together") or own


def unused(one: Asked) -> tuple[str, ...]:
    """Fates that may do nothing to it: seeds that share a batch are not drawn one by one, and a
    text may end with its first token."""
    return ("stopping_criterion", "draw") if one.kind != "translate" else ("stopping_criterion",)


def check(found: Arrays, one: Asked, runners: dict[str, LocalRunner]) -> None:
    runner = runners[one.kind]
    for name, expected in alone(one, runner.artifact, runner).items():
        assert found[name].dtype == expected.dtype
        assert np.array_equal(found[name], expected), (one, name)


def test_what_leaves_out_different_inputs_shares_a_batch_and_is_itself(
    runners: dict[str, LocalRunner],
) -> None:
    """Also where nobody has completed it, and two of one key differ."""
    runner = runners["translate"]
    every: list[dict[str, float]] = [{"a": 1}, {"a": 1, "b": 2}, {"b": 2}, {"a": 3, "gain": 2}]
    right = [1, 21, 20, 6]

    def raw(values: dict[str, float], complete: bool) -> Job:
        inputs = {
            name: np.array([value]) if name == "gain" else np.full((1, 4), value, np.float32)
            for name, value in values.items()
        }
        if complete:
            return of_inputs(runner, runner.complete(inputs))
        return Job(
            runner=runner,
            params=SamplingParams(n=1),
            draw=lambda a, b: {k: v[a:b] for k, v in inputs.items()},
        )

    async def main(complete: bool) -> list[int]:
        sizes: list[int] = []
        fresh = LocalRunner(runner.artifact, runner.name, 64, runner.metrics, Batcher(max_queue=1))
        run = fresh.run
        fresh.run = lambda inputs: (
            sizes.append(len(inputs["a_given"] if complete else []))
            or run(  # type: ignore[func-returns-value, method-assign]
                inputs
            )
        )
        batcher = Batcher(max_queue=100)
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [0, 1], [1, 0], [3, 0]):
            jobs = [raw(every[i], complete) for i in order]
            for job in jobs:
                job.runner = job.group = fresh
            found = await asyncio.wait_for(asyncio.gather(*map(batcher.submit, jobs)), 10)
            assert [out["y"][0, 0] for out in found] == [right[i] for i in order]
        batcher.close()
        return sizes

    assert asyncio.run(main(True)) == [4, 4, 2, 2, 2], "complete inputs go together"
    asyncio.run(main(False))


def test_inputs_of_another_form_are_of_another_batch(runners: dict[str, LocalRunner]) -> None:
    runner = runners["translate"]
    whole = runner.complete({"a": np.ones((2, 4), np.float32)})
    assert of_inputs(runner, whole).group is runner
    wide = {**whole, "a": np.ones((2, 8), np.float32)}
    one = of_inputs(runner, wide)
    other = of_inputs(runner, {name: v.copy() for name, v in wide.items()})
    assert one.group == other.group != runner
    queue = FairQueue()
    for job in (one, of_inputs(runner, whole), other):
        queue.push(job)
    batches = [{part.job.group for part in queue.take()} for _ in range(2)]
    assert batches == [{one.group}, {runner}]
    assert queue.take() == []
