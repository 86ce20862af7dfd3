"""Network policies of all combinations, evaluated as Kubernetes does: who reaches whom."""

import ipaddress
from typing import Any

import pytest

from k8s.check.labels import matches
from tests.k8s.rendered import Object, Rendered, combinations, has_s3

HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}
RAY = {6379, 6380, 6381, *range(11000, 12000)}
"""Ports of a head that its workers reach."""
METADATA = "169.254.169.254"


def pod(app: str, component: str, namespace: str = "aigc", **more: str) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "aigc",
    }
    return {"namespace": namespace, "labels": labels | more}


PODS = {
    "sampling head": pod("sampling", "head"),
    "sampling worker": pod("sampling", "worker"),
    "redis": pod("sampling", "redis"),
    "training head": pod("training", "head"),
    "training worker": pod("training", "worker"),
    "submitter": pod("training", "submitter"),
    "operator": pod("kuberay-operator", "kuberay-operator", "kuberay"),
    "somebody called operator": pod("kuberay-operator", "kuberay-operator", "elsewhere"),
    "somebody": pod("somebody", "worker", "elsewhere"),
    "nginx": pod("ingress-nginx", "controller", "ingress-nginx"),
    "prometheus": pod("prometheus", "prometheus", "monitoring"),
}
PORTS = (6379, 6380, 6381, 8000, 8080, 8265, 9464, 10001, 11500, 23000, 30001, 52365)


def policies(objects: list[Object], name: str) -> list[Object]:
    own = PODS[name]
    return [
        one["spec"]
        for one in objects
        if one["kind"] == "NetworkPolicy"
        and own["namespace"] == "aigc"
        and matches(one["spec"]["podSelector"], own["labels"])
    ]


def is_peer(peer: Object, other: dict[str, Any]) -> bool:
    if "ipBlock" in peer:
        return False
    where = peer.get("namespaceSelector")
    labels = {"kubernetes.io/metadata.name": other["namespace"]}
    inside = other["namespace"] == "aigc" if where is None else matches(where, labels)
    return inside and matches(peer.get("podSelector", {}), other["labels"])


def has_port(rule: Object, port: int, names: dict[str, int]) -> bool:
    for one in rule.get("ports", [{}]):
        first = one.get("port", 0)
        first = names.get(first, -1) if isinstance(first, str) else first
        if "port" not in one or first <= port <= one.get("endPort", first):
            return True
    return False


def open_ports(objects: list[Object], source: str, target: str) -> set[int]:
    """Ports of `target` that `source` reaches."""
    names = HEAD_PORTS | {"redis": 6379}

    def lets(name: str, other: str, direction: str, side: str, port: int) -> bool:
        about = [p for p in policies(objects, name) if direction in p["policyTypes"]]
        rules = [rule for p in about for rule in p.get(direction.lower(), ())]
        return not about or any(
            (not rule.get(side) or any(is_peer(peer, PODS[other]) for peer in rule[side]))
            and has_port(rule, port, names)
            for rule in rules
        )

    return {
        port
        for port in PORTS
        if lets(source, target, "Egress", "to", port)
        and lets(target, source, "Ingress", "from", port)
    }


def test_workers_reach_the_ray_ports_of_their_head_only(rendered: Rendered) -> None:
    objects = rendered.objects("training-job")
    for app in ("sampling", "training"):
        ports = open_ports(objects, f"{app} worker", f"{app} head")
        assert ports == {port for port in PORTS if port in RAY}
        assert open_ports(objects, f"{app} head", f"{app} worker") == set(PORTS)


def test_workers_reach_no_other_pod(rendered: Rendered) -> None:
    objects = rendered.objects("training-job")
    for source in ("sampling worker", "training worker"):
        app = source.partition(" ")[0]
        for target in PODS:
            if target not in (source, f"{app} head"):
                assert open_ports(objects, source, target) == set(), (source, target)


def test_only_the_head_reaches_redis(rendered: Rendered) -> None:
    objects = rendered.objects("training-job")
    reached = {source: open_ports(objects, source, "redis") for source in PODS}
    assert reached.pop("sampling head") == {6379}
    assert set(map(frozenset, reached.values())) == {frozenset()}
    assert all(open_ports(objects, "redis", target) == set() for target in PODS)


def test_dashboard_is_open_to_operator_and_submitter_only(
    rendered: Rendered,
) -> None:
    objects = rendered.objects("training-job")
    for head, besides in (("sampling head", set()), ("training head", {"submitter"})):
        reach = {source for source in PODS if 8265 in open_ports(objects, source, head)}
        assert reach == {"operator", *besides}


def test_outside_reaches_requests_and_metrics_only(rendered: Rendered) -> None:
    objects = rendered.objects("training-job")
    assert open_ports(objects, "nginx", "sampling worker") == {8000}
    assert open_ports(objects, "nginx", "sampling head") == set()
    assert open_ports(objects, "prometheus", "sampling worker") == {8080, 9464}
    for source in ("somebody", "somebody called operator"):
        assert all(open_ports(objects, source, t) == set() for t in PODS if t not in OUTSIDE)


OUTSIDE = {name for name, each in PODS.items() if each["namespace"] != "aigc"}


@pytest.mark.parametrize("name", combinations())
def test_no_pod_reaches_the_cloud_metadata_service(name: str, rendered: Rendered) -> None:
    """Nor, from a bucket's policy, a private network."""
    private = ("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1")
    blocks = [
        (one["metadata"]["name"], peer["ipBlock"])
        for one in rendered.objects(name)
        if one["kind"] == "NetworkPolicy"
        for rule in one["spec"].get("egress", ())
        for peer in rule.get("to", ())
        if "ipBlock" in peer
    ]
    assert ("ray-to-s3" in dict(blocks)) == has_s3(name)
    for policy, block in blocks:
        for address in (METADATA, *(private if policy == "ray-to-s3" else ())):
            assert not _within(block, address), (policy, address)


def _within(block: Object, address: str) -> bool:
    networks = [ipaddress.ip_network(each) for each in (block["cidr"], *block.get("except", ()))]
    inside, *excepted = (ipaddress.ip_address(address) in each for each in networks)
    return inside and not any(excepted)


@pytest.mark.parametrize("name", combinations())
def test_policy_ports_are_those_given_to_ray(name: str, rendered: Rendered) -> None:
    objects = rendered.objects(name)
    for kind, app in (("RayService", "sampling"), ("RayJob", "training")):
        for one in objects:
            if one["kind"] != kind:
                continue
            spec = one["spec"].get("rayClusterConfig") or one["spec"]["rayClusterSpec"]
            start = spec["headGroupSpec"]["rayStartParams"]
            given = {int(start[f"{each}-port"]) for each in ("node-manager", "object-manager")}
            given |= {*range(int(start["min-worker-port"]), int(start["max-worker-port"]) + 1)}
            (policy,) = (
                o["spec"]
                for o in objects
                if (o["kind"], o["metadata"]["name"]) == ("NetworkPolicy", f"{app}-workers-to-head")
            )
            (rule,) = policy["ingress"]
            named = {
                number
                for port in rule["ports"]
                if isinstance(port["port"], int)
                for number in range(port["port"], port.get("endPort", port["port"]) + 1)
            }
            assert (given, {*given, 6379}) == (named, RAY)
