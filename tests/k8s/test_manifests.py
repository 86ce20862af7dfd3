"""Every combination of the manifests renders, and every checker finds nothing in it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.check.manifests import Manifests
from k8s.check.rules import check
from tests.k8s.rendered import (
    K8S,
    ROOT,
    SHARED,
    Object,
    Rendered,
    clusters,
    combinations,
    containers,
    find,
    folders,
    kustomize,
    passed,
    pods,
    tool,
    write,
)

CHECKOV = ROOT / ".checkov" / "bin" / "checkov"

BASE_KINDS = {
    *("ConfigMap", "Ingress", "Namespace", "NetworkPolicy", "PersistentVolumeClaim"),
    *("PodDisruptionBudget", "RayService", "Secret", "Service", "ServiceAccount", "StatefulSet"),
}
"""A cluster that has KubeRay knows all of these."""


@pytest.mark.parametrize("name", combinations())
def test_renders_without_warnings(name: str, rendered: Rendered) -> None:
    objects = rendered.objects(name)
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert ("RayService", "sampling") in names
    assert len(names) == len(set(names))
    assert {o["metadata"].get("namespace") for o in objects if o["kind"] != "Namespace"} == {"aigc"}


def test_base_needs_no_optional_crds(rendered: Rendered) -> None:
    assert {o["kind"] for o in rendered.objects("base")} == BASE_KINDS


def test_every_kustomization_is_rendered() -> None:
    assert set(folders("overlays")) == {"gpu", "kind", "spot"}
    assert set(folders("components")) >= {
        *("cron-retraining", "incremental-upgrade", "kueue", "s3", "training-job"),
    }


@pytest.mark.process
@pytest.mark.parametrize("version", ["1.30", "1.34", "1.36"])
def test_objects_are_valid_by_schema(version: str, rendered: Rendered) -> None:
    found = tool(
        *("validate_manifests", "--crds", str(SHARED / "crds"), "--k8s", version, "-"),
        stdin=_distinct(rendered),
    )
    passed(found)


def _distinct(rendered: Rendered) -> str:
    """All distinct objects, each under a name of its own: the validator refuses a second of one."""
    objects = [*yaml.load_all(rendered.everything(), yaml.CSafeLoader)]
    for number, one in enumerate(objects):
        one["metadata"]["name"] += f"-{number}"
    return yaml.safe_dump_all(objects)


@pytest.mark.process
def test_kuberay_schema_accepts_ray_objects(rendered: Rendered) -> None:
    passed(tool("kuberay_rules", stdin=rendered.everything()))


@pytest.mark.process
def test_ray_knows_every_key_of_serve_configs(rendered: Rendered) -> None:
    passed(tool("serve_strict", stdin=rendered.everything()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own modules, at import
@pytest.mark.parametrize("name", combinations())
def test_k8s_check_finds_nothing(name: str, rendered: Rendered) -> None:
    manifests = Manifests(rendered.objects(name), external=())
    found, skipped, failed = check(manifests)
    assert [str(each) for each in found] == []
    assert (skipped, failed) == ({}, {})


def unrestricted(template: Object) -> list[str]:
    """Breaches of the restricted Pod Security Standard, and of this project's rules beyond it."""
    spec = template["spec"]
    context = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    if not context.get("runAsNonRoot") or context.get("runAsUser") != 1000:
        found.append("user")
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("seccomp")
    kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    found += [f"volume {v['name']}" for v in spec["volumes"] if not set(v) - {"name"} <= kinds]
    for one in containers(template):
        own = one.get("securityContext", {})
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{one['name']}: escalation")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            found.append(f"{one['name']}: capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            found.append(f"{one['name']}: writable root")
        if {"runAsUser", "runAsNonRoot", "seccompProfile"} & set(own):
            found.append(f"{one['name']}: overrides the pod")
        if any("hostPort" in port for port in one.get("ports", [])):
            found.append(f"{one['name']}: host port")
    return found


@pytest.mark.parametrize("name", combinations())
def test_pods_meet_the_restricted_profile(name: str, rendered: Rendered) -> None:
    for where, template in pods(rendered.objects(name)):
        assert unrestricted(template) == [], where


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"securityContext": {"runAsUser": 1000}}, "user"),
        ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "volume host"),
        ({"containers": [{"name": "bare"}]}, "bare: writable root"),
    ],
)
def test_restricted_profile_check_finds_violations(
    change: dict[str, Any], found: str, rendered: Rendered
) -> None:
    where, template = next(pods(rendered.objects("base")))
    template["spec"] |= change
    assert found in unrestricted(template), where


