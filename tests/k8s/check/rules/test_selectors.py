"""Selectors that match no pod."""

from copy import deepcopy
from typing import Any

import pytest

from tests.k8s.check.mutation import WHOLE, Mutation, broken, changed, findings, one

MUTATIONS = [
    Mutation(
        rule="selectors/disruption_budgets",
        object="PodDisruptionBudget/sampling",
        path="spec.selector",
        value={"matchLabels": {"ray.io/node-type": "wroker", "app": "sampling"}},
        says="no pod in namespace prod has the labels ray.io/node-type=wroker,app=sampling; the"
        " closest has ray.io/node-type=worker, app=sampling",
    ),
    Mutation(
        rule="selectors/disruption_budgets",
        object="PodDisruptionBudget/sampling",
        path="spec.selector",
        value={"matchLabels": {"ray.io/cluster": "sampling"}},
        says="ray.io/cluster=sampling; the closest has",
    ),
    Mutation(
        rule="selectors/disruption_budgets",
        object="PodDisruptionBudget/sampling",
        path="metadata.namespace",
        value="other",
        found="spec.selector",
        says="there is none at all",
    ),
    Mutation(
        rule="selectors/network_policies",
        object="NetworkPolicy/redis",
        path="spec.podSelector",
        value={"matchExpressions": [{"key": "app", "operator": "In", "values": ["radis"]}]},
        says="app in (radis)",
    ),
    Mutation(
        rule="selectors/network_policies",
        object="NetworkPolicy/redis",
        path="spec.podSelector",
        value={"matchExpressions": [{"key": "app", "operator": "In", "values": ["redis", "wep"]}]},
        found="spec.podSelector.matchExpressions[0].values[1]",
        says="no pod in namespace prod has app=wep and the rest; there are: redis, sampling, web;"
        " did you mean 'web'?",
    ),
    Mutation(
        rule="selectors/network_policies",
        object="NetworkPolicy/redis",
        path="spec.ingress[0].from[0].podSelector",
        value={"matchLabels": {"ray.io/node-type": "header"}},
        says="ray.io/node-type=header",
    ),
    Mutation(
        rule="selectors/network_policies",
        object="NetworkPolicy/redis",
        path="spec.egress",
        value=[
            {
                "to": [
                    {
                        "namespaceSelector": {
                            "matchLabels": {"kubernetes.io/metadata.name": "prod"}
                        },
                        "podSelector": {"matchLabels": {"app": "nobody"}},
                    }
                ]
            }
        ],
        found="spec.egress[0].to[0].podSelector",
        says="app=nobody",
    ),
    Mutation(
        rule="selectors/services",
        object="Service/redis",
        path="spec.selector",
        value={"app": "redis", "role": "leader"},
        says="app=redis,role=leader; the closest has app=redis, no role",
    ),
    Mutation(
        rule="selectors/monitors",
        object="PodMonitor/ray",
        path="spec.selector",
        value={"matchLabels": {"ray.io/is-ray-node": "true"}},
        says="the closest has ray.io/is-ray-node=yes",
    ),
    Mutation(
        rule="selectors/monitors",
        object="PodMonitor/ray",
        path="spec.namespaceSelector",
        value={"matchNames": ["staging"]},
        found="spec.selector",
        says="no pod in namespace staging",
    ),
    Mutation(
        rule="selectors/monitors",
        object="ServiceMonitor/web",
        path="spec.selector",
        value={"matchLabels": {"app": "redis"}},
        says="no Service has the labels app=redis; the closest has",
    ),
    Mutation(
        rule="selectors/workloads",
        object="Deployment/web",
        path="spec.selector",
        value={"matchLabels": {"app": "web", "tier": "back"}},
        says="its own template has not the labels app=web,tier=back; the closest has app=web,"
        " tier=front",
    ),
    Mutation(
        rule="selectors/spread",
        object="Deployment/web",
        path="spec.template.spec.topologySpreadConstraints[0].labelSelector",
        value={"matchLabels": {"app": "redis"}},
        says="so they are not spread",
    ),
    Mutation(
        rule="selectors/spread",
        object="Deployment/web",
        path="spec.template.spec.affinity.podAntiAffinity"
        ".preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector",
        value={"matchLabels": {"app": "cache"}},
        says="no pod in namespace prod has the labels app=cache",
    ),
]

MEANT: list[tuple[str, str, Any]] = [
    ("PodDisruptionBudget/sampling", "spec.selector", {}),
    ("PodDisruptionBudget/sampling", "spec.selector.matchLabels", {"ray.io/group": "replicas"}),
    (
        "PodDisruptionBudget/sampling",
        "spec.selector.matchLabels",
        {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/created-by": "kuberay-operator"},
    ),
    (
        "PodDisruptionBudget/sampling",
        "spec.selector",
        {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]},
    ),
    (
        "NetworkPolicy/redis",
        "spec.ingress[0].from[0].podSelector.matchLabels",
        {"batch.kubernetes.io/job-name": "training"},
    ),
    (
        "NetworkPolicy/redis",
        "spec.ingress[0].from[0]",
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        },
    ),
    ("ServiceMonitor/web", "spec.selector.matchLabels", {"ray.io/serve": "sampling-serve"}),
    (
        "Service/redis",
        "spec",
        {"type": "ExternalName", "externalName": "redis.example.com", "selector": {"a": "b"}},
    ),
    (
        "Deployment/web",
        "spec.template.spec.affinity.podAffinity",
        {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"namespaceSelector": {}, "labelSelector": {"matchLabels": {"app": "elsewhere"}}}
            ]
        },
    ),
]
"""Selectors whose pods KubeRay, Kubernetes or another namespace provides."""


@pytest.mark.parametrize(("object", "path", "value"), MEANT)
def test_labels_added_by_operators_count(object: str, path: str, value: Any) -> None:
    documents = changed((object, path, value))
    assert [each for each in findings(documents) if each.rule.startswith("selectors/")] == []


def test_pods_and_namespaces_declared_external_may_match() -> None:
    policy = broken(next(m for m in MUTATIONS if m.path.startswith("spec.ingress")))
    assert findings(policy, "Pod/app=x,ray.io/node-type=header") == []
    assert len(findings(policy, "Pod/app=x")) == 1
    elsewhere = broken(next(m for m in MUTATIONS if m.path == "spec.namespaceSelector"))
    assert findings(elsewhere, "Namespace/staging") == []


def test_head_is_excluded_from_its_serve_service_where_stated() -> None:
    documents = deepcopy(WHOLE)
    budget, service = (
        one(documents, "PodDisruptionBudget/sampling"),
        one(documents, "RayService/sampling"),
    )
    budget["spec"]["selector"]["matchLabels"] = {
        "ray.io/node-type": "head",
        "ray.io/serve": "true",
    }
    assert [each.rule for each in findings(documents)] == ["selectors/disruption_budgets"]
    service["spec"]["excludeHeadPodFromServeSvc"] = False
    assert "selectors/disruption_budgets" not in [each.rule for each in findings(documents)]
