"""The exporter's port over real sockets: methods, formats, errors, slow clients, IPv6."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

from aigc.prometheus import scrape
from aigc.prometheus.scrape import OPENMETRICS, TEXT, Encode, Server, listen

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


REGISTRY = CollectorRegistry()
Counter("things_total", "Things.", ["kind"], registry=REGISTRY).labels("a").inc(3)


def metrics(encode: Encode) -> bytes:
    return encode(REGISTRY)


@contextmanager
def serving(render: scrape.Callable[[Encode], bytes], host: str = "127.0.0.1") -> Iterator[Server]:
    with listen(host, 0, render) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(metrics) as server:
        yield server


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (PROMETHEUS, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", OPENMETRICS),
        ("Application/OpenMetrics-Text;Version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;q=0.1, text/plain", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;version=99.0.0", TEXT),
        ("application/openmetrics-text;version=1.0\x00", TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily", TEXT),
        ("text/plain;version=0.0.4;q=0.9,*/*;q=0.1", TEXT),
        ("*/*", TEXT),
        ("", TEXT),
        ("application/json", TEXT),
        (";;;,,q=,=;q=x", TEXT),
    ],
)
def test_preferred_format_is_chosen(accept: str, kind: str) -> None:
    encode, found = scrape.negotiate(accept)
    assert found == kind
    text = metrics(encode).decode()
    assert 'things_total{kind="a"} 3.0' in text
    assert text.endswith("# EOF\n") == (kind == OPENMETRICS)


def test_prometheus_and_curl_get_their_formats(server: Server) -> None:
    answer = httpx.get(server.url, headers={"accept": PROMETHEUS})
    assert answer.headers["content-type"] == OPENMETRICS
    assert [family.name for family in parse_openmetrics(answer.text)] == ["things"]
    plain = httpx.get(server.url)
    assert plain.headers["content-type"] == TEXT
    assert plain.headers["vary"] == "Accept"
    assert "# TYPE things_total counter" in plain.text


def test_head_is_get_without_body(server: Server) -> None:
    head, whole = httpx.head(server.url), httpx.get(server.url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_list_the_allowed_ones(method: str, server: Server) -> None:
    answer = httpx.request(method, server.url, content=b"x" * 1000)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.text == f"/metrics takes GET, HEAD, got {method}\n"
    missing = httpx.request(method, server.url + "x")
    assert (missing.status_code, missing.text) == (404, "there is only /metrics here\n")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        *(("/metrics?x=1", 200), ("http://somewhere/metrics", 200), ("/metrics#x", 200)),
        *(("/", 404), ("/metrics/", 404), ("//metrics", 200), ("/../metrics", 404), ("*", 404)),
        *(("http://[", 404), ("/%6detrics", 404)),
    ],
)
def test_only_one_path_exists(target: str, status: int, server: Server) -> None:
    with socket.create_connection(server.server_address[:2], timeout=10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.split()[1] == b"%d" % status


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"a b c d\r\n\r\n"]
)
def test_malformed_http_is_answered(garbage: bytes, server: Server) -> None:
    with socket.create_connection(server.server_address[:2], timeout=10) as client:
        client.sendall(garbage)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert b"400" in answer.split(b"\r\n")[0] or b"Bad request" in answer
    assert b"<html" not in answer.lower()


@pytest.mark.parametrize(("error", "status"), [(KeyError("x"), 500), (TimeoutError("x"), 503)])
def test_failed_render_is_an_answer(error: Exception, status: int) -> None:
    def fail(encode: Encode) -> bytes:
        raise error

    with serving(fail) as server:
        for method in ("GET", "HEAD"):
            answer = httpx.request(method, server.url)
            assert answer.status_code == status
        assert httpx.get(server.url).text.startswith("the metrics cannot be read: ")


@pytest.mark.process
def test_slow_clients_are_cut_and_hold_up_nobody(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "CONNECTION_S", 1.0)
    address = server.server_address[:2]
    slow = [socket.create_connection(address, timeout=30) for _ in range(200)]
    try:
        for client in slow:
            with suppress(OSError):
                client.sendall(b"GET /metrics HTTP/1.1\r\nx-slow: ")
        for _ in range(5):
            assert httpx.get(server.url, timeout=10).status_code == 200
        until = time.monotonic() + 10
        while server.connections and time.monotonic() < until:
            for client in slow:
                with suppress(OSError):
                    client.send(b"x")  # a byte now and then is no request
            time.sleep(0.05)
        assert not server.connections, "connections outlive their time"
    finally:
        for client in slow:
            client.close()


@pytest.mark.process
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_command_listens_on_ipv6(host: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "aigc.prometheus.exporter",
        "--dir",
        str(tmp_path),
        "--port",
        "0",
    ]
    process = subprocess.Popen([*command, "--host", host], stdout=subprocess.PIPE, text=True)
    with process:
        url = process.stdout.readline().strip()
        assert "[::" in url, url
        assert httpx.get(url).status_code == 200
        if host == "::":
            assert httpx.get(url.replace("[::]", "127.0.0.1")).status_code == 200
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.process
def test_hanging_renderer_is_reported_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigc.prometheus import exporter

    holder = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
    holder += "print(1, flush=True); time.sleep(60)"
    frozen = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "fold.lock")], stdout=subprocess.PIPE
    )
    with frozen:
        frozen.stdout.readline()
        with pytest.raises(TimeoutError, match="another process keeps its lock"):
            exporter.render(tmp_path)
        frozen.kill()
    assert exporter.render(tmp_path) == b""
