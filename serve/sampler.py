"""The core that every protocol calls: validates requests, charges for them and runs them.

    runner = sampler.runner("digits", "sample")
    request = sampler.build_request(runner, n=8, seed=7, label=3)  # HTTPError if it is invalid
    outputs = await sampler.run(request, context)  # {"pixels": (8, 28, 28, 1) uint8}

A protocol translates its own words into a SamplingRequest and the outputs into its own response, no
more. Errors are HTTPErrors with a stable code, which it may put into another shape.
"""

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.axes import label as label_of
from aigc.artifact.sampling_inputs import Arrays
from serve.access.access_control import AccessControl, RawHeaders
from serve.access.api_keys import Key
from serve.access.in_flight import BytesInFlight
from serve.batching.jobs import Outcome
from serve.batching.one_ahead import one_ahead
from serve.batching.progress import Progress, ProgressCallback, stream_progress
from serve.errors import HTTPError
from serve.executor import FairExecutor, FullError
from serve.hosting.http_errors import as_http_errors
from serve.hosting.models import HostedModel, HostedModels
from serve.hosting.runner import SignatureRunner
from serve.http import (
    CLIENT_CLOSED_REQUEST,
    RETRY_SOON,
    DisconnectWatch,
    Headers,
    Response,
    Stream,
    request_id,
)
from serve.metrics import KeyMetrics, Metrics
from serve.request_body import BodyReader
from serve.request_context import RequestContext, deadline_s
from serve.sampling_params import Choices, SamplingParams, StoppingCriterion
from serve.sampling_request import (
    Label,
    SamplingRequest,
    check_label,
    check_settings,
    check_sizes,
    resolve_label,
)
from serve.settings import MAX_SEED, Limits
from serve.tiled_samples import num_bytes, run_chunks, submit_tiled

ENCODE_INLINE_VALUES = 1 << 15
"""Responses of fewer values are encoded on the event loop; a thread would cost more than it frees.
"""

COPY_INLINE_VALUES = 1 << 20
"""ENCODE_INLINE_VALUES where encoding is no more than copying."""

PARSE_INLINE_BYTES = 1 << 16
"""Requests of fewer bytes are parsed on the event loop."""

MAX_READING = 64
"""Most requests of one key that wait to be read in the thread; further ones get a 503."""

WATCH_AFTER_S = 0.05
"""Time after which a waiting request is watched for its client hanging up, which drops its samples.
Few requests take that long; watching every request would make small ones 5 % slower."""

ROUNDING = 1e-9
"""Excess over a whole number of samples that is an error of floats, and free."""

T = TypeVar("T")

Answer = TypeVar("Answer")


