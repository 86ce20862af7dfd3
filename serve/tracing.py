"""Spans of requests for OpenTelemetry: request, and in it queue, run and encode.

    sampler = TracedSampler(open_provider(), models=..., ...)      # where a Sampler would be

Where they go, and how many are sampled, is said by OpenTelemetry's own variables, such as
OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER. Nothing here is imported unless it is wanted.
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

from serve.access.gate import RawHeaders
from serve.batching import Arrays, Job
from serve.call import Call
from serve.http import HUNG_UP, HTTPError, Response, Stream, request_id
from serve.sampling import ENCODE_INLINE_VALUES, Answer, Sampler, T

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
    """Spans leave this process in a thread of its own, every few seconds. Raises ValueError."""
    said = OTELResourceDetector().detect()
    resource = Resource.create({"service.name": "aigc"} | dict(said.attributes))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider


class TracedSampler(Sampler):
    """A Sampler that tells of every request.

    The span of a request has the client's traceparent as its parent, and the attributes aigc.api,
    .request_id, .model, .version, .signature, .n and http.response.status_code. queue ends with the
    first batch, run with the last; a stream has both once per part.
    """

    def __init__(self, provider: TracerProvider, **parts: Any) -> None:
        super().__init__(**parts)
        self._tracer = provider.get_tracer("aigc.serve")
        self._propagator = TraceContextTextMapPropagator()

    async def counted(
        self, api: str, headers: RawHeaders, work: Callable[[Call], Awaitable[Answer]]
    ) -> Answer:
        given = {k.decode(): v.decode("latin-1") for k, v in headers if k in PARENT}
        span = self._tracer.start_span(
            f"aigc {api}",
            context=self._propagator.extract(given),
            kind=SpanKind.SERVER,
            attributes={"aigc.api": api, "aigc.request_id": request_id(headers)},
        )
        seen: list[Call] = []

        def ended(code: int) -> None:
            for call in seen:
                span.set_attributes({f"aigc.{k}": v for k, v in call.metrics.labels.items()})
                span.set_attribute("aigc.n", call.num_samples)
            span.set_attribute("http.response.status_code", code)
            if code >= 500:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        async def watched(call: Call) -> Answer:
            seen.append(call)
            return await work(call)

        try:
            with _inside(span):
                answer = await super().counted(api, headers, watched)
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

    async def _submit(self, job: Job) -> Arrays:
        try:
            return await super()._submit(job)
        finally:
            if job.queued_at_s:  # else the queue had no room for it
                ended_s = time.monotonic()
                waited_s = job.waited_s
                ran_s = ended_s if waited_s is None else job.queued_at_s + waited_s
                self._past("queue", job, job.queued_at_s, ran_s)
                if waited_s is not None:
                    self._past("run", job, ran_s, ended_s)

    def _past(self, name: str, job: Job, start_s: float, end_s: float) -> None:
        """A span between two times of the monotonic clock."""
        since_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            name, start_time=since_ns + int(start_s * 1e9), attributes={"aigc.n": job.n}
        )
        span.end(since_ns + int(end_s * 1e9))

    async def encoded(
        self, values: int, encode: Callable[[], T], inline: int = ENCODE_INLINE_VALUES
    ) -> T:
        with self._tracer.start_as_current_span("encode"):
            return await super().encoded(values, encode, inline)


def _inside(span: Span) -> Any:
    """Spans that begin in this context are its children. What is raised is not written into it."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


async def _chunks(span: Span, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks, each made inside the span: the task that asks for them is not the request's."""
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
    return HUNG_UP if isinstance(error, asyncio.CancelledError) else 500
