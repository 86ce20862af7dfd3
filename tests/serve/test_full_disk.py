"""`aigc serve` whose TMPDIR is full: it answers what it answered before, and says what it lost."""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.disks import fill, small_disk
from tests.serve.servers import Server, server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

POOLS = """\
pools:
  default: {{artifacts: ["{store}/tiny@1"], cpus: 0.5}}
  second: {{artifacts: ["{store}/other"], cpus: 0.5}}
"""


@pytest.fixture
def disk() -> Iterator[Path]:
    """A short path, as Unix sockets want it."""
    folder = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
    try:
        with small_disk(folder, "size=64m") as disk:
            yield disk
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ask(url: str) -> dict[str, int]:
    """The status of each of several requests, whose metrics have labels of their own."""
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64}
    wanted: dict[str, tuple[str, Any]] = {
        "samples": ("/v1/samples", {"model": "tiny"}),
        "other pool": ("/v1/samples", {"model": "other"}),
        "openai": ("/v1/images/generations", {"model": "tiny", "prompt": "three"}),
        "oip": ("/v2/models/tiny:encode/infer", {"inputs": [image]}),
        "no model": ("/v1/samples", {"model": "nobody"}),
        "no number": ("/v1/samples", {"model": "tiny", "n": "many"}),
        "no image": ("/v2/models/other:encode/infer", {"inputs": []}),
    }
    with httpx.Client(base_url=url, timeout=10) as client:
        found = {name: client.post(*to[:1], json=to[1]).status_code for name, to in wanted.items()}
        found |= {
            path: client.get(path).status_code for path in ("/metrics", "/readyz", "/v1/models")
        }
    return found


ANSWERS = {
    **dict.fromkeys(("samples", "other pool", "openai", "oip"), 200),
    **dict.fromkeys(("no number", "no image"), 400),
    "no model": 404,
    **dict.fromkeys(("/metrics", "/readyz", "/v1/models"), 200),
}


def wait_until_lost(running: Server, wanted: float) -> None:
    wait_until(lambda: running.total("aigc_metrics_lost") == wanted, 20, "the gauge")


def test_a_full_disk_costs_metrics_and_no_request(
    store: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(disk))
    config = tmp_path / "serve.yaml"
    config.write_text(POOLS.format(store=store))
    with server(tmp_path, "--config", str(config)) as running:
        url = running.wait_until_ready()
        wait_until_lost(running, 0)
        filler = fill(disk)
        rounds = 10
        for _ in range(rounds):
            assert ask(url) == ANSWERS
        wait_until_lost(running, 1)
        assert httpx.get(f"{url}/metrics").status_code == 200
        filler.unlink()
        wait_until_lost(running, 0)
        one = ("model=tiny", "signature=sample", "code=200")
        # Each process looks for room by itself, some seconds apart.
        for api in ("api=native", "api=openai"):
            counted = partial(running.total, "aigc_requests_total", api, *one)
            wait_until(lambda total=counted: total() >= rounds, 20, api)
            assert counted() == rounds
        assert running.total("aigc_replica_starts_total") == 2, "some replica died"
        assert running.stop()[0] == 0
