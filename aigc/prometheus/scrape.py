"""HTTP server of metrics, in Prometheus' text format or OpenMetrics.

    server = listen("127.0.0.1", 9464, lambda encode: encode(registry))
    server.serve_forever()

It answers GET and HEAD of /metrics. Every response closes its connection. A connection is cut after
CONNECTION_S, and so is the oldest one beyond MAX_CONNECTIONS.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from aigc.display import netloc

Encode = Callable[[Collector], bytes]
"""Encodes metrics in one format."""

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

MAX_CONNECTIONS = 32
CONNECTION_S = 20.0
METHODS = "GET, HEAD"

log = logging.getLogger(__name__)


def negotiate(accept: str) -> tuple[Encode, str]:
    """Encoder for an Accept header, and its media type.

    OpenMetrics if it is named and no other type is preferred; text otherwise.
    """
    openmetrics = text = 0.0
    for item in accept.split(","):
        kind, *rest = (part.strip().lower() for part in item.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        try:
            q = float(parameters.get("q", "1"))
        except ValueError:
            continue
        if kind == "application/openmetrics-text":
            if parameters.get("version", "1.0.0") == "1.0.0":
                openmetrics = max(openmetrics, q)
        elif kind in ("text/plain", "text/*", "*/*"):
            text = max(text, q)
    if openmetrics > 0 and openmetrics >= text:
        return generate_openmetrics, OPENMETRICS
    return generate_latest, TEXT


def listen(host: str, port: int, render: Callable[[Encode], bytes]) -> "Server":
    """Server of the bytes that `render` returns, for serve_forever(). Raises OSError."""
    return Server(host.strip("[]"), port, render)


class Server(ThreadingHTTPServer):
    """HTTP server with a thread per connection and a time limit for each."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, render: Callable[[Encode], bytes]) -> None:
        self.render = render
        self.rendering = threading.Lock()
        self._opened: dict[Any, float] = {}
        """Time (s) when each open connection is cut, oldest connection first; inf if it was."""
        self._changing = threading.Lock()
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = infos[0][0]
        super().__init__((host, port), _Scrape)

    def server_bind(self) -> None:
        """Bind without looking up this machine's name."""
        if self.address_family == socket.AF_INET6:
            with suppress(OSError):  # `::` means every address of the machine, IPv4 too
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{netloc(str(host), port)}/metrics"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changing:
            whole = [one for one, due_s in self._opened.items() if due_s < math.inf]
            if len(whole) >= MAX_CONNECTIONS:
                self._cut(whole[0])
            room = len(self._opened) < 2 * MAX_CONNECTIONS  # a cut one may still be rendering
            if room:
                self._opened[request] = time.monotonic() + CONNECTION_S
        if room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Cut connections that take too long; called twice a second."""
        now_s = time.monotonic()
        with self._changing:
            for request in [one for one, due_s in self._opened.items() if due_s <= now_s]:
                self._cut(request)

    def _cut(self, request: Any) -> None:
        self._opened[request] = math.inf
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """Number of connections that are open or being answered."""
        with self._changing:
            return len(self._opened)

    def is_open(self, request: Any) -> bool:
        """True if a connection has not been cut."""
        with self._changing:
            return self._opened.get(request, math.inf) < math.inf

    def shutdown_request(self, request: Any) -> None:
        with self._changing:
            self._opened.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log at DEBUG only: clients go away at any time."""
        log.debug("a connection ended early", exc_info=True)


class _Scrape(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "aigc"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        if not self._found():
            return
        encode, kind = negotiate(self.headers.get("accept", ""))
        try:
            with self.server.rendering:
                if not self.server.is_open(self.connection):
                    return
                body = self.server.render(encode)
        except Exception as error:  # the next scrape is answered, whatever is in the folder
            log.exception("the metrics cannot be read")
            status = 503 if isinstance(error, TimeoutError) else 500
            reason = f"{type(error).__name__}; this process's log says more"
            self._answer(status, f"the metrics cannot be read: {reason}")
            return
        self._send(200, body, {"Content-Type": kind, "Vary": "Accept"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _found(self) -> bool:
        try:
            path = urlsplit(self.path).path
        except ValueError:
            path = ""
        if path != "/metrics":
            self._answer(404, "there is only /metrics here")
        return path == "/metrics"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer requests that http.server refuses by itself."""
        if code != HTTPStatus.NOT_IMPLEMENTED:
            self._answer(code, message or HTTPStatus(code).phrase)
        elif self._found():
            self._answer(405, f"/metrics takes {METHODS}, got {self.command}", Allow=METHODS)

    def _answer(self, status: int, sentence: str, **headers: str) -> None:
        kind = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
        self._send(status, f"{sentence}\n".encode("utf-8", "backslashreplace"), kind | headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log no scrapes."""