@pytest.mark.parametrize("name", combinations())
def test_containers_have_resources_and_writable_tmp(name: str, rendered: Rendered) -> None:
    for where, template in pods(rendered.objects(name)):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for one in containers(template):
            resources = one["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), (where, one["name"])
            assert "memory" in resources["limits"], (where, one["name"])
            mounted = {m["mountPath"]: volumes[m["name"]] for m in one["volumeMounts"]}
            ray = one["name"].startswith("ray-")
            if ray or one["name"] == "autoscaler":
                assert "emptyDir" in mounted["/tmp"], (where, one["name"])
            if ray and "submitter" not in where:
                assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("name", combinations())
def test_only_heads_mount_a_service_account_token(name: str, rendered: Rendered) -> None:
    objects = rendered.objects(name)
    scaled = {kind: bool(c.get("enableInTreeAutoscaling")) for kind, c in clusters(objects)}
    for where, template in pods(objects):
        kind, _, role = where.partition(" ")
        wanted = role == "head" and scaled[kind]
        assert template["spec"]["automountServiceAccountToken"] is wanted, where
    for account in (o for o in objects if o["kind"] == "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_containers_without_operator_probes_have_probes(rendered: Rendered) -> None:
    for where, template in pods(rendered.objects("training-job")):
        for one in containers(template):
            if one["name"] == "redis":
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(one)
            elif one.get("restartPolicy") == "Always":
                assert "livenessProbe" in one, (where, one["name"])
                # A pod is ready when all of its containers are, and replicas answer without it.
                assert "readinessProbe" not in one, (where, one["name"])


@pytest.mark.process
def test_checkov_findings_are_all_skipped_with_reasons(rendered: Rendered, tmp_path: Path) -> None:
    if not CHECKOV.exists():
        pytest.skip(f"{CHECKOV} is not there; `make test` installs it")
    everything = rendered.everything()
    made = tool("podsof", stdin=everything).stdout
    plain = [
        o for o in yaml.load_all(everything, yaml.CSafeLoader) if "ray.io" not in o["apiVersion"]
    ]
    (tmp_path / "pods.yaml").write_text(made)
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(plain))
    (tmp_path / "Dockerfile").write_text((K8S / "images" / "Dockerfile").read_text())
    command = [str(CHECKOV), "--skip-download", "--config-file", str(K8S / "checkov.yaml")]
    options = ["--framework", "kubernetes", "dockerfile", "--compact", "--output", "json"]
    done = subprocess.run(
        [*command, *options, "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    reports = {report["check_type"]: report for report in json.loads(done.stdout)}
    assert set(reports) == {"kubernetes", "dockerfile"}
    for report in reports.values():
        failed = [(c["check_id"], c["resource"]) for c in report["results"]["failed_checks"]]
        assert failed == []
        assert report["summary"]["passed"] > 100
        assert report["summary"]["parsing_errors"] == 0


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """A customer's overlay: other names, another namespace, more configuration, own images.

    In two layers: kustomize generates before it adds components, so what a component generates is
    merged into from above.
    """
    folder = tmp_path_factory.mktemp("outside")
    (folder / "chosen").mkdir()
    write(folder / "chosen", ["training-job", "s3", "cron-retraining"])
    overlay = {
        "resources": ["chosen"],
        "namespace": "pictures",
        "namePrefix": "eu-",
        "configMapGenerator": [
            {
                "name": "s3",
                "behavior": "merge",
                "literals": ["AWS_ENDPOINT_URL=https://s3.example"],
            },
            {"name": "sampling-environment", "behavior": "merge", "literals": ["MORE=1"]},
        ],
        "images": [
            {"name": "aigc-serve", "newName": "registry.example.com/serve", "newTag": "7"},
            {"name": "aigc-train", "newName": "registry.example.com/train", "digest": "sha256:0"},
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return [*yaml.safe_load_all(kustomize(folder))]


def test_external_overlay_resolves(outside: list[Object]) -> None:
    there = {(o["kind"], o["metadata"]["name"]) for o in outside}
    found = set(_references(outside))
    assert found - there == set()
    kinds = {kind for kind, _ in found}
    assert kinds == {"ConfigMap", "Secret", "ServiceAccount", "Service", "RayService"}
    assert {o["metadata"].get("namespace", "pictures") for o in outside} == {"pictures"}
    maps = (o for o in outside if o["kind"] == "ConfigMap")
    data = {one["metadata"]["name"].rpartition("-")[0]: one["data"] for one in maps}
    assert data["eu-s3"]["AWS_ENDPOINT_URL"] == "https://s3.example"
    assert data["eu-s3"]["AWS_RETRY_MODE"] == "standard"
    assert data["eu-sampling-environment"]["MORE"] == "1"
    assert data["eu-sampling-environment"]["RAY_worker_niceness"] == "0"


def _references(value: Any, above: str = "") -> list[tuple[str, str]]:
    """(kind, name) of everything that is named below a value."""
    if isinstance(value, list):
        return [found for one in value for found in _references(one, above)]
    if not isinstance(value, dict):
        return []
    found = []
    kinds = {
        "secretKeyRef": "Secret",
        "secretRef": "Secret",
        "configMapRef": "ConfigMap",
        "configMapKeyRef": "ConfigMap",
        "configMap": "ConfigMap",
    }
    if above in kinds and "name" in value:
        found.append((kinds[above], value["name"]))
    for key, one in value.items():
        if key == "serviceAccountName":
            found.append(("ServiceAccount", one))
        elif key == "secretName":
            found.append(("Secret", one))
        elif key == "claimName":
            found.append(("PersistentVolumeClaim", one))
        elif key == "serviceName":
            found.append(("Service", one))
        elif above == "backend" and key == "service":
            found.append(("RayService", one["name"]))
        elif key == "serveService":
            found.append(("RayService", one["metadata"]["name"]))
        elif key == "name" and one == "REDIS_HOST":
            found.append(("Service", value["value"]))
        found += _references(one, key)
    return found


def test_images_are_replaced_everywhere(outside: list[Object]) -> None:
    images = {one["image"] for _, template in pods(outside) for one in containers(template)}
    assert images == {
        "registry.example.com/serve:7",
        "registry.example.com/train@sha256:0",
        "redis:7.4.6",
    }
    text = yaml.safe_dump_all(outside)
    assert "aigc-serve" not in text
    assert "aigc-train" not in text


def test_cron_job_runs_the_training_job_cluster(rendered: Rendered) -> None:
    for name in ("training-job+cron-retraining", "training-job+s3+cron-retraining"):
        objects = rendered.objects(name)
        job = find(objects, "RayJob", "training")["spec"]
        template = find(objects, "RayCronJob", "retraining")["spec"]["jobTemplate"]
        assert template["rayClusterSpec"] == job["rayClusterSpec"]
        assert template["submitterPodTemplate"] == job["submitterPodTemplate"]
        assert set(template) == set(job)
