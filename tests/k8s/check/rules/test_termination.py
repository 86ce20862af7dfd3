"""Steps before a pod is killed must fit into its grace period."""

import warnings

from k8s.check.manifests import Manifests
from k8s.check.rules.termination import OUR_GRACEFUL_S, sleep_of
from tests.k8s.check.mutation import GONE, Mutation, copied, findings, one, set_at

WORKER = "spec.rayClusterConfig.workerGroupSpecs[0].template.spec"

MUTATIONS = [
    Mutation(
        rule="termination/hooks",
        object="Deployment/web",
        path="spec.template.spec.containers[0].lifecycle.preStop",
        value={"sleep": {"seconds": 40}},
        says="it sleeps 40 s of the pod's terminationGracePeriodSeconds 40",
    ),
    Mutation(
        rule="termination/hooks",
        object="Deployment/web",
        path="spec.template.spec.containers[0].lifecycle.preStop",
        value={"exec": {"command": ["sh", "-c", "rm /ready; sleep 41"]}},
        says="it sleeps 41 s",
    ),
    Mutation(
        rule="termination/draining",
        object="RayService/sampling",
        path=f"{WORKER}.terminationGracePeriodSeconds",
        value=90,
        says="is 90, and must be more than 90: preStop sleeps 20 s, then Ray drains 70 s",
    ),
    Mutation(
        rule="termination/draining",
        object="RayService/sampling",
        path=f"{WORKER}.terminationGracePeriodSeconds",
        value=GONE,
        says="is 30 (the default), and must be more than 90",
    ),
    Mutation(
        rule="termination/drain_window",
        object="RayService/sampling",
        path="spec.serveConfigV2.applications[1].deployments[0].graceful_shutdown_timeout_s",
        value=41,
        found=f"{WORKER}.containers[0].env",
        says="RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is 70, after which Ray ends all processes of"
        " the node, and must be at least 71: replicas have 41 s",
    ),
    Mutation(
        rule="termination/drain_window",
        object="RayService/sampling",
        path=f"{WORKER}.containers[0].env",
        value=GONE,
        says="RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is 30 (the default)",
    ),
    Mutation(
        rule="termination/upgrades",
        object="RayService/sampling",
        path="spec.rayClusterDeletionDelaySeconds",
        value=120,
        says="is 120, and must be more than the 120 s",
    ),
    Mutation(
        rule="termination/upgrades",
        object="RayService/sampling",
        path="spec.rayClusterDeletionDelaySeconds",
        value=GONE,
        says="is 60 (the default)",
    ),
]


def test_variables_may_come_from_a_config_map() -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, f"{WORKER}.containers[0].env", GONE)
    set_at(
        service,
        f"{WORKER}.containers[0].envFrom",
        [{"prefix": "RAY_", "configMapRef": {"name": "settings"}}],
    )
    settings = one(documents, "ConfigMap/settings")["data"]
    settings["GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "70"
    assert findings(documents) == []
    settings |= {
        "SERVE_ENABLE_HA_PROXY": "1",
        "SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "50",
    }
    (found,) = findings(documents)
    assert "at least 80: replicas have 50 s" in found.message
    settings["SERVE_PROXY_MIN_DRAINING_PERIOD_S"] = "20"
    assert findings(documents) == []


def test_last_value_of_a_variable_counts() -> None:
    drain = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    maps = [
        {"kind": "ConfigMap", "metadata": {"name": name}, "data": {drain: value}}
        for name, value in (("a", "1"), ("b", "2"))
    ]
    owner = {"kind": "Pod", "metadata": {"name": "x"}}
    manifests = Manifests([*maps, owner])
    by = manifests.all[-1]
    both = [{"configMapRef": {"name": name}} for name in ("a", "b")]
    named = {"configMapKeyRef": {"name": "a", "key": drain}}
    assert manifests.variable(by, {}, drain) is None
    assert manifests.variable(by, {"envFrom": both}, drain) == "2"
    assert manifests.variable(by, {"envFrom": both[::-1]}, drain) == "1"
    env = [{"name": drain, "valueFrom": named}]
    assert manifests.variable(by, {"envFrom": both, "env": env}, drain) == "1"
    env = [{"name": drain, "value": "3"}]
    assert manifests.variable(by, {"envFrom": both, "env": env}, drain) == "3"


def test_old_ray_does_not_drain_and_serving_heads_count() -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, f"{WORKER}.containers[0].env", GONE)
    set_at(service, "spec.rayClusterConfig.rayVersion", "2.49.0")
    assert "termination/drain_window" not in [each.rule for each in findings(documents)]
    set_at(service, "spec.excludeHeadPodFromServeSvc", False)
    found = [each for each in findings(documents) if each.rule == "termination/draining"]
    assert [each.path for each in found] == [
        "spec.rayClusterConfig.headGroupSpec.template.spec.terminationGracePeriodSeconds"
    ]
    assert "is 30 (the default), and must be more than 30" in found[0].message


def test_cluster_that_is_never_replaced_needs_no_deletion_time() -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, "spec.rayClusterDeletionDelaySeconds", GONE)
    assert [each.rule for each in findings(documents)] == ["termination/upgrades"]
    set_at(service, "spec.upgradeStrategy", {"type": "None"})
    assert findings(documents) == []


def test_head_without_replicas_ends_its_proxy_only() -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, "spec.excludeHeadPodFromServeSvc", False)
    head = "spec.rayClusterConfig.headGroupSpec.template.spec"
    set_at(service, f"{head}.terminationGracePeriodSeconds", 31)
    assert findings(documents) == []
    behind = [{"name": "RAY_SERVE_ENABLE_HA_PROXY", "value": "1"}]
    set_at(service, f"{head}.containers[0].env", behind)
    assert findings(documents) == []


def test_graceful_shutdown_matches_the_application() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own
        from serve.app import build
    pool = build({"artifacts": ["a"]})._bound_deployment
    assert pool._deployment_config.graceful_shutdown_timeout_s == OUR_GRACEFUL_S


def test_pre_stop_sleep_is_parsed() -> None:
    assert sleep_of({}) == 0
    for hook in ({"sleep": {"seconds": 5}}, {"exec": {"command": ["sleep", "5"]}}):
        assert sleep_of({"lifecycle": {"preStop": hook}}) == 5
    command = {"exec": {"command": ["bash", "-c", "sleep 2 && curl x/asleep 9 && sleep 0.5"]}}
    assert sleep_of({"lifecycle": {"preStop": command}}) == 2.5
