"""Clusters that take work from anybody, and heads that do it themselves."""

from copy import deepcopy
from typing import Any

import pytest

from tests.k8s.check.mutation import GONE, WHOLE, Mutation, changed, copied, findings, one, set_at

JOB = "spec.rayClusterSpec"
SERVICE = "spec.rayClusterConfig"
HEAD = "headGroupSpec.template.spec.containers[0]"
WORKER = "workerGroupSpecs[0].template.spec.containers[0]"

MUTATIONS = [
    Mutation(
        rule="clusters/authentication",
        object="RayJob/training",
        path=f"{JOB}.authOptions",
        value=GONE,
        says="the head, gpus, cpus are asked for no token (RAY_AUTH_MODE), so whoever reaches",
    ),
    Mutation(
        rule="clusters/authentication",
        object="RayService/sampling",
        path=f"{SERVICE}.authOptions.mode",
        value="disabled",
        found=f"{SERVICE}.authOptions",
        says="set authOptions.mode to token",
    ),
    Mutation(
        rule="clusters/idle_head",
        object="RayService/sampling",
        path=f"{SERVICE}.headGroupSpec.rayStartParams.num-cpus",
        value="2",
        says="is 2, so work and replicas go to the head before a node is added for them",
    ),
    Mutation(
        rule="clusters/head_gpus",
        object="RayJob/training",
        path=f"{JOB}.{HEAD}.resources.limits['nvidia.com/gpu']",
        value="1",
        says="is 1: the head coordinates, and holds a GPU node",
    ),
    Mutation(
        rule="clusters/memory_limits",
        object="RayJob/training",
        path=f"{JOB}.workerGroupSpecs[1].template.spec.containers[0].resources.limits.memory",
        value=GONE,
        says="is not given: Ray sizes its object store and what it admits by the memory of the",
    ),
    Mutation(
        rule="clusters/memory_limits",
        object="RayService/sampling",
        path=f"{SERVICE}.{HEAD}.resources",
        value={"requests": {"memory": "4Gi"}},
        found=f"{SERVICE}.{HEAD}.resources.limits.memory",
        says="give a limit, and the same as a request",
    ),
]


def rules_of(*changes: tuple[str, str, Any]) -> list[tuple[str, str]]:
    documents = deepcopy(WHOLE)
    for name, path, value in changes:
        set_at(one(documents, name), path, value)
    return [(each.rule, each.path) for each in findings(documents)]


def token(group: str) -> tuple[str, str, Any]:
    value = [{"name": "RAY_AUTH_MODE", "value": "token"}]
    return "RayJob/training", f"{JOB}.{group}.template.spec.containers[0].env", value


def test_token_variable_must_be_in_every_group() -> None:
    without = ("RayJob/training", f"{JOB}.authOptions", GONE)
    groups = ["headGroupSpec", "workerGroupSpecs[0]", "workerGroupSpecs[1]"]
    assert rules_of(without, *map(token, groups)) == []
    found = ("clusters/authentication", f"{JOB}.authOptions")
    assert rules_of(without, *map(token, groups[:2])) == [found]
    wrong = [{"name": "RAY_AUTH_MODE", "value": "disabled"}]
    head = ("RayJob/training", f"{JOB}.{HEAD}.env", wrong)
    assert rules_of(without, *map(token, groups), head) == [found]


def test_token_may_come_from_a_config_map() -> None:
    changes: list[tuple[str, str, Any]] = [
        ("RayJob/training", f"{JOB}.authOptions", GONE),
        ("ConfigMap/settings", "data.RAY_AUTH_MODE", "token"),
    ]
    for group in ("headGroupSpec", "workerGroupSpecs[0]", "workerGroupSpecs[1]"):
        path = f"{JOB}.{group}.template.spec.containers[0].envFrom"
        changes.append(("RayJob/training", path, [{"configMapRef": {"name": "settings"}}]))
    assert rules_of(*changes) == []
    assert rules_of(*changes[:1], *changes[2:]) == [
        ("clusters/authentication", f"{JOB}.authOptions")
    ]


def test_old_ray_without_tokens_is_reported() -> None:
    documents, job = copied("RayJob/training")
    set_at(job, f"{JOB}.authOptions", GONE)
    set_at(job, f"{JOB}.rayVersion", "2.46.0")
    (found,) = [each for each in findings(documents) if each.rule == "clusters/authentication"]
    assert found.message.endswith("to token, with Ray 2.52 or later in place of 2.46.0")


@pytest.mark.parametrize(
    ("stated", "number"), [({"num-cpus": "0"}, 0), ({"num-cpus": 0}, 0), ({}, 1), (GONE, 1)]
)
def test_head_beside_an_autoscaler_must_be_idle(stated: Any, number: int) -> None:
    scales = ("RayJob/training", f"{JOB}.enableInTreeAutoscaling", True)
    head = ("RayJob/training", f"{JOB}.headGroupSpec.rayStartParams", stated)
    found = rules_of(scales, head)
    path = f"{JOB}.headGroupSpec.rayStartParams.num-cpus"
    assert found == [("clusters/idle_head", path)] * number


def test_head_may_be_idle_by_resources_or_work_without_autoscaler() -> None:
    scales = ("RayJob/training", f"{JOB}.enableInTreeAutoscaling", True)
    start = ("RayJob/training", f"{JOB}.headGroupSpec.rayStartParams", {})
    own = ("RayJob/training", f"{JOB}.headGroupSpec.resources", {"CPU": "0"})
    assert rules_of(scales, start, own) == []
    assert rules_of(start) == []


def test_lone_head_may_work() -> None:
    job = "RayJob/training"
    alone: list[tuple[str, str, Any]] = [
        (job, f"{JOB}.workerGroupSpecs", []),
        (job, f"{JOB}.{HEAD}.resources.limits['nvidia.com/gpu']", "1"),
        (job, f"{JOB}.enableInTreeAutoscaling", True),
        (job, f"{JOB}.headGroupSpec.rayStartParams", {}),
    ]
    assert rules_of(*alone) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{JOB}.headGroupSpec.rayStartParams.num-gpus", "1"),
        (f"{JOB}.headGroupSpec.resources", {"GPU": "2"}),
        (f"{JOB}.{HEAD}.resources.limits['nvidia.com/mig-1g.5gb']", 1),
    ],
)
def test_gpu_on_a_head_is_found_in_every_field(path: str, value: Any) -> None:
    found = [rule for rule, _ in rules_of(("RayJob/training", path, value))]
    assert "clusters/head_gpus" in found


def test_limit_may_come_from_pod_namespace_or_ray_flag() -> None:
    gone = ("RayJob/training", f"{JOB}.{WORKER}.resources.limits.memory", GONE)
    pod = f"{JOB}.workerGroupSpecs[0].template.spec.resources"
    assert rules_of(gone, ("RayJob/training", pod, {"limits": {"memory": "8Gi"}})) == []
    flag = f"{JOB}.workerGroupSpecs[0].rayStartParams.memory"
    assert rules_of(gone, ("RayJob/training", flag, "1000000000")) == []
    documents = changed(("RayJob/training", gone[1], GONE))
    limits = [{"type": "Container", "default": {"memory": "1Gi"}}]
    ranges = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "limits", "namespace": "prod"},
        "spec": {"limits": limits},
    }
    assert findings([*documents, ranges]) == []
    ranges["metadata"] = {"name": "limits", "namespace": "other"}
    assert [each.rule for each in findings([*documents, ranges])] == ["clusters/memory_limits"]
