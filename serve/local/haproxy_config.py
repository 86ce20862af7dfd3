"""Edits of the HAProxy configuration that Ray generates: bounds, error bodies, private sockets.

Ray 2.60 binds HAProxy's statistics and metrics to all interfaces, opens its admin socket to every
user, logs a datagram per request, answers in plain text, and waits without bound for the head of a
request, for a frozen replica, and for its own proxy, which stands in while there is no replica.
"""

import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aigc.display import netloc
from serve.errors import Code

HEADER_S = 10
"""Longest that the head of a request may take to arrive, and a body that fits into HAProxy's buffer
with it; then HAProxy answers 408."""
CLIENT_S = 60
"""Longest that a client may be silent while it is to send or receive. More than the replicas give a
body (Limits.max_body_seconds), so that the error is theirs."""
KEEP_ALIVE_S = 60
"""Longest that an idle connection is kept open."""
SERVER_S = 600
"""Longest that a replica may be silent while it answers; health checks find frozen ones sooner."""
CONNECT_S = 2
"""Longest that connecting to a replica may take, for each of at most two attempts."""
CHECK_INTERVAL_S = 1
CHECK_S = 2.5
"""A replica that does not answer a health check within this time counts as frozen: its requests get
503, at most CHECK_INTERVAL_S + CHECK_S and one tick of the supervisor after it froze. A busy event
loop or processor delays an answer by less."""
HALF_CLOSED_S = 5
"""Time for which a response is still prepared after the client closed its sending side: it may wait
for the response, or be gone."""
FEW_CONNECTIONS = 1024
"""Connections at a time below which a warning is printed."""
LARGE_BYTES = 8000
"""Size from which a body may not fit into HAProxy's buffer."""
IDLE_SHARE = 4
"""One source may keep 1/IDLE_SHARE of the connections idle, all sources together twice that."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Error response of HAProxy's own. `message`: one sentence without quotes or backslashes."""

    status: int
    code: Code
    message: str


REPLICA_LOST = Failure(
    status=502,  # sent as 503: a gateway is an inner matter, and clients retry a 503
    code="replica_lost",
    message="the replica was lost before it answered; the request may have begun to run and was"
    " not repeated, so repeat it yourself: with the same seed the answer is the same",
)
FAILURES = (
    Failure(status=400, code="malformed_request", message="this is no valid HTTP request"),
    Failure(status=403, code="forbidden", message="the proxy refuses this request"),
    Failure(
        status=408,
        code="body_too_slow",
        message=f"head and body of a request must arrive within {HEADER_S} seconds",
    ),
    Failure(status=413, code="body_too_large", message="the request is too large for the proxy"),
    Failure(status=429, code="rate_limited", message="too many requests; try again in a second"),
    Failure(status=500, code="internal", message="the proxy failed on this request"),
    REPLICA_LOST,
    Failure(
        status=503,
        code="unavailable",
        message="no replica is there to answer; the request was not run; try again in a second",
    ),
    Failure(
        status=504,
        code="deadline_exceeded",
        message="no replica answered before the deadline of the request, or within"
        f" {SERVER_S} seconds",
    ),
)

REQUESTS = """\
unique-id-format %[uuid]
http-request set-header x-request-disconnect-disabled ?1
http-request set-header x-request-id %[unique-id] if !{ req.hdr(x-request-id) -m found }
http-request set-var(txn.request_id) req.hdr(x-request-id)
http-request set-var-fmt(txn.begin) '{"error":"' if { path /v2 } || { path_beg /v2/ }
http-request set-var-fmt(txn.end) '"}' if { var(txn.begin) -m found }
http-after-response set-header x-request-id %[var(txn.request_id)] if \
!{ res.hdr(x-request-id) -m found } { var(txn.request_id) -m found }
http-after-response set-header x-request-id %[unique-id] if !{ res.hdr(x-request-id) -m found }
http-after-response set-status 503 if { status 502 }"""
"""Rules for every request. Replicas watch for clients that hang up, at less cost than Ray does.
HAProxy adds missing request ids, so that its own responses have one too."""

DEADLINES = """\
http-request set-timeout server req.hdr(x-request-timeout),mul(1000),add(1000) \
if { req.hdr(x-request-timeout) -m reg ^[0-2]$ }
http-request set-timeout server req.hdr(x-request-timeout),field(1,.),mul(1000),add(1900) \
if { req.hdr(x-request-timeout) -m reg ^[0-2][.][0-9]+$ }"""
"""A deadline below CHECK_INTERVAL_S + CHECK_S may pass before a frozen replica is found, so it
bounds the wait for a response, with one more second for a run that began in time."""

RETRIES = """\
retry-on conn-failure
retries 1
option redispatch 1"""
"""Only a request that certainly did not begin to run goes to another replica, once."""

OBSERVED = "observe layer4 error-limit 1 on-error mark-down"
"""A replica that refuses one connection gets no others until it passes a check."""

