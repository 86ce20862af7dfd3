"""A real Prometheus scrapes a real run with the rules of the manifests.

Training on Ray, sampling on Ray Serve, requests, errors, an artifact that is refused, and a GCS
that hangs: every rule and panel shows something, and nothing names what nobody exports.
"""

import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from k8s import monitor
from k8s.dashboards import DASHBOARDS, FOLDER
from tests.k8s.local_ray import LocalRay, local_ray, running
from tests.ports import free_port

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
PROMCHECK = ROOT.parent / "shared" / "tools" / "promcheck.py"
TINY = ROOT / "tests" / "fixtures" / "artifact" / "v1"
RECORDED = sorted(
    rule["record"]
    for group in monitor.rules()["groups"]
    for rule in group["rules"]
    if "record" in rule
)


def query(url: str, expression: str) -> list[dict[str, Any]]:
    asked = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    answer = httpx.get(asked, timeout=10).json()
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])


def wait_for(what: Callable[[], Any], name: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"it never came to {name}"
        time.sleep(0.25)


def ask(head: LocalRay) -> None:
    """Three requests: samples, samples that come too late, and a model that nobody has."""
    served = f"http://{head.address('serve')}/v1/samples"
    samples = {"model": "tiny", "n": 4}
    with httpx.Client(timeout=30) as client:
        assert client.post(served, json=samples).status_code == 200
        late = {"x-request-timeout": "0.000001"}
        assert client.post(served, json=samples, headers=late).status_code in (503, 504)
        assert client.post(served, json={"model": "none"}).status_code == 404


TRAIN = (
    *("aigc.cli", "train", "dcgan:digits", "--workers", "1..2", "--threads", "1"),
    *("--samples", "1000000", "--report-interval", "320", "--checkpoint-interval", "640"),
    *("--grid-interval", "0", "--evaluate-interval", "640", "--price-per-worker-hour", "2"),
    *("--storage", "runs", "--name", "digits"),
)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalRay, str, Path]]:
    """The head, the URL of Prometheus, and the /metrics of everything, when all has happened."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus here; apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        local_ray(num_cpus=4) as head,
        running(
            head,
            *("aigc.prometheus.exporter", "--dir", str(head.metrics_dir)),
            *("--port", str(head.ports["exporter"])),
        ),
        monitor.prometheus(
            folder, head.targets(training=True), port=free_port(), interval_s=1
        ) as url,
        running(
            head,
            *TRAIN,
            *("--address", head.address("gcs-server")),
            *("--metrics-port", str(head.ports["training"])),
        ),
    ):
        head.deploy({"replicas": "1..2", "price_per_replica_hour": 0.5}, [str(TINY)])
        trained = (
            "aigc_training_frechet_distance and aigc_training_last_checkpoint_timestamp_seconds"
        )
        # The judge is trained at a low priority, beside two workers, a server and other tests.
        wait_for(lambda: query(url, trained), "a checkpoint and a measured quality", 400)
        for _ in range(16):
            ask(head)
            time.sleep(0.25)
        head.deploy(
            {"replicas": "1..2", "price_per_replica_hour": 0.5}, [str(TINY), str(folder / "none")]
        )
        refused = 'ALERTS{alertname="AigcReferencesFailed"}'
        wait_for(lambda: query(url, refused), "the refusal of an artifact that is not there")
        shown = [httpx.get(f"http://{t.address}/metrics").text for t in head.targets(training=True)]
        known = httpx.get(f"{url}/federate", params={"match[]": '{__name__=~"up|ALERTS"}'})
        metrics = folder / "metrics.txt"
        metrics.write_text("\n".join([*shown, known.text]))
        yield head, url, metrics


@pytest.mark.parametrize("name", RECORDED)
def test_every_recording_rule_gives_values(name: str, scraped: tuple[LocalRay, str, Path]) -> None:
    _, url, _ = scraped
    found = query(url, f"last_over_time({name}[5m])")
    assert found
    assert all(float(series["value"][1]) >= 0 for series in found), found


def test_recorded_values_match_the_requests(scraped: tuple[LocalRay, str, Path]) -> None:
    _, url, _ = scraped

    def value(expression: str) -> float:
        (series,) = query(url, expression)
        return float(series["value"][1])

    assert value('namespace_model:aigc_request_errors:ratio_rate5m{model="tiny"}') == pytest.approx(
        0.5, abs=0.1
    )
    assert value('namespace_model:aigc_shed_samples:ratio_rate5m{model="tiny"}') == pytest.approx(
        0.5, abs=0.1
    )
    assert value('namespace_model:aigc_request_errors:ratio_rate5m{model=""}') == 0
    assert value('max_over_time(aigc_training_workers{run="digits"}[5m])') >= 1
    assert value('aigc_training_max_workers{run="digits"}') == 2
    assert value("sum(aigc_max_replicas)") == 2


def test_rules_and_dashboards_name_exported_metrics(scraped: tuple[LocalRay, str, Path]) -> None:
    *_, metrics = scraped
    if not PROMCHECK.exists():
        pytest.skip(f"{PROMCHECK} is not on this machine")
    pytest.importorskip("promql_parser")
    documents = [str(monitor.RULES), *map(str, FOLDER.glob("*.json"))]
    check = subprocess.run(
        [sys.executable, str(PROMCHECK), str(metrics), *documents],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert ", 0 bad" in check.stdout


def empty_panels(url: str) -> list[tuple[str, str]]:
    """Title and legend of each query of a dashboard that gives nothing."""
    variables = {"$namespace": ".*", "$model": ".*", "$run": ".*", "$__rate_interval": "1m"}
    empty = []
    for dashboard in DASHBOARDS.values():
        for row in dashboard.rows:
            for panel in row.panels:
                for expression, legend in panel.queries:
                    for name, filled in variables.items():
                        expression = expression.replace(name, filled)
                    if not query(url, expression):
                        empty.append((panel.title, legend))
    return empty


def test_every_panel_shows_something(scraped: tuple[LocalRay, str, Path]) -> None:
    head, url, _ = scraped
    # Panels of ratios are empty a minute after the last request. On a busy machine a scrape takes
    # longer than its second, and shows nothing.
    for _ in range(5):
        ask(head)
        time.sleep(1)
        empty = empty_panels(url)
        if not empty:
            break
    assert empty == []


def test_a_frozen_gcs_raises_an_alert(scraped: tuple[LocalRay, str, Path]) -> None:
    head, url, _ = scraped
    alarm = 'ALERTS{alertname="AigcGcsDown"}'
    assert query(url, alarm) == []
    gcs = head.child("gcs_server")
    gcs.send_signal(signal.SIGSTOP)
    wait_for(lambda: query(url, alarm), "the alarm")
    gcs.send_signal(signal.SIGCONT)
    wait_for(lambda: not query(url, alarm), "the end of the alarm")
