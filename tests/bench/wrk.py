"""wrk as the client: a turn of one server under a fixed load."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

SCRIPT = """
local seed = 0
local body = %s
function request()
  seed = seed + 1
  return wrk.format("POST", "%s", {["content-type"] = "application/json"}, body(seed))
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %%d, "us": %%d, "bad": %%d, "p50_us": %%d, "p99_us": %%d}\\n',
    summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""

NATIVE = """function(seed)
  return string.format('{"model": "digits", "n": %d, "seed": %%d, "format": "%s"}', seed)
end"""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one server did for a while."""

    requests: int
    seconds: float
    bad: int
    """Answers other than 2xx, and none at all."""
    p50_ms: float
    p99_ms: float
    cpu_s: float = 0.0
    """Of the processes that answered."""


def load(
    url: str,
    n: int,
    connections: int,
    seconds: int,
    form: str = "npy",
) -> Turn:
    """Closed loop of `connections` that each ask for `n` samples, again and again."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("%s", NATIVE % (n, form), 1).replace("%s", "/v1/samples", 1).replace("%%", "%"))
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Turn(
        requests=found["requests"] - found["bad"],
        seconds=found["us"] / 1e6,
        bad=found["bad"],
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
    )
