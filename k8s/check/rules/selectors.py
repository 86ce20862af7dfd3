"""A selector that matches nothing is accepted, and protects, reaches or measures nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.check.finding import Finding, finding, there_are
from k8s.check.labels import matches, nearest, shown
from k8s.check.manifests import Manifests
from k8s.check.objects import Object, dig, rows, table, tables
from k8s.check.pods import Pods
from k8s.check.services import Service

_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
_NAMESPACE = "kubernetes.io/metadata.name"
"""Label that every namespace has."""
_SYSTEM = ("kube-system", "kube-public", "kube-node-lease")
"""Namespaces that every cluster has."""


def disruption_budgets(manifests: Manifests) -> Iterator[Finding]:
    """A PodDisruptionBudget selects no pod: it protects nothing."""
    for by in manifests.of_kind("PodDisruptionBudget"):
        selector = dig(by.spec, "selector")
        yield from _no_pods(manifests, by, "spec.selector", selector, [by.namespace])


def network_policies(manifests: Manifests) -> Iterator[Finding]:
    """A NetworkPolicy selects no pod, or lets in or out pods that there are not."""
    for by in manifests.of_kind("NetworkPolicy"):
        own = dig(by.spec, "podSelector")
        yield from _no_pods(manifests, by, "spec.podSelector", own, [by.namespace])
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for i, rule in tables(by.spec, direction):
                for j, peer in tables(rule, side):
                    path = f"spec.{direction}[{i}].{side}[{j}].podSelector"
                    namespaces = peer_namespaces(manifests, by, peer)
                    yield from _no_pods(manifests, by, path, peer.get("podSelector"), namespaces)


def peer_namespaces(manifests: Manifests, by: Object, peer: Mapping[str, Any]) -> list[str] | None:
    """Namespaces of a peer of a NetworkPolicy, or None if it may mean some outside of the set."""
    selector = dig(peer, "namespaceSelector")
    if selector is None:
        return [by.namespace]
    known = {each.owner.namespace for each in manifests.pods}
    named = table(selector, "matchLabels").get(_NAMESPACE)
    return [named] if named in known else None


def services(manifests: Manifests) -> Iterator[Finding]:
    """A Service selects no pod: it has no endpoint."""
    for by in manifests.of_kind("Service"):
        selector = table(by.spec, "selector")
        if selector and by.spec.get("type") != "ExternalName":
            meant = {"matchLabels": selector}
            yield from _no_pods(manifests, by, "spec.selector", meant, [by.namespace])


def monitors(manifests: Manifests) -> Iterator[Finding]:
    """A PodMonitor selects no pod, or a ServiceMonitor no Service: nothing is measured."""
    for by in manifests.of_kind("PodMonitor"):
        namespaces = monitored_namespaces(by)
        where = _all(manifests) if namespaces is None else namespaces
        yield from _no_pods(manifests, by, "spec.selector", dig(by.spec, "selector"), where)
    for by in manifests.of_kind("ServiceMonitor"):
        selector = table(by.spec, "selector")
        outside = any(matches(selector, each) for each in manifests.outside("Service", by))
        elsewhere = _are_outside(manifests, by, monitored_namespaces(by))
        if not (monitored_services(manifests, by) or outside or elsewhere):
            there = [each.labels for each in manifests.services]
            yield finding(
                by,
                "spec.selector",
                f"no Service has the labels {shown(selector)}; {nearest(selector, there)}. Correct"
                " the labels, or declare it: --external Service/key=value",
            )


def monitored_namespaces(by: Object) -> list[str] | None:
    """Namespaces that a monitor looks into, None for all."""
    where = table(by.spec, "namespaceSelector")
    if where.get("any") is True:
        return None
    return [str(name) for name in rows(where, "matchNames")] or [by.namespace]


def monitored_pods(manifests: Manifests, by: Object) -> list[Pods]:
    """Pods that a PodMonitor selects."""
    namespaces = monitored_namespaces(by)
    return [
        pods
        for pods in manifests.pods
        if (namespaces is None or pods.owner.namespace in namespaces)
        and matches(table(by.spec, "selector"), pods.labels)
    ]


def monitored_services(manifests: Manifests, by: Object) -> list[Service]:
    """Services that a ServiceMonitor selects."""
    namespaces = monitored_namespaces(by)
    return [
        service
        for service in manifests.services
        if (namespaces is None or service.namespace in namespaces)
        and matches(table(by.spec, "selector"), service.labels)
    ]


def workloads(manifests: Manifests) -> Iterator[Finding]:
    """A workload's selector does not match the pods of its own template."""
    for pods in manifests.pods:
        selector = table(pods.owner.spec, "selector")
        if pods.owner.kind in _WORKLOADS and not matches(selector, pods.labels):
            yield finding(
                pods.owner,
                "spec.selector",
                f"its own template has not the labels {shown(selector)};"
                f" {nearest(selector, [pods.labels])}. Make them equal",
            )


