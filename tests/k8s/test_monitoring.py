"""Rules and dashboards of the manifests: alerts fire when they should, and agree with documents.

What a real Prometheus makes of them: test_prometheus.py.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import monitor
from k8s.dashboards import DASHBOARDS, FOLDER
from k8s.dashboards.grafana import RUNBOOKS, as_json, text
from k8s.monitor import Target

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "alerts.yaml"
COMPONENT = ROOT / "k8s" / "components" / "monitoring"

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
def test_alerts_fire_and_stay_quiet_in_their_cases(tmp_path: Path) -> None:
    write_cases(tmp_path, monitor.rules())
    done = promtool("test", "rules", "alerts.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
@needs_promtool
@pytest.mark.parametrize("harm", ["never fires", "always fires"])
def test_cases_notice_every_broken_alert(harm: str, tmp_path: Path) -> None:
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


def test_every_alert_has_a_severity_and_a_runbook() -> None:
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


def test_rules_aggregate_over_pods() -> None:
    """No pod, no instance: who is restarted is still the same service."""
    aggregation = re.compile(r"\b(sum|max|min|avg|count|group|quantile|topk) (by )?\(")
    for name, rule in {**ALERTS, **RECORDED}.items():
        expression = rule["expr"]
        assert aggregation.search(expression) or any(r in expression for r in RECORDED), name


# --- dashboards and the component


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_dashboards_on_disk_equal_those_in_python(name: str) -> None:
    written = (FOLDER / f"{name}.json").read_text()
    assert written == text(DASHBOARDS[name]), "run python -m k8s.dashboards"


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_panels_have_a_description_and_a_unit(name: str) -> None:
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
def test_alerts_named_by_panels_exist(name: str) -> None:
    document = text(DASHBOARDS[name])
    named = set(re.findall(r"\bAigc[A-Z]\w+", document))
    assert named, "panels name the alerts that they explain"
    assert named <= ALERTS.keys()


def test_dashboards_count_every_alert() -> None:
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


def test_rules_use_labels_that_the_pod_monitor_copies() -> None:
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
