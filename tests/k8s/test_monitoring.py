"""Monitoring is proved: rules fire when they should, and nothing names what nobody exports.

A real Prometheus scrapes a real run with the rules of the manifests: training on Ray, sampling on
Ray Serve, requests, errors, an artifact that is refused, and a GCS that hangs.
"""

import json
import os
import re
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
import yaml

from k8s import monitor
from k8s.dashboards import DASHBOARDS, FOLDER
from k8s.dashboards.grafana import RUNBOOKS, as_json, text
from k8s.monitor import Target
from tests.k8s.local_ray import LocalRay, local_ray, running
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "alerts.yaml"
COMPONENT = ROOT / "k8s" / "components" / "monitoring"
PROMCHECK = ROOT.parent / "shared" / "tools" / "promcheck.py"
TINY = ROOT / "tests" / "fixtures" / "artifact" / "v1"

RULES = [rule for group in monitor.rules()["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here; apt-get install prometheus"
)
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")


def promtool(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


# --- rules


@pytest.mark.process
@needs_promtool
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(json.dumps(monitor.rules()))
    check = promtool("check", "rules", "--lint-fatal", "rules.yaml", folder=tmp_path)
    assert check.returncode == 0, check.stdout + check.stderr
    assert f"{len(RULES)} rules found" in check.stdout


@pytest.mark.process
@needs_promtool
def test_every_alert_fires_when_it_should_and_is_quiet_when_it_should(tmp_path: Path) -> None:
    write_cases(tmp_path, monitor.rules())
    done = promtool("test", "rules", "alerts.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
@needs_promtool
@pytest.mark.parametrize("harm", ["never fires", "always fires"])
def test_the_cases_notice_every_alert_that_is_broken(harm: str, tmp_path: Path) -> None:
    rules = monitor.rules()
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if "alert" in rule:
            expression = rule["expr"]
            always = f"({expression}) or label_replace(vector(1), 'broken', 'yes', '', '')"
            rule["expr"] = f"({expression}) > Inf" if harm == "never fires" else always
    write_cases(tmp_path, rules)
    done = promtool("test", "rules", "alerts.yaml", folder=tmp_path)
    assert done.returncode == 1
    noticed = set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr))
    assert noticed == ALERTS.keys()


def write_cases(folder: Path, rules: dict[str, Any]) -> None:
    """The cases, and the rules without their annotations, which the cases do not repeat."""
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule.pop("annotations", None)
    (folder / "rules.yaml").write_text(json.dumps(rules))
    shutil.copy(CASES, folder)


def cases(name: str) -> dict[str, Any]:
    (case,) = (case for case in yaml.safe_load(CASES.read_text())["tests"] if case["name"] == name)
    return dict(case)


def test_every_alert_has_a_case_of_each_kind() -> None:
    named = {case["name"] for case in yaml.safe_load(CASES.read_text())["tests"]}
    assert named == {f"{alert} {does}" for alert in ALERTS for does in ("fires", "is quiet")}
    for alert in ALERTS:
        for does in ("fires", "is quiet"):
            (asked,) = cases(f"{alert} {does}")["alert_rule_test"]
            assert asked["alertname"] == alert
            assert bool(asked["exp_alerts"]) == (does == "fires")


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert len(ALERTS) >= 12
    document = (ROOT / RUNBOOKS).read_text()
    anchors = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", document, re.M)
    }
    for name, alert in ALERTS.items():
        assert re.fullmatch(r"\d+[mh]", alert["for"]), name
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        said = alert["annotations"]
        assert said.keys() == {"summary", "description", "runbook_url"}, name
        file, _, anchor = said["runbook_url"].partition("#")
        assert (file, anchor) == (RUNBOOKS, name.lower())
        assert anchor in anchors, f"{RUNBOOKS} has no heading {name}"
        (asked,) = cases(f"{name} fires")["alert_rule_test"]
        labels = asked["exp_alerts"][0]["exp_labels"]
        used = set(re.findall(r"\$labels\.(\w+)", said["summary"] + said["description"]))
        assert used <= labels.keys(), "a message names a label that its alert does not have"


def test_every_rule_aggregates() -> None:
    """No pod, no instance: who is restarted is still the same service."""
    aggregation = re.compile(r"\b(sum|max|min|avg|count|group|quantile|topk) (by )?\(")
    for name, rule in {**ALERTS, **RECORDED}.items():
        expression = rule["expr"]
        assert aggregation.search(expression) or any(r in expression for r in RECORDED), name


# --- dashboards and the component


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_the_dashboard_on_disk_is_the_one_in_python(name: str) -> None:
    written = (FOLDER / f"{name}.json").read_text()
    assert written == text(DASHBOARDS[name]), "run python -m k8s.dashboards"


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_every_panel_says_what_it_shows_in_which_unit(name: str) -> None:
    panels = [p for p in as_json(DASHBOARDS[name])["panels"] if p["type"] != "row"]
    assert len({panel["title"] for panel in panels if panel["type"] != "stat"}) >= 18
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} covers another one"
        taken |= cells


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_alerts_that_panels_name_exist(name: str) -> None:
    document = text(DASHBOARDS[name])
    named = set(re.findall(r"\bAigc[A-Z]\w+", document))
    assert named, "panels name the alerts that they explain"
    assert named <= ALERTS.keys()


