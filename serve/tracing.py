"""OpenTelemetry spans of requests: the request, and in it queue, run and encode.

    sampler = TracedSampler(open_provider(), batcher, models=..., ...)     # in place of a Sampler

OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER, say
where spans go and how many are sampled. This module is imported only if tracing is on.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve.access.access_control import RawHeaders
from serve.batching.batcher import Batcher
from serve.batching.jobs import Job
from serve.errors import HTTPError
from serve.http import CLIENT_CLOSED_REQUEST, Response, Stream, request_id
from serve.request_context import RequestContext
from serve.sampler import ENCODE_INLINE_VALUES, Answer, Sampler, T

PARENT = (b"traceparent", b"tracestate")


def exporter() -> Any:
    """The exporter, which reads its settings from OTEL_*. Raises ValueError if it is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ValueError(
            "tracing needs opentelemetry-exporter-otlp-proto-http, which is not installed;"
            " pip install 'aigc[tracing]', or leave tracing off"
        ) from None
    return OTLPSpanExporter()


def open_provider() -> TracerProvider:
    """A provider that sends spans every few seconds, in its own thread. Raises ValueError."""
    detected = OTELResourceDetector().detect()
    resource = Resource.create({"service.name": "aigc"} | dict(detected.attributes))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider


class TracedSampler(Sampler):
    """A Sampler with a span for every request.

    The span of a request has the client's traceparent as its parent, and the attributes aigc.api,
    .request_id, .model, .version, .signature, .n and http.response.status_code. queue ends with the
    first batch, run with the last; a stream has both once per part.
    """

    def __init__(self, provider: TracerProvider, batcher: Batcher, **options: Any) -> None:
        super().__init__(**options)
        batcher.observe_job = self._trace_job
        self._tracer = provider.get_tracer("aigc.serve")
        self._propagator = TraceContextTextMapPropagator()

    async def track(
        self, api: str, headers: RawHeaders, work: Callable[[RequestContext], Awaitable[Answer]]
    ) -> Answer:
        parent = {k.decode(): v.decode("latin-1") for k, v in headers if k in PARENT}
        span = self._tracer.start_span(
            f"aigc {api}",
            context=self._propagator.extract(parent),
            kind=SpanKind.SERVER,
            attributes={"aigc.api": api, "aigc.request_id": request_id(headers)},
        )
        contexts: list[RequestContext] = []

        def ended(code: int) -> None:
            for context in contexts:
                span.set_attributes({f"aigc.{k}": v for k, v in context.metrics.labels.items()})
                span.set_attribute("aigc.n", context.num_samples)
            span.set_attribute("http.response.status_code", code)
            if code >= 500:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        async def traced(context: RequestContext) -> Answer:
            contexts.append(context)
            return await work(context)

        try:
            with _inside(span):
                answer = await super().track(api, headers, traced)
        except BaseException as error:
            ended(_code(error))
            raise
        if isinstance(answer, Stream):
            count = answer.ended

            def stream_ended(code: int, num_bytes: int) -> None:
                count(code, num_bytes)
                ended(code)

            return replace(answer, chunks=_chunks(span, answer.chunks), ended=stream_ended)
        ended(answer.status if isinstance(answer, Response) else 200)
        return answer

    def _trace_job(self, job: Job) -> None:
        """Add the spans queue and run of a job that is over."""
        if not job.queued_at_s:  # the queue had no room for it
            return
        ended_s = time.monotonic()
        waited_s = job.waited_s
        ran_s = ended_s if waited_s is None else job.queued_at_s + waited_s
        self._add_span("queue", job, job.queued_at_s, ran_s)
        if waited_s is not None:
            self._add_span("run", job, ran_s, ended_s)

    def _add_span(self, name: str, job: Job, start_s: float, end_s: float) -> None:
        """Add a span between two monotonic times."""
        since_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            name, start_time=since_ns + int(start_s * 1e9), attributes={"aigc.n": job.n}
        )
        span.end(since_ns + int(end_s * 1e9))

    async def encode(
        self,
        context: RequestContext,
        values: int,
        encoding: Callable[[], T],
        inline: int = ENCODE_INLINE_VALUES,
    ) -> T:
        with self._tracer.start_as_current_span("encode"):
            return await super().encode(context, values, encoding, inline)


def _inside(span: Span) -> Any:
    """A context whose spans are children of `span`; exceptions are not recorded in it."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


async def _chunks(span: Span, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks, each produced inside the span: another task than the request's reads them."""
    try:
        while True:
            with _inside(span):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
            yield chunk
    finally:
        await chunks.aclose()


def _code(error: BaseException) -> int:
    if isinstance(error, HTTPError):
        return error.status
    return CLIENT_CLOSED_REQUEST if isinstance(error, asyncio.CancelledError) else 500
