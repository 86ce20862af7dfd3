"""OpenTelemetry spans of requests, and that there is nothing of it where nobody asks for it."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve import tracing
from serve.cli import prepare
from serve.options import ServeConfig
from serve.settings import Limits, Settings
from tests.ports import free_port
from tests.serve.client import Client, serving
from tests.serve.listening import Gate, Listening, listening, settled

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of replicas go."""
    memory = InMemorySpanExporter()

    def provider() -> TracerProvider:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        return provider

    monkeypatch.setattr(tracing, "open_provider", provider)
    return memory


@pytest.fixture
def traced(store: Path, metrics_dir: Path, memory: InMemorySpanExporter) -> Iterator[Listening]:
    settings = Settings(
        metrics_dir=str(metrics_dir), tracing=True, limits=Limits(max_batch=4, max_n=100)
    )
    with listening(settings, f"{store}/tiny@1") as served:
        yield served


def ask(served: Listening, traceparent: str = "", **fields: Any) -> httpx.Response:
    headers = {"x-request-id": "order-66"}
    if traceparent:
        headers["traceparent"] = traceparent
    body = {"model": "tiny", "n": 3, "seed": 7, **fields}
    return httpx.post(f"{served.url}/v1/samples", json=body, headers=headers)


def request_of(memory: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The one request that there was, and its children in the order of their beginning."""
    settled(lambda: any(span.name.startswith("aigc ") for span in memory.get_finished_spans()))
    spans = sorted(memory.get_finished_spans(), key=lambda span: span.start_time or 0)
    (request,) = [span for span in spans if span.name.startswith("aigc ")]
    return request, [span for span in spans if span is not request]


@pytest.mark.parametrize("form", ["json", "npy"])
def test_a_request_span_has_spans_for_queue_run_and_encode(
    form: str, traced: Listening, memory: InMemorySpanExporter
) -> None:
    assert ask(traced, f"00-{TRACE}-{PARENT}-01", format=form).status_code == 200
    request, children = request_of(memory)
    assert request.attributes == {
        "aigc.api": "native",
        "aigc.request_id": "order-66",
        "aigc.model": "tiny",
        "aigc.version": "1",
        "aigc.signature": "sample",
        "aigc.n": 3,
        "http.response.status_code": 200,
    }
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert [span.name for span in children] == ["queue", "run", "encode"]
    begins = [span.start_time or 0 for span in (request, *children)]
    ends = [span.end_time or 0 for span in (*children, request)]
    slack_ns = 1_000_000  # two clocks, one of which may be set
    assert all(a <= b + slack_ns for a, b in pairwise(begins))
    assert all(a <= b + slack_ns for a, b in pairwise(ends))
    for span in (request, *children):
        assert f"{span.context.trace_id:032x}" == TRACE
    for span in children:
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id


def test_requests_without_a_trace_begin_one_and_unsampled_ones_leave_none(
    traced: Listening, memory: InMemorySpanExporter
) -> None:
    assert ask(traced, f"00-{TRACE}-{PARENT}-00").status_code == 200
    assert ask(traced, "nonsense").status_code == 200
    request, _ = request_of(memory)
    assert request.parent is None


def test_a_stream_is_one_request_until_its_last_line(
    traced: Listening, memory: InMemorySpanExporter
) -> None:
    answer = ask(traced, n=10, format="ndjson")
    assert len(answer.text.splitlines()) == 10
    request, children = request_of(memory)
    assert (request.attributes or {})["aigc.n"] == 10
    for name in ("queue", "run", "encode"):
        parts = [span for span in children if span.name == name]
        assert len(parts) == 3
        parents = {span.parent.span_id if span.parent else None for span in parts}
        assert parents == {request.context.span_id}


def test_a_hang_up_ends_the_request_span_with_499(
    traced: Listening, memory: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(traced.probe)
    gate.free = 1
    body = {"model": "tiny", "n": 40, "format": "ndjson"}
    with httpx.stream("POST", f"{traced.url}/v1/samples", json=body) as answer:
        lines = answer.iter_lines()  # kept: letting go of it hangs up
        next(lines)
        settled(lambda: gate.runs == 2)
    gate.open.set()
    request, _ = request_of(memory)
    assert (request.attributes or {})["http.response.status_code"] == 499
    assert caplog.records == []


@pytest.mark.parametrize(
    ("fields", "code", "model"), [({"label": 12}, 400, ""), ({"model": "none"}, 404, "")]
)
def test_a_refusal_is_a_span_with_its_status(
    fields: Any, code: int, model: str, traced: Listening, memory: InMemorySpanExporter
) -> None:
    assert ask(traced, **fields).status_code == code
    request, children = request_of(memory)
    attributes = request.attributes or {}
    assert (attributes["http.response.status_code"], attributes["aigc.model"]) == (code, model)
    assert request.status.is_unset
    assert children == []


def test_a_failure_is_an_error_span_without_its_stack(
    traced: Listening, memory: InMemorySpanExporter
) -> None:
    Gate(traced.probe).fails_at = 1
    assert ask(traced).status_code == 500
    request, _ = request_of(memory)
    assert not request.status.is_ok
    assert not request.events


@pytest.mark.parametrize(
    ("path", "api", "body"),
    [
        ("/v1/images/generations", "openai", {"model": "tiny", "prompt": ""}),
        ("/v2/models/tiny/infer", "oip", {"inputs": [], "parameters": {"n": 1}}),
    ],
)
def test_every_protocol_is_traced(
    path: str, api: str, body: Any, traced: Listening, memory: InMemorySpanExporter
) -> None:
    assert httpx.post(f"{traced.url}{path}", json=body).status_code == 200
    request, children = request_of(memory)
    assert request.name == f"aigc {api}"
    assert [span.name for span in children] == ["queue", "run", "encode"]


def test_requests_that_share_a_batch_keep_their_own_traces(
    store: Path, metrics_dir: Path, memory: InMemorySpanExporter
) -> None:
    async def crowd(client: Client) -> None:
        body = {"model": "tiny", "n": 1, "format": "npy"}
        posts = [
            client.http.post("/v1/samples", json=body, headers={"traceparent": parent})
            for parent in (f"00-{i:032x}-{i:016x}-01" for i in range(1, 9))
        ]
        assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}

    with serving(Settings(metrics_dir=str(metrics_dir), tracing=True), f"{store}/tiny@1") as client:
        client.run(crowd(client))
    spans = memory.get_finished_spans()
    for i in range(1, 9):
        assert sorted(s.name for s in spans if s.context.trace_id == i) == [
            "aigc native",
            "encode",
            "queue",
            "run",
        ]


def test_opentelemetry_is_not_imported_without_tracing() -> None:
    code = (
        "import sys, serve.ingress, serve.cli;"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')], sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_tracer_is_opened_without_tracing(
    store: Path, metrics_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "open_provider", lambda: pytest.fail("tracing was opened"))
    monkeypatch.setattr(tracing, "TracedSampler", lambda *_, **__: pytest.fail("it was traced"))
    with serving(Settings(metrics_dir=str(metrics_dir)), f"{store}/tiny@1") as client:
        assert client.samples().status_code == 200


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_start_without_the_package_says_what_to_install(
    by_flag: bool, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    if not by_flag:
        monkeypatch.setenv("AIGC_TRACING", "1")
    config = ServeConfig(artifacts=(f"{store}/tiny@1",), port=free_port(), tracing=by_flag)
    with pytest.raises(ValueError, match=r"pip install 'aigc\[tracing\]'"):
        prepare(config)


def test_the_tracing_variable_must_be_a_boolean(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIGC_TRACING", "yes")
    config = ServeConfig(artifacts=(f"{store}/tiny@1",), port=free_port())
    with pytest.raises(ValueError, match="AIGC_TRACING must be 0 or 1, got 'yes'"):
        prepare(config)


def test_spans_arrive_at_a_collector(
    store: Path, metrics_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(EXPORTER)
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    bodies: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "faces")
        settings = Settings(metrics_dir=str(metrics_dir), tracing=True)
        with listening(settings, f"{store}/tiny@1") as served:
            assert ask(served).status_code == 200
        settled(lambda: len(bodies) > 0)  # closing sends what is left
        collector.shutdown()
    assert bodies[0][0] == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(bodies[0][1]).resource_spans
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {"aigc native", "queue", "run", "encode"}
    said = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert said["service.name"] == "faces"