def test_every_alert_counts_on_a_dashboard() -> None:
    counted: set[str] = set()
    for dashboard in DASHBOARDS.values():
        for pattern in re.findall(r'ALERTS{alertname=~\\"(.+?)\\"', text(dashboard)):
            counted |= {name for name in ALERTS if re.fullmatch(pattern, name)}
    assert counted == ALERTS.keys()


@pytest.mark.process
@needs_kubectl
def test_the_component_renders_over_any_base(tmp_path: Path) -> None:
    base = {
        "resources": ["namespace.yaml"],
        "components": [os.path.relpath(COMPONENT, tmp_path)],
        "namespace": "other",
        "namePrefix": "x-",
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(base))
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}
    (tmp_path / "namespace.yaml").write_text(json.dumps(namespace))
    done = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    objects = {
        (o["kind"], o["metadata"]["name"]): o
        for o in yaml.safe_load_all(done.stdout)
        if o["kind"] != "Namespace"
    }
    assert objects.keys() == {
        ("PodMonitor", "x-aigc"),
        ("PrometheusRule", "x-aigc"),
        *(("ConfigMap", f"x-aigc-dashboard-{name}") for name in DASHBOARDS),
    }
    assert {o["metadata"]["namespace"] for o in objects.values()} == {"other"}
    for name, dashboard in DASHBOARDS.items():
        found = objects["ConfigMap", f"x-aigc-dashboard-{name}"]
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(found["data"][f"{name}.json"]) == as_json(dashboard)


def test_rules_know_pods_by_labels_that_the_pod_monitor_copies() -> None:
    podmonitor = yaml.safe_load((COMPONENT / "podmonitors.yaml").read_text())["spec"]
    copied = {re.sub(r"\W", "_", label) for label in podmonitor["podTargetLabels"]}
    own = {"namespace", "endpoint"}  # prometheus-operator's
    used = {
        label
        for rule in RULES
        for braces in re.findall(r"\bup{(.*?)}", rule["expr"])
        for label in re.findall(r"(\w+)\s*[=!]", braces)
    }
    assert used
    assert used <= copied | own
    local = Target(address="x:1", app="a", endpoint="e", cluster="c").document()["labels"]
    assert local.keys() <= copied | own


# --- a real Prometheus


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
            *("aigc.prometheus_exporter", "--dir", str(head.metrics_dir)),
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
        wait_for(lambda: query(url, trained), "a checkpoint and a measured quality")
        served = f"http://{head.address('serve')}/v1/samples"
        for number in range(16):
            samples = {"model": "tiny", "n": 4, "seed": number}
            assert httpx.post(served, json=samples).status_code == 200
            late = {"x-request-timeout": "0.000001"}
            assert httpx.post(served, json=samples, headers=late).status_code in (503, 504)
            assert httpx.post(served, json={"model": "none"}).status_code == 404
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


@pytest.mark.cluster
@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_real_prometheus_records(name: str, scraped: tuple[LocalRay, str, Path]) -> None:
    _, url, _ = scraped
    found = query(url, f"last_over_time({name}[5m])")
    assert found
    assert all(float(series["value"][1]) >= 0 for series in found), found


@pytest.mark.cluster
def test_what_was_recorded_is_what_happened(scraped: tuple[LocalRay, str, Path]) -> None:
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


@pytest.mark.cluster
def test_every_metric_that_is_named_was_exported(scraped: tuple[LocalRay, str, Path]) -> None:
    *_, metrics = scraped
    if not PROMCHECK.exists():
        pytest.skip(f"{PROMCHECK} is not on this machine")
    pytest.importorskip("promql_parser")
    documents = [str(COMPONENT / "rules.yaml"), *map(str, FOLDER.glob("*.json"))]
    check = subprocess.run(
        [sys.executable, str(PROMCHECK), str(metrics), *documents],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert ", 0 bad" in check.stdout


@pytest.mark.cluster
def test_every_panel_shows_something(scraped: tuple[LocalRay, str, Path]) -> None:
    _, url, _ = scraped
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
    assert empty == []


@pytest.mark.cluster
def test_a_gcs_that_hangs_raises_the_alarm(scraped: tuple[LocalRay, str, Path]) -> None:
    head, url, _ = scraped
    alarm = 'ALERTS{alertname="AigcGcsDown"}'
    assert query(url, alarm) == []
    gcs = head.child("gcs_server")
    gcs.send_signal(signal.SIGSTOP)
    wait_for(lambda: query(url, alarm), "the alarm")
    gcs.send_signal(signal.SIGCONT)
    wait_for(lambda: not query(url, alarm), "the end of the alarm")