class Sampler:
    """The models and limits of one replica, for its protocols."""

    def __init__(
        self,
        *,
        models: Callable[[], HostedModels | None],
        metrics: Metrics,
        limits: Limits,
        replica: str,
        gate: AccessControl | None = None,
    ) -> None:
        self.limits = limits
        self._models = models
        self._metrics = metrics
        self._replica = replica.encode()
        self._gate = gate or AccessControl()
        self._body_reader = BodyReader(limits.max_body_seconds)
        self.in_flight = BytesInFlight(limits.inflight_bytes)
        self._executor = FairExecutor("encoder", MAX_READING)

    def admit(self, headers: RawHeaders) -> Key | None:
        """Authenticate only; a key of any scope may list models. Raises HTTPError 401."""
        return self._gate.authorize(headers)

    def hosted(self) -> HostedModels:
        """The models that are hosted now. Raises HTTPError 503 before there are any."""
        models = self._models()
        if models is None:
            message = "the models are being loaded; try again"
            raise HTTPError(503, "not_ready", message, [RETRY_SOON])
        return models

    def find(self, reference: str) -> HostedModel:
        """The artifact called `name@version`, or the newest called `name`. Raises HTTPError 404."""
        models = self.hosted()
        hosted = models.find(reference)
        if hosted is None:
            message = f"unknown model {reference[:100]!r}; hosted are: {models.known()}"
            raise HTTPError(404, "unknown_model", message, param="model")
        return hosted

    def runner(
        self, model: str, signature: str | None, *, has_inputs: bool = False
    ) -> SignatureRunner:
        """The runner of a signature of an artifact, by default the manifest's default_signature().

        Raises HTTPError 404.
        """
        hosted = self.find(model)
        if signature is None:
            signature = hosted.artifact.manifest.default_signature(has_inputs=has_inputs)
        runner = hosted.runners.get(signature)
        if runner is None:
            raise HTTPError(
                404,
                "unknown_signature",
                f"{hosted.id} has no signature {signature[:100]!r}, it has:"
                f" {', '.join(hosted.runners)}",
                param="signature",
            )
        return runner

    def build_request(
        self,
        runner: SignatureRunner,
        *,
        n: int = 1,
        seed: int | None = None,
        first_index: int = 0,
        label: Label = None,
        settings: Choices | None = None,
        sizes: Mapping[str, int] | None = None,
        prefix: NDArray[np.int64] | None = None,
        stopping_criterion: StoppingCriterion | None = None,
        has_inputs: bool = False,
        composed: str = "",
    ) -> SamplingRequest:
        """A validated request; a seed that is absent is drawn. Raises HTTPError 400.

        `sizes`: of free axes; the request's runner has them. `has_inputs`: infer() will get inputs
        that no seed can give. `composed`: signature that the caller named, where the artifact
        answers it by two of its own.
        """
        if not runner.spec.drawable and not has_inputs:
            needs = ", ".join(spec.name for spec in runner.spec.inputs if not spec.drawn)
            raise HTTPError(
                400,
                "signature_needs_input",
                f"signature {runner.name!r} of {runner.artifact.id} needs {needs}, which a seed"
                " cannot give",
                param="signature",
            )
        chosen = check_sizes(sizes or {}, runner)
        if has_inputs and runner.spec.axes:  # whose sizes count are not read yet
            self.check_n(n, runner.at(runner.spec.smallest))
        else:
            runner = runner.at(chosen)
            self.check_n(n, runner)
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
        classes = resolve_label(label, runner)
        check_label(classes, n, runner)
        check_settings(settings or {}, runner)
        # A seed that changes nothing is no part of the provenance: the inputs determine the file.
        seeded = not has_inputs or runner.spec.seeded
        return SamplingRequest(
            runner=runner,
            params=SamplingParams(
                n=n,
                seed=drawn if seeded else 0,
                first_index=first_index,
                label=classes,
                settings=settings or {},
                sizes=dict(sizes or {}) if has_inputs else chosen,
                prefix=prefix,
                stopping_criterion=stopping_criterion,
            ),
            seeded=seeded,
            composed=composed,
        )

    def max_n(self, runner: SignatureRunner) -> int:
        """Most samples of a runner in one request; 0 for samples of too many tiles or values."""
        limits = runner.limits or self.limits
        if runner.tiling is None:
            return min(limits.max_n, max(1, limits.max_values // runner.values_per_sample))
        values = max(runner.values_per_sample, runner.spec.num_values)
        return min(limits.max_n // len(runner.tiling), limits.max_values // values)

    def check_n(self, n: int, runner: SignatureRunner) -> None:
        """Raise HTTPError 400 unless one request may ask for `n` samples of a runner."""
        most = self.max_n(runner)
        if most < 1:
            limits = runner.limits or self.limits
            values = max(runner.values_per_sample, runner.spec.num_values)
            raise HTTPError(
                400,
                "size_out_of_range",
                f"a sample of this size has {runner.num_tiles:,} {runner.part_name}s and"
                f" {values:,} values; at most {limits.max_n:,} and {limits.max_values:,} are"
                " allowed",
                param="sizes",
            )
        if not 1 <= n <= most:
            raise HTTPError(
                400,
                "n_out_of_range",
                f"n must be in [1, {most}] for {runner.artifact.id}, got {n}; ask several times"
                " with the same seed and the next first_index",
                param="n",
            )

    async def run(self, request: SamplingRequest, context: RequestContext) -> Arrays:
        """Outputs by name, (n, ...), images as uint8 pixels. Raises HTTPError 429 or 503."""
        return await self._charge_and_run(request.runner, request.params, context)

    def run_parts(
        self, requests: Sequence[SamplingRequest], context: RequestContext
    ) -> AsyncGenerator[Arrays, None]:
        """The outputs of one request after the other, each run while the previous one is sent.

        The caller charges for all of them first. Raises HTTPError 503.
        """
        return one_ahead([partial(self.run, request, context) for request in requests])

    async def run_chunks(
        self, request: SamplingRequest, context: RequestContext, inputs: Arrays | None = None
    ) -> AsyncGenerator[Arrays, None]:
        """The outputs of one sample that is made of chunks, (1, ...), one after another.

        Each is run while the previous one is sent. `inputs`: of the sample, if they are given.
        Raises HTTPError 400, 429 or 503 before the first one; later ones wait for room in the
        queue.
        """
        runner = request.runner
        row = None if inputs is None else self._complete(runner, inputs)
        await self.charge_sizes([(1, runner)], context, whole=False)
        chunks = run_chunks(
            runner,
            request.params,
            partial(self.encode, context),
            partial(self._submit, runner, 1, context),
            inputs=row,
            deadline_s=context.deadline_s,
            request_id=context.request_id,
        )
        async with contextlib.aclosing(chunks):
            async for outputs in chunks:
                yield outputs
        self._key_metrics(context).samples.inc()

    def stream(
        self, request: SamplingRequest, context: RequestContext
    ) -> AsyncGenerator[Progress, None]:
        """run() with progress: outcomes of samples as they come, partial or complete.

        Closing this drops the samples that have not run. Raises HTTPError 429 or 503.
        """

        async def work(on_progress: ProgressCallback) -> None:
            def progressed(position: int, outcome: Outcome) -> None:
                context.access.keep()  # this part is sent, even if the rest comes too late
                on_progress(position, outcome)

            await self._charge_and_run(
                request.runner, request.params, context, on_progress=progressed
            )

        return stream_progress(work)

    async def infer(
        self,
        runner: SignatureRunner,
        inputs: Mapping[str, NDArray[Any]],
        context: RequestContext,
        stopping_criterion: StoppingCriterion | None = None,
    ) -> Arrays:
        """Run a signature on inputs that share a batch axis. Raises HTTPError 400, 429 or 503."""
        whole = self._complete(runner, inputs)
        n = len(next(iter(whole.values())))
        if runner.spec.axes:
            runner = runner.at(check_sizes({}, runner, whole))
            self.check_n(n, runner)
        params = SamplingParams(n=n, stopping_criterion=stopping_criterion)
        return await self._charge_and_run(runner, params, context, inputs=whole)

    def _complete(self, runner: SignatureRunner, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        try:
            return runner.complete(inputs)
        except ValueError as error:
            raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None

    async def _charge_and_run(
        self,
        runner: SignatureRunner,
        params: SamplingParams,
        context: RequestContext,
        *,
        inputs: Arrays | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Arrays:
        """Charge for the samples, then have the runner draw or infer them.

        A request that ends before any of its samples ran costs nothing: see track().
        """
        await self.charge(params.n, runner, context)
        submit = runner.submit
        if runner.tiling is not None:
            submit = partial(submit_tiled, runner, offload=partial(self.encode, context))
        work = partial(
            submit,
            params,
            inputs=inputs,
            deadline_s=context.deadline_s,
            request_id=context.request_id,
            on_progress=on_progress,
        )
        outputs = await self._submit(runner, params.n, context, work)
        self._key_metrics(context).samples.inc(params.n)
        return outputs

    async def _submit(
        self,
        runner: SignatureRunner,
        n: int,
        context: RequestContext,
        work: Callable[[], Awaitable[Arrays]],
    ) -> Arrays:
        """The outputs of `n` samples that are paid for; ends when the client hangs up."""
        watch = None
        if context.receive is not None:
            watch = DisconnectWatch(context.receive, WATCH_AFTER_S)
        try:
            with as_http_errors(runner, n):
                outputs = await work()
            context.access.keep()
            return outputs
        except asyncio.CancelledError:
            if watch is None or not watch.has_cancelled():
                raise
            raise HTTPError(CLIENT_CLOSED_REQUEST, "hung_up", "the client hung up") from None
        finally:
            if watch is not None:
                watch.stop()

    async def charge(self, n: int, runner: SignatureRunner | None, context: RequestContext) -> None:
        """charge_sizes() of `n` samples of one size; None for samples of no runner."""
        await self.charge_sizes([(n, runner)], context)

    async def charge_sizes(
        self,
        parts: Sequence[tuple[int, SignatureRunner | None]],
        context: RequestContext,
        *,
        whole: bool = True,
    ) -> None:
        """Charge the key so that `n` samples of each runner are paid, after hold_parts().

        A sample costs what its size does beside the default one, the tiles of which it is made
        included. Raises HTTPError 400, 429 or 503.

        run() and infer() charge for their own samples. A caller
        that runs a request in parts charges for all of them first; then the parts cost nothing
        more. Refunded if the request ends in an error before any sample ran.
        """
        context.num_samples = context.num_samples or sum(n for n, _ in parts)
        self.hold_parts(parts, context, whole=whole)
        cost = sum(n * (runner.cost if runner is not None else 1) for n, runner in parts)
        try:
            await context.access.pay(math.ceil(cost - ROUNDING))
        except HTTPError as error:
            if error.status == 429:
                for n, runner in parts:
                    if runner is not None:
                        runner.metrics.shed(n, "budget")
                    self._key_metrics(context).refused.inc(n)
            raise

    def hold_parts(
        self,
        parts: Sequence[tuple[int, SignatureRunner | None]],
        context: RequestContext,
        *,
        whole: bool = True,
    ) -> None:
        """Count the memory of `n` samples of each runner that are made of tiles or chunks.

        `whole`: False for no more than their inputs. Raises HTTPError 400, 429 or 503.
        """
        held = [(n, r, r.tiling.sizes) for n, r in parts if r is not None and r.tiling is not None]
        if held:
            sizes = "; ".join(f"{n} of {label_of(sizes)}" for n, _, sizes in held)
            total = sum(num_bytes(runner, n, whole) for n, runner, _ in held)
            made_of = held[0][1].part_name
            context.hold_parts(total, f"samples made of {made_of}s, {sizes[:200]},")

    async def read(
        self,
        n: int,
        runner: SignatureRunner | None,
        context: RequestContext,
        values: int,
        reading: Callable[[], T],
    ) -> T:
        """The result of `reading` the inputs of `n` samples; in a thread for many `values`.

        The samples are charged first, so nothing is read for a key without budget. Raises HTTPError
        400, 429, 503 or 504.
        """
        await self.charge(n, runner, context)
        if values < ENCODE_INLINE_VALUES:
            return reading()
        return await self._read_in_turn(context, reading)

    async def parse(
        self, context: RequestContext, body: bytes | memoryview, parsing: Callable[[], T]
    ) -> T:
        """The result of `parsing` a body; in a thread for a long one. Raises HTTPError."""
        if len(body) < PARSE_INLINE_BYTES:
            return parsing()
        return await self._read_in_turn(context, parsing)

    async def _read_in_turn(self, context: RequestContext, reading: Callable[[], T]) -> T:
        """Run in the thread, where keys take turns. Raises HTTPError 503 or 504."""
        left_s = None if context.deadline_s is None else context.deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await self._executor.run(context.key, reading)
        except FullError:
            message = f"{MAX_READING} requests of this key wait until they are read; try again"
            raise HTTPError(503, "overloaded", message, [RETRY_SOON]) from None
        except TimeoutError:
            message = "the deadline passed before the request was read"
            raise HTTPError(504, "deadline_exceeded", message) from None

    def _key_metrics(self, context: RequestContext) -> KeyMetrics:
        return self._metrics.key(context.key)

    async def encode(
        self,
        context: RequestContext,
        values: int,
        encoding: Callable[[], T],
        inline: int = ENCODE_INLINE_VALUES,
    ) -> T:
        """The result of `encoding` a number of values; in a thread for `inline` or more."""
        if values < inline:
            return encoding()
        return await self._executor.run(context.key, encoding, bounded=False)

    def provenance_headers(self, request: SamplingRequest) -> Headers:
        """Headers with the origin of samples: model_headers(), and seed and first index."""
        if not request.seeded:
            return self.model_headers(request.runner)
        return [
            *self.model_headers(request.runner),
            (b"x-aigc-seed", b"%d" % request.params.seed),
            (b"x-aigc-first-index", b"%d" % request.params.first_index),
        ]

    def model_headers(self, runner: SignatureRunner) -> Headers:
        """Headers with the model, its reproducibility, and the replica that ran it."""
        manifest = runner.artifact.manifest
        return [
            (b"x-aigc-model", manifest.id.encode()),
            (b"x-aigc-digest", manifest.digest.encode()),
            (b"x-aigc-reproducibility", runner.level.encode()),
            (b"x-aigc-replica", runner.replica.encode() if runner.replica else self._replica),
        ]

    async def track(
        self, api: str, headers: RawHeaders, work: Callable[[RequestContext], Awaitable[Answer]]
    ) -> Answer:
        """Run `work` for a caller who may draw samples; count the request and settle its charge.

        An answer that is no HTTP response counts as 200, an HTTPError as its own status; a Stream
        is counted when it ends. The charge stands if the request was answered, its client hung up,
        or any of its samples ran; else it is refunded.
        """
        started = time.perf_counter()
        context = RequestContext(
            self._metrics.unknown, self._body_reader, self.in_flight, request_id(headers)
        )
        code, first_s, num_bytes = CLIENT_CLOSED_REQUEST, None, 0  # if it is cancelled
        self._metrics.in_progress.inc()

        def ended(code: int, num_bytes: int) -> None:
            context.leave(answered=code < 400 or code == CLIENT_CLOSED_REQUEST)
            self._metrics.in_progress.dec()
            seconds = time.perf_counter() - started
            context.metrics.answered(api, code, seconds, first_s=first_s, num_bytes=num_bytes)

        streams = False
        try:
            context.access = self._gate.authenticate(headers, "sample")
            if context.access.limited:
                await self._take_slot(context)
            context.deadline_s = deadline_s(headers)
            answer = await work(context)
            first_s = time.perf_counter() - started
            if not isinstance(answer, Response):
                code, num_bytes = 200, context.num_bytes
                return answer
            code, num_bytes = answer.status, len(answer.body)
            if budget := context.access.headers():
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

    async def _take_slot(self, context: RequestContext) -> None:
        """Take one of the key's request slots, before anything is read. Raises HTTPError 429."""
        try:
            await context.access.take_slot()
        except HTTPError:
            self._key_metrics(context).refused.inc()
            raise