DEFAULTS = f"""\
timeout http-request {HEADER_S}s
timeout http-keep-alive {KEEP_ALIVE_S}s
timeout connect {CONNECT_S}s
timeout queue {CONNECT_S}s
timeout server {SERVER_S}s
timeout check {CHECK_S * 1000:.0f}
option http-buffer-request
option http-ignore-probes"""
"""A connection that was opened ahead of need and never used is closed without a 408."""

CHECKS = (
    f"default-server inter {CHECK_INTERVAL_S}s fastinter 250ms downinter 250ms fall 1 rise 2 check"
)
KEPT = "-kept"
"""Suffix of the name of a second backend with the same servers."""


def allowed_connections() -> int:
    """Most connections that this process's limit of open files allows HAProxy.

    A connection needs a socket on either side and half a descriptor of the pipes between them.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (hard - 100) * 2 // 5) if hard != resource.RLIM_INFINITY else sys.maxsize


def edit(
    config: str,
    *,
    admin_socket: str,
    lost_socket: str,
    binds: Mapping[int, str],
    max_connections: int,
) -> str:
    """Ray's configuration with bounds, our error bodies and private sockets.

    `admin_socket`: HAProxy's admin socket, for its supervisor only.
    `lost_socket`: destination of requests whose replica was lost; the response says so.
    `binds`: address of each port that is not bound where Ray says.
    `max_connections`: upper bound on Ray's value; each takes 2.5 file descriptors.
    """
    lines: list[str] = []
    section = ""
    for line in config.splitlines():
        words = line.split()
        if line[:1].strip() and words:
            lines = _in_two(lines, section)
            section = " ".join(words)
        lines += _edited(
            line,
            words,
            section,
            admin_socket=admin_socket,
            binds=binds,
            max_connections=max_connections,
        )
    lines = _in_two(lines, section)
    lines += ["frontend lost", f"    bind unix@{lost_socket} mode 600", *_indented(LOST)]
    return (
        "\n".join(lines).replace("server lost", f"server lost unix@{lost_socket} no-check") + "\n"
    )


Servers = dict[str, list[str]]
"""Lines of a configuration that define replicas, by backend."""


def servers(config: str) -> Servers:
    """Replicas in Ray's configuration, without Serve's own proxy."""
    replicas: Servers = {}
    section = ""
    for line in config.splitlines():
        words = line.split()
        if line[:1].strip() and words:
            section = words[-1] if words[0] == "backend" else ""
        elif section and words[:1] == ["server"] and words[-1] != "backup":
            replicas.setdefault(section, []).append(line)
    return replicas


def with_last(config: str, before: Servers) -> str:
    """Ray's configuration, where a backend without a replica keeps those in `before`.

    Serve removes a replica while it reconfigures it, even the last one, although it answers all the
    while. A replica that is gone does not pass its health check.
    """
    there = servers(config)
    lines: list[str] = []
    for line in config.splitlines():
        lines.append(line)
        words = line.split()
        if line[:1].strip() and words[:1] == ["backend"] and words[-1] not in there:
            lines += before.get(words[-1], [])
    return "\n".join(lines) + "\n"


def _in_two(lines: list[str], section: str) -> list[str]:
    """`lines` with the last section, if it is a backend of replicas, split into two backends.

    If a replica is lost whose connection had been used before, HAProxy closes the client's
    connection without a response, unless it may send the request again. In the second backend it
    may: there it finds only a closed port, and responds that the replica was lost. Rules
    (_least_busy) direct requests to the replicas in that backend. Requests too large to be sent
    again go to the first backend, with a new connection for each.
    """
    _, _, name = section.partition("backend ")
    if not section.startswith("backend ") or name.startswith(("default", "grpc")):
        return lines
    at = lines.index(section)
    first, second, servers = [section], [section + KEPT], []
    for line in lines[at + 1 :]:
        match line.split():
            case ["http-reuse", *_]:
                first.append("    option http-server-close")
                second.append(line)
            case ["option", "httpchk", *_] | ["http-check" | "default-server", *_]:
                second.append(line)
            case ["server", server, address, *_]:
                first.append(f"    server {server} {address} track {name}{KEPT}/{server}")
                second.append(f"    server {server} {address} check backup {OBSERVED}")
                servers.append(server)
            case _:
                first.append(line)
                second.append(line)
    second += _indented(SENT_AGAIN)
    second += [f"    {line}" for line in _least_busy(f"{name}{KEPT}", servers)]
    return [*lines[:at], *first, *second]


def _least_busy(backend: str, servers: Sequence[str]) -> Iterator[str]:
    """Rules that choose the server with the fewest requests, at random among several."""
    if not servers:
        return
    yield f"http-request set-var(txn.server) rand({len(servers)})"
    yield "http-request set-var(txn.fewest) int(1000000)"
    for at, server in enumerate(servers):
        number = f"srv_conn({backend}/{server})"
        drawn = f"{{ var(txn.server) -m int {at} }} {{ srv_is_up({backend}/{server}) }}"
        yield f"http-request set-var(txn.fewest) {number} if {drawn}"
    for at, server in enumerate(servers):
        number = f"srv_conn({backend}/{server})"
        fewer = f"{{ {number},sub(txn.fewest) lt 0 }} {{ srv_is_up({backend}/{server}) }}"
        yield f"http-request set-var(txn.server) int({at}) if {fewer}"
        yield f"http-request set-var(txn.fewest) {number} if {fewer}"
    for at, server in enumerate(servers):
        yield f"use-server {server} if {{ var(txn.server) -m int {at} }}"


def _edited(
    line: str,
    words: list[str],
    section: str,
    *,
    admin_socket: str,
    binds: Mapping[int, str],
    max_connections: int,
) -> Iterator[str]:
    """Lines that replace `line`."""
    match words:
        case ["stats", "socket", *_]:
            yield f"    stats socket unix@{admin_socket} mode 600 level admin expose-fd listeners"
        case ["maxconn", number]:
            yield f"    maxconn {min(int(number), max_connections)}"
        case ["bind", address, *options]:
            port = _port(address)
            where = netloc(binds[port], port) if port in binds else address
            yield f"    {' '.join(['bind', where, *options])}"
            if section == "frontend http_frontend":
                yield from _idle_bounds(max_connections)
                yield from _indented(REQUESTS)
        case ["option", "abortonclose" | "httplog"] | ["log" | "errorfile" | "retries", *_]:
            pass
        case ["timeout", "connect" | "server" | "http-keep-alive", *_]:
            pass
        case ["retry-on", *_]:
            yield from _indented(RETRIES)
        case ["option", "redispatch", *_] | ["load-server-state-from-file", *_]:
            pass
        case ["server-state-base" | "server-state-file", *_]:
            pass  # it would outlive the supervisor's changes of servers
        case ["defaults"]:
            yield line
            yield from _indented(DEFAULTS)
            yield from (f"    {_http_error(failure)}" for failure in FAILURES)
        case ["default-server", *_]:
            yield f"    {CHECKS}"
        case ["server", *_, "backup"]:
            pass  # Serve's own proxy, which waits without bound
        case ["use_backend", name, "if", condition] if not name.startswith("grpc"):
            yield f"    http-request deny deny_status 503 if {condition} {{ nbsrv({name}) lt 1 }}"
            yield f"    use_backend {name}{KEPT} if {condition} !large"
            yield line
        case ["backend", name] if "grpc" in name:
            yield line
            yield "    option abortonclose"  # HTTP/2 has no half-closed clients
        case ["backend", name] if name != "default_backend":
            yield line
            yield from _indented(DEADLINES)
        case ["http-request", "return", "status", "404", *_] if section.endswith("default_backend"):
            yield "    http-request deny deny_status 503"  # no application is known yet
        case ["http-request", "return", "status", "503", *_, "if", "healthcheck"]:
            yield "    http-request deny deny_status 503 if healthcheck"
        case _:
            yield line


def _idle_bounds(max_connections: int) -> Iterator[str]:
    """Rules that close a connection after its response if too many are open."""
    share = max(1, max_connections // IDLE_SHARE)
    yield "    stick-table type ipv6 size 64k expire 1m store conn_cur"
    yield "    tcp-request connection track-sc0 src"
    yield f"    acl crowded fe_conn gt {2 * share}"
    yield f"    acl crowded sc0_conn_cur gt {share}"
    yield "    http-response set-header connection close if crowded"
    yield f"    acl large req.hdr(content-length) -m int gt {LARGE_BYTES}"
    yield "    acl large req.hdr(transfer-encoding) -m found"


def _http_error(failure: Failure, status: int | None = None) -> str:
    """Rule for HAProxy's response with `status`, by default the failure's own.

    The body is this project's error, or the Open Inference Protocol's, as REQUESTS has chosen.
    """
    kind = "server_error" if failure.status >= 500 else "invalid_request_error"
    if failure.status == 429:
        kind = "rate_limit_error"
    begin = '{"error":{"message":"'
    end = f'","code":"{failure.code}","type":"{kind}","param":null}}}}'
    body = f"%[var(txn.begin,'{begin}')]{failure.message}%[var(txn.end,'{end}')]"
    quoted = body.replace('"', '\\"')
    headers = ["cache-control no-store", "x-content-type-options nosniff"]
    if failure.status in (429, 502, 503, 504):
        headers.append("retry-after 1")
    answer = f'content-type application/json lf-string "{quoted}"'
    return f"http-error status {status or failure.status} {answer} " + " ".join(
        f"hdr {h}" for h in headers
    )


def _indented(text: str) -> Iterator[str]:
    return (f"    {line}" for line in text.splitlines())


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


SENT_AGAIN = f"""\
retry-on conn-failure empty-response
{_http_error(REPLICA_LOST, status=503)}
server lost"""
"""Rules that send a request again: the only server that is not a backup gets it."""
LOST = """\
http-request set-var-fmt(txn.begin) '{"error":"' if { path /v2 } || { path_beg /v2/ }
http-request set-var-fmt(txn.end) '"}' if { var(txn.begin) -m found }
http-request deny deny_status 502"""
"""Rules of the server that gets requests again: respond that the replica was lost."""
