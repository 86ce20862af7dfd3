"""Manifests as others write them: each finding was looked at, and is true."""

from pathlib import Path

import pytest

from k8s.check import render
from k8s.check.manifests import Manifests
from k8s.check.rules import check
from tests.k8s.check.mutation import findings

FOLDER = Path(__file__).parent / "foreign"

HEAD = "headGroupSpec.template.spec"
WORKER = "workerGroupSpecs[0].template.spec"
JOB = "spec.jobTemplate.spec.template.spec"
PREDICTOR = "spec.predictor.containers[0]"
MARKET = "spec.serveConfigV2.applications[0].deployments[1]"

BARE = [
    ("clusters/authentication", "RayCluster", "spec.authOptions"),
    *(
        (
            "clusters/memory_limits",
            "RayCluster",
            f"spec.{group}.containers[0].resources.limits.memory",
        )
        for group in (HEAD, WORKER)
    ),
]
"""A cluster that asks for no token, and sizes itself by its nodes."""

EXPECTED: dict[str, list[tuple[str, str, str]]] = {
    "rayservice": [
        ("clusters/authentication", "RayService", "spec.rayClusterConfig.authOptions"),
        # Options of Ray 2.9 that were renamed: what they say has been without effect since.
        ("serve_config/schema", "RayService", f"{MARKET}.max_concurrent_queries"),
        (
            "serve_config/schema",
            "RayService",
            f"{MARKET}.autoscaling_config.target_num_ongoing_requests_per_replica",
        ),
        # 20 s for replicas and 30 s for the proxy, by default, in a pod that has 30 s, by default.
        (
            "termination/draining",
            "RayService",
            f"spec.rayClusterConfig.{HEAD}.terminationGracePeriodSeconds",
        ),
        (
            "termination/draining",
            "RayService",
            f"spec.rayClusterConfig.{WORKER}.terminationGracePeriodSeconds",
        ),
    ],
    # Nobody asks for a token, and Ray sizes itself by the node.
    "rayjob": [
        ("clusters/authentication", "RayJob", "spec.rayClusterSpec.authOptions"),
        *(
            (
                "clusters/memory_limits",
                "RayJob",
                f"spec.rayClusterSpec.{group}.template.spec.containers[0].resources.limits.memory",
            )
            for group in ("headGroupSpec", "workerGroupSpecs[0]", "workerGroupSpecs[1]")
        ),
    ],
    "raycluster": [
        *BARE,
        ("images/pinned", "RayCluster", f"spec.{HEAD}.containers[0].image"),
        # Workers of 2.46.0, the head of whatever is the latest.
        ("images/one_per_cluster", "RayCluster", f"spec.{WORKER}.containers[0].image"),
        ("placement/spot_nodes", "RayCluster", f"spec.{HEAD}.tolerations[0]"),
        # The Service has the port `serve` of the head's container, which declares none.
        ("ports/backends", "Ingress", "spec.rules[0].http.paths[1].backend.service.port.number"),
        (
            "references/secrets",
            "RayCluster",
            f"spec.{WORKER}.containers[0].envFrom[0].secretRef.name",
        ),
        (
            "references/claims",
            "RayCluster",
            f"spec.{WORKER}.volumes[1].persistentVolumeClaim.claimName",
        ),
        # Notebooks are not in the set: to be declared.
        ("selectors/network_policies", "NetworkPolicy", "spec.ingress[0].from[2].podSelector"),
    ],
    "redis": [
        *BARE,
        # The key of the config map has a hyphen.
        ("references/keys", "RayCluster", f"spec.{HEAD}.volumes[1].configMap.items[0].key"),
        # The same password three times.
        ("secrets/environment", "RayCluster", f"spec.{HEAD}.containers[0].env[0].value"),
        ("secrets/objects", "Secret", "data['password']"),
        ("secrets/arguments", "ConfigMap", "data['redis.conf']"),
    ],
    "monitoring": [
        *BARE,
        # The head declares as-metrics only.
        ("ports/pod_monitors", "PodMonitor", "spec.podMetricsEndpoints[2].port"),
        ("references/secrets", "Prometheus", "spec.secrets[0]"),
        # Grafana is not in the set.
        ("selectors/network_policies", "NetworkPolicy", "spec.ingress[0].from[0].podSelector"),
        # The cluster is in namespace ray.
        ("selectors/monitors", "PodMonitor", "spec.selector"),
    ],
    "kserve": [
        ("images/pinned", "InferenceService", f"{PREDICTOR}.image"),
        (
            "references/secrets",
            "InferenceService",
            f"{PREDICTOR}.env[0].valueFrom.secretKeyRef.name",
        ),
        ("references/claims", "CronJob", f"{JOB}.volumes[0].persistentVolumeClaim.claimName"),
        ("references/service_accounts", "CronJob", f"{JOB}.serviceAccountName"),
        ("references/targets", "HTTPRoute", "spec.rules[1].backendRefs[0].name"),
        ("secrets/environment", "CronJob", f"{JOB}.containers[0].env[0].value"),
        ("secrets/environment", "InferenceService", f"{PREDICTOR}.env[1].value"),
        ("secrets/objects", "Secret", "stringData['AWS_ACCESS_KEY_ID']"),
        ("secrets/objects", "Secret", "stringData['AWS_SECRET_ACCESS_KEY']"),
        ("secrets/urls", "CronJob", f"{JOB}.containers[0].env[1].value"),
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_findings_in_foreign_manifests_are_those_expected(name: str) -> None:
    found = findings(render.manifests([str(FOLDER / f"{name}.yaml")]))
    assert [(each.rule, each.kind, each.path) for each in found] == EXPECTED[name]


def test_every_foreign_set_has_an_expectation() -> None:
    assert sorted(EXPECTED) == sorted(file.stem for file in FOLDER.iterdir())


def test_external_declarations_leave_only_mistakes() -> None:
    external = ("Secret/*", "PersistentVolumeClaim/data", "Pod/app=notebook")
    manifests = Manifests(render.manifests([str(FOLDER / "raycluster.yaml")]), external)
    found, *_ = check(manifests, skip=["clusters", "images"])
    assert [each.rule for each in found] == ["placement/spot_nodes", "ports/backends"]
