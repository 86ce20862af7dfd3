"""What every dialect calls: a request is checked, its samples are run, its answer is signed.

    ask = sampler.ask(model="digits", n=8, seed=7, label=3)     # HTTPError if it is not valid
    outputs = await sampler.run(ask, call)                      # {"pixels": (8, 28, 28, 1) uint8}

A dialect translates its own words into an Ask and the outputs into its own answer, no more. Its
errors are HTTPErrors with a stable code, which it may put into another shape.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from serve.access.gate import Gate, RawHeaders
from serve.ask import Ask, check_label, check_settings
from serve.batching import (
    Arrays,
    Batcher,
    ClosedError,
    DeadlineError,
    Job,
    OverloadedError,
    TooLateError,
)
from serve.call import Call, deadline_s
from serve.fair import Until
from serve.hosting import Hosted, Models
from serve.http import HUNG_UP, Headers, HTTPError, Response, Stream, Watch, request_id
from serve.lane import LocalLane, SignatureLane
from serve.metrics import KeyMetrics, Metrics
from serve.remote import RemoteLane, UnavailableError
from serve.settings import MAX_SEED, Limits
from serve.slow import Patience
from serve.telling import Came, Hear, told

ENCODE_INLINE_VALUES = 1 << 15
"""Answers of fewer values are encoded on the event loop; a thread would cost more than it frees."""

COPY_INLINE_VALUES = 1 << 20
"""The same where encoding is no more than copying."""

WATCH_AFTER_S = 0.05
"""A client that has waited so long is watched, and its samples are dropped when it hangs up. Few
wait so long, and to watch all from the start would cost a twentieth of a small request."""

T = TypeVar("T")

RETRY_SOON = (b"retry-after", b"1")

Answer = TypeVar("Answer")


class Sampler:
    """The models of one replica, its batcher and its limits."""

    def __init__(
        self,
        *,
        models: Callable[[], Models | None],
        batcher: Batcher,
        metrics: Metrics,
        limits: Limits,
        replica: str,
        gate: Gate | None = None,
    ) -> None:
        self.limits = limits
        self._models = models
        self._batcher = batcher
        self._metrics = metrics
        self._replica = replica.encode()
        self._gate = gate or Gate()
        self._patience = Patience(limits.max_body_seconds)
        self._encoder_thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    def admit(self, headers: RawHeaders) -> None:
        """Let in who has a key, whatever it is for, to look around. Raises HTTPError 401."""
        self._gate.admit(headers)

    def hosted(self) -> Models:
        """What is hosted now. Raises HTTPError 503 while nothing is."""
        models = self._models()
        if models is None:
            message = "the models are being loaded; try again"
            raise HTTPError(503, "not_ready", message, [RETRY_SOON])
        return models

    def find(self, reference: str) -> Hosted:
        """The artifact called `name@version`, or the newest called `name`. Raises HTTPError 404."""
        models = self.hosted()
        hosted = models.find(reference)
        if hosted is None:
            message = f"unknown model {reference[:100]!r}; hosted are: {models.known()}"
            raise HTTPError(404, "unknown_model", message, param="model")
        return hosted

    def lane(self, model: str, signature: str) -> SignatureLane:
        """One signature of one artifact. Raises HTTPError 404."""
        hosted = self.find(model)
        lane = hosted.lanes.get(signature)
        if lane is None:
            raise HTTPError(
                404,
                "unknown_signature",
                f"{hosted.id} has no signature {signature[:100]!r}, it has:"
                f" {', '.join(hosted.lanes)}",
                param="signature",
            )
        return lane

    def ask(
        self,
        *,
        model: str,
        signature: str = "sample",
        n: int = 1,
        seed: int | None = None,
        first_index: int = 0,
        label: int | list[int] | None = None,
        settings: Mapping[str, float] | None = None,
        given: bool = False,
    ) -> Ask:
        """What is to be done. Raises HTTPError 400 or 404 with a stable code.

        `given`: what a seed cannot give will come along, to infer().
        """
        lane = self.lane(model, signature)
        if not lane.spec.drawable and not given:
            needs = ", ".join(spec.name for spec in lane.spec.inputs if not spec.drawn)
            raise HTTPError(
                400,
                "signature_needs_input",
                f"signature {signature!r} of {lane.artifact.id} needs {needs}, which a seed cannot"
                " give",
                param="signature",
            )
        self.check_n(n, lane)
        drawn = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
        if not 0 <= drawn <= MAX_SEED:
            message = f"seed must be in [0, 2^53), got {drawn}"
            raise HTTPError(400, "seed_out_of_range", message, param="seed")
        if not 0 <= first_index <= MAX_SEED - n:
            raise HTTPError(
                400,
                "first_index_out_of_range",
                f"first_index must be in [0, 2^53 - n), got {first_index}",
                param="first_index",
            )
        check_label(label, n, lane)
        check_settings(settings or {}, lane)
        return Ask(
            lane=lane,
            n=n,
            seed=drawn,
            first_index=first_index,
            label=label,
            settings=settings or {},
        )

    def most(self, lane: SignatureLane) -> int:
        """How many samples of a lane may be asked for at once."""
        limits = lane.limits or self.limits
        return min(limits.max_n, max(1, limits.max_values // lane.values_per_sample))

    def check_n(self, n: int, lane: SignatureLane) -> None:
        """Raise HTTPError 400 unless `n` samples of a lane may be asked for at once."""
        most = self.most(lane)
        if not 1 <= n <= most:
            raise HTTPError(
                400,
                "n_out_of_range",
                f"n must be in [1, {most}] for {lane.artifact.id}, got {n}; ask several times with"
                " the same seed and the next first_index",
                param="n",
            )

    async def run(self, ask: Ask, call: Call) -> Arrays:
        """Outputs by name, (n, ...), images as uint8 pixels. Raises HTTPError 429 or 503."""
        lane, samples = ask.lane, ask.samples
        if isinstance(lane, RemoteLane):
            remote = partial(lane.sample, **samples, deadline_s=call.deadline_s)
            return await self._paid(ask.n, lane, call, remote)
        job = _local(lane).job(**samples, deadline_s=call.deadline_s)
        return await self._paid(ask.n, lane, call, partial(self._submit, job))

    async def run_parts(self, parts: Sequence[Ask], call: Call) -> AsyncGenerator[Arrays, None]:
        """The outputs of one ask after the other, each run while the one before is sent.

        Who asks pays for all of them before. Raises HTTPError 503.
        """
        running = asyncio.create_task(self.run(parts[0], call))
        try:
            for following in (*parts[1:], None):
                outputs = await running
                if following is not None:
                    running = asyncio.create_task(self.run(following, call))
                yield outputs
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def stream(self, ask: Ask, call: Call) -> AsyncGenerator[Came, None]:
        """run(), told of while it goes on: what comes of each sample, a part or all of it.

        Closing this drops what is still to be done. Raises HTTPError 429 or 503.
        """
        lane, samples = ask.lane, ask.samples

        async def work(hear: Hear) -> None:
            if isinstance(lane, RemoteLane):
                remote = partial(lane.sample, **samples, deadline_s=call.deadline_s, hear=hear)
                await self._paid(ask.n, lane, call, remote)
                return
            job = _local(lane).job(**samples, deadline_s=call.deadline_s)
            job.hear = hear
            await self._paid(ask.n, lane, call, partial(self._submit, job))

        return told(work)

    async def infer(
        self,
        lane: SignatureLane,
        inputs: Mapping[str, NDArray[Any]],
        call: Call,
        until: Until | None = None,
    ) -> Arrays:
        """Run a signature on inputs that share a batch axis; `until` ends samples early that go by
        steps. Raises HTTPError 429 or 503."""
        n = len(next(iter(inputs.values())))
        if isinstance(lane, RemoteLane):
            remote = partial(lane.infer, inputs, n, call.deadline_s, until)
            return await self._paid(n, lane, call, remote)

        def draw(start: int, stop: int) -> Arrays:
            return {name: array[start:stop] for name, array in inputs.items()}

        job = Job(lane=_local(lane), n=n, draw=draw, until=until, deadline_s=call.deadline_s)
        return await self._paid(n, lane, call, partial(self._submit, job))

    async def _submit(self, job: Job) -> Arrays:
        """To this replica's own batcher."""
        return await self._batcher.submit(job)

    async def _paid(
        self, n: int, lane: SignatureLane, call: Call, work: Callable[[], Awaitable[Arrays]]
    ) -> Arrays:
        """What comes of work for `n` samples, which are paid for first; refused, they are free."""
        await self.pay(n, lane, call)
        watch = Watch(call.receive, WATCH_AFTER_S) if call.receive is not None else None
        try:
            outputs = await work()
            call.visit.drew = True
            self._of_key(call).samples.inc(n)
            return outputs
        except OverloadedError as error:
            call.visit.refund()
            late = isinstance(error, TooLateError)
            lane.metrics.shed(n, "deadline" if late else "overloaded")
            retry = (b"retry-after", b"%d" % error.retry_after_s)
            raise HTTPError(503, "overloaded", f"{error}", [retry]) from None
        except DeadlineError as error:
            call.visit.refund()
            lane.metrics.shed(n, "deadline")
            raise HTTPError(504, "deadline_exceeded", f"{error}") from None
        except ClosedError:
            call.visit.refund()
            lane.metrics.shed(n, "shutting_down")
            message = "this replica shuts down; try again"
            raise HTTPError(503, "shutting_down", message, [RETRY_SOON]) from None
        except UnavailableError as error:
            call.visit.refund()
            lane.metrics.shed(n, "overloaded")
            raise HTTPError(503, "pool_unavailable", f"{error}", [RETRY_SOON]) from None
        except asyncio.CancelledError:
            if watch is None or not watch.has_cancelled():
                raise
            raise HTTPError(HUNG_UP, "hung_up", "the client hung up") from None
        finally:
            if watch is not None:
                watch.stop()

    async def pay(self, n: int, lane: SignatureLane, call: Call) -> None:
        """Take `n` samples from the key's budget, once for a request. Raises HTTPError 400 or 429.

        run() and infer() do it by themselves; who submits in parts pays for all of them before.
        """
        call.num_samples = call.num_samples or n
        try:
            await call.visit.pay(n)
        except HTTPError as error:
            if error.status == 429:
                lane.metrics.shed(n, "budget")
                self._of_key(call).refused.inc(n)
            raise

    async def read(
        self, n: int, lane: SignatureLane, call: Call, values: int, reading: Callable[[], T]
    ) -> T:
        """encoded(), of what is given for `n` samples: who may draw no more has nothing read.

        Paid for first, and given back when it is refused. Raises HTTPError 400 or 429.
        """
        await self.pay(n, lane, call)
        try:
            return await self.encoded(values, reading)
        except HTTPError:
            call.visit.refund()
            raise

    def _of_key(self, call: Call) -> KeyMetrics:
        key = call.visit.key
        return self._metrics.key("" if key is None else key.name)

    async def encoded(
        self, values: int, encode: Callable[[], T], inline: int = ENCODE_INLINE_VALUES
    ) -> T:
        """What `encode` makes of so many values: in a thread if there are `inline` or more."""
        if values < inline:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self._encoder_thread, encode)

    def signed(self, ask: Ask) -> Headers:
        """Headers that say where the samples come from."""
        if not ask.seeded:
            return self.model_headers(ask.lane)
        return [
            *self.model_headers(ask.lane),
            (b"x-aigc-seed", b"%d" % ask.seed),
            (b"x-aigc-first-index", b"%d" % ask.first_index),
        ]

    def model_headers(self, lane: SignatureLane) -> Headers:
        """Headers that say which model answered, and where."""
        manifest = lane.artifact.manifest
        return [
            (b"x-aigc-model", manifest.id.encode()),
            (b"x-aigc-digest", manifest.digest.encode()),
            (b"x-aigc-reproducibility", lane.level.encode()),
            (b"x-aigc-replica", lane.replica.encode() if lane.replica else self._replica),
        ]

    async def counted(
        self, api: str, headers: RawHeaders, work: Callable[[Call], Awaitable[Answer]]
    ) -> Answer:
        """The answer of `work` to whom may draw samples, counted, whatever happens.

        An answer that is no HTTP response counts as 200, an HTTPError as its own status; a Stream
        is counted when it has ended.
        """
        started = time.perf_counter()
        call = Call(self._metrics.unknown, self._patience)
        code, first_s, num_bytes = HUNG_UP, None, 0
        self._metrics.in_progress.inc()

        def ended(code: int, num_bytes: int) -> None:
            call.visit.leave()
            self._metrics.in_progress.dec()
            seconds = time.perf_counter() - started
            call.metrics.answered(api, code, seconds, first_s=first_s, num_bytes=num_bytes)

        streams = False
        try:
            call.visit = self._gate.enter(headers, "sample")
            call.deadline_s = deadline_s(headers)
            answer = await work(call)
            first_s = time.perf_counter() - started
            if not isinstance(answer, Response):
                code, num_bytes = 200, call.num_bytes
                return answer
            code, num_bytes = answer.status, len(answer.body)
            if budget := call.visit.headers():
                answer = replace(answer, headers=[*answer.headers, *budget])
            if isinstance(answer, Stream):
                streams = True
                return replace(answer, ended=ended, request_id=request_id(headers))
            return answer
        except HTTPError as error:
            code = error.status
            raise
        except Exception:
            code = 500
            raise
        finally:
            if not streams:
                ended(code, num_bytes)


def _local(lane: SignatureLane) -> LocalLane:
    """A lane that is not of another pool."""
    assert isinstance(lane, LocalLane)
    return lane
