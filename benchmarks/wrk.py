"""wrk as the client: one server for a while under a fixed load."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from benchmarks.servers import Server

SCRIPT = """
local seed = 0
function request()
  seed = seed + 1
  return wrk.format("POST", "PATH", {["content-type"] = "application/json"},
    string.format('BODY', seed))
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "us": %d, "bad": %d, "p50_us": %d, "p99_us": %d}\\n',
    summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A request that is sent again and again, each time for another seed."""

    n: int
    connections: int
    path: str = "/v1/samples"
    body: str = '{"model": "digits", "n": N, "seed": %d, "format": "npy"}'
    """%d is the seed, N is n."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Figures of one server."""

    samples_per_s: float
    cpu_us: float
    """CPU time per request of the processes that answered it."""
    bad: int = 0
    """Answers other than 2xx, and none at all."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def turn(server: Server, load: Load, seconds: int) -> Turn:
    """Closed loop: every connection asks again as soon as it was answered."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk")
    body = load.body.replace("N,", f"{load.n},")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("PATH", load.path).replace("BODY", body))
        script.flush()
        command = [wrk, "-t1", f"-c{load.connections}", f"-d{seconds}s", "-s", script.name]
        before_s = server.cpu_s()
        done = subprocess.run([*command, server.url], capture_output=True, text=True, check=True)
        cpu_s = server.cpu_s() - before_s
    found = json.loads(done.stdout.strip().splitlines()[-1])
    good = found["requests"] - found["bad"]
    return Turn(
        samples_per_s=load.n * good / found["us"] * 1e6,
        cpu_us=cpu_s / max(good, 1) * 1e6,
        bad=found["bad"],
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
    )