def spread(manifests: Manifests) -> Iterator[Finding]:
    """Pods are spread over nodes, or kept near or apart, by labels that no pod has."""
    for pods in manifests.pods:
        for index, each in tables(pods.spec, "topologySpreadConstraints"):
            selector = table(each, "labelSelector")
            if not matches(selector, pods.labels):
                yield finding(
                    pods.owner,
                    f"{pods.path}.topologySpreadConstraints[{index}].labelSelector",
                    f"the pods themselves have not the labels {shown(selector)}, so they are not"
                    f" spread; {nearest(selector, [pods.labels])}",
                )
        for path, term in _affinity(pods):
            if "namespaceSelector" not in term:
                stated = [str(name) for name in rows(term, "namespaces")]
                namespaces = stated or [pods.owner.namespace]
                selector = dig(term, "labelSelector")
                yield from _no_pods(manifests, pods.owner, path, selector, namespaces)


def _affinity(pods: Pods) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path of its labelSelector, term) of what a pod wants near or far."""
    for kind in ("podAffinity", "podAntiAffinity"):
        path = f"{pods.path}.affinity.{kind}"
        needed, liked = (
            f"{when}DuringSchedulingIgnoredDuringExecution" for when in ("required", "preferred")
        )
        described = table(pods.spec, "affinity", kind)
        for index, term in tables(described, needed):
            yield f"{path}.{needed}[{index}].labelSelector", term
        for index, term in tables(described, liked):
            at = f"{path}.{liked}[{index}].podAffinityTerm.labelSelector"
            yield at, table(term, "podAffinityTerm")


def _all(manifests: Manifests) -> list[str]:
    return sorted({pods.owner.namespace for pods in manifests.pods})


def _are_outside(manifests: Manifests, by: Object, namespaces: list[str] | None) -> bool:
    """Whether all of these namespaces are none of the set's business."""
    return bool(namespaces) and all(
        name in _SYSTEM or manifests.is_external("Namespace", name, by) for name in namespaces or ()
    )


def _no_pods(
    manifests: Manifests, by: Object, path: str, selector: Any, namespaces: list[str] | None
) -> Iterator[Finding]:
    """A finding if a selector takes no pod; an empty one takes all and is meant so."""
    if not isinstance(selector, Mapping) or not selector or namespaces is None:
        return
    there = [pods.labels for pods in manifests.pods if pods.owner.namespace in namespaces]
    candidates = [*there, *manifests.outside("Pod", by)]
    if _are_outside(manifests, by, namespaces):
        return
    declare = "Correct it, or declare the pods: --external Pod/key=value"
    where = f"no pod in namespace {', '.join(namespaces)} has"
    if not any(matches(selector, labels) for labels in candidates):
        said = f"{where} the labels {shown(selector)}; {nearest(selector, there)}. {declare}"
        yield finding(by, path, said)
        return
    for below, key, value, narrowed in _each_value(selector):
        if not any(matches(narrowed, labels) for labels in candidates):
            others = {labels[key] for labels in there if key in labels}
            said = f"{where} {key}={value} and the rest; {there_are(others, value)}. {declare}"
            yield finding(by, f"{path}.{below}", said)


def _each_value(
    selector: Mapping[str, Any],
) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """(path, key, value, selector of it alone) of every value that an expression lets in."""
    expressions = [each for _, each in tables(selector, "matchExpressions")]
    for i, each in enumerate(expressions):
        for j, value in enumerate(rows(each, "values") if each.get("operator") == "In" else ()):
            alone = [*expressions[:i], {**each, "values": [value]}, *expressions[i + 1 :]]
            narrowed = {**selector, "matchExpressions": alone}
            yield f"matchExpressions[{i}].values[{j}]", str(each.get("key")), value, narrowed


RULES = (disruption_budgets, network_policies, services, monitors, workloads, spread)
