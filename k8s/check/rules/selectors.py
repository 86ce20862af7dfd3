"""A selector that matches nothing is accepted, and protects, reaches or measures nothing."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from k8s.check.finding import Finding, finding, list_known
from k8s.check.labels import MOST_COMPARED, closest_selector, format_selector, matches
from k8s.check.manifests import Manifests
from k8s.check.objects import Object, get_list, get_mapping, get_path, iter_mappings
from k8s.check.pods import PodTemplate
from k8s.check.services import Service

_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
_NAMESPACE = "kubernetes.io/metadata.name"
"""Label that every namespace has."""
_SYSTEM = ("kube-system", "kube-public", "kube-node-lease")
"""Namespaces that every cluster has."""


def disruption_budgets(manifests: Manifests) -> Iterator[Finding]:
    """A PodDisruptionBudget selects no pod: it protects nothing."""
    for by in manifests.of_kind("PodDisruptionBudget"):
        selector = get_path(by.spec, "selector")
        yield from _no_pods(manifests, by, "spec.selector", selector, [by.namespace])


def network_policies(manifests: Manifests) -> Iterator[Finding]:
    """A NetworkPolicy selects no pod, or lets in or out pods that there are not."""
    for by in manifests.of_kind("NetworkPolicy"):
        own = get_path(by.spec, "podSelector")
        yield from _no_pods(manifests, by, "spec.podSelector", own, [by.namespace])
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for i, rule in iter_mappings(by.spec, direction):
                for j, peer in iter_mappings(rule, side):
                    path = f"spec.{direction}[{i}].{side}[{j}].podSelector"
                    namespaces = peer_namespaces(manifests, by, peer)
                    yield from _no_pods(manifests, by, path, peer.get("podSelector"), namespaces)


def peer_namespaces(manifests: Manifests, by: Object, peer: Mapping[str, Any]) -> list[str] | None:
    """Namespaces of a peer of a NetworkPolicy, or None if it may mean some outside of the set."""
    selector = get_path(peer, "namespaceSelector")
    if selector is None:
        return [by.namespace]
    named = get_mapping(selector, "matchLabels").get(_NAMESPACE)
    known = isinstance(named, str) and named in manifests.labelled_pods.namespaces
    return [str(named)] if known else None


def services(manifests: Manifests) -> Iterator[Finding]:
    """A Service selects no pod: it has no endpoint."""
    for by in manifests.of_kind("Service"):
        selector = get_mapping(by.spec, "selector")
        if selector and by.spec.get("type") != "ExternalName":
            meant = {"matchLabels": selector}
            yield from _no_pods(manifests, by, "spec.selector", meant, [by.namespace])


def monitors(manifests: Manifests) -> Iterator[Finding]:
    """A PodMonitor selects no pod, or a ServiceMonitor no Service: nothing is measured."""
    for by in manifests.of_kind("PodMonitor"):
        namespaces = monitored_namespaces(by)
        where = _all(manifests) if namespaces is None else namespaces
        yield from _no_pods(manifests, by, "spec.selector", get_path(by.spec, "selector"), where)
    for by in manifests.of_kind("ServiceMonitor"):
        selector = get_mapping(by.spec, "selector")
        outside = any(matches(selector, each) for each in manifests.outside("Service", by))
        elsewhere = _are_outside(manifests, by, monitored_namespaces(by))
        if not (monitored_services(manifests, by) or outside or elsewhere):
            there = (each.labels for each in manifests.services)
            yield finding(
                by,
                "spec.selector",
                f"no Service has the labels {format_selector(selector)};"
                f" {closest_selector(selector, there)}. Correct the labels, or declare it:"
                " --external Service/key=value",
            )


def monitored_namespaces(by: Object) -> list[str] | None:
    """Namespaces that a monitor looks into, None for all."""
    where = get_mapping(by.spec, "namespaceSelector")
    if where.get("any") is True:
        return None
    return [str(name) for name in get_list(where, "matchNames")] or [by.namespace]


def monitored_pods(manifests: Manifests, by: Object) -> list[PodTemplate]:
    """Pods that a PodMonitor selects."""
    selector = get_mapping(by.spec, "selector")
    return manifests.labelled_pods.selected(selector, monitored_namespaces(by))


def monitored_services(manifests: Manifests, by: Object) -> list[Service]:
    """Services that a ServiceMonitor selects."""
    selector = get_mapping(by.spec, "selector")
    return manifests.labelled_services.selected(selector, monitored_namespaces(by))


def workloads(manifests: Manifests) -> Iterator[Finding]:
    """A workload's selector does not match the pods of its own template."""
    for pods in manifests.pods:
        selector = get_mapping(pods.owner.spec, "selector")
        if pods.owner.kind in _WORKLOADS and not matches(selector, pods.labels):
            yield finding(
                pods.owner,
                "spec.selector",
                f"its own template has not the labels {format_selector(selector)};"
                f" {closest_selector(selector, [pods.labels])}. Make them equal",
            )


def spread(manifests: Manifests) -> Iterator[Finding]:
    """Pods are spread over nodes, or kept near or apart, by labels that no pod has."""
    for pods in manifests.pods:
        for index, each in iter_mappings(pods.spec, "topologySpreadConstraints"):
            selector = get_mapping(each, "labelSelector")
            if not matches(selector, pods.labels):
                yield finding(
                    pods.owner,
                    f"{pods.path}.topologySpreadConstraints[{index}].labelSelector",
                    f"the pods themselves have not the labels {format_selector(selector)}, so they"
                    f" are not spread; {closest_selector(selector, [pods.labels])}",
                )
        for path, term in _affinity(pods):
            if "namespaceSelector" not in term:
                stated = [str(name) for name in get_list(term, "namespaces")]
                namespaces = stated or [pods.owner.namespace]
                selector = get_path(term, "labelSelector")
                yield from _no_pods(manifests, pods.owner, path, selector, namespaces)


def _affinity(pods: PodTemplate) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path of its labelSelector, term) of what a pod wants near or far."""
    for kind in ("podAffinity", "podAntiAffinity"):
        path = f"{pods.path}.affinity.{kind}"
        needed, liked = (
            f"{when}DuringSchedulingIgnoredDuringExecution" for when in ("required", "preferred")
        )
        described = get_mapping(pods.spec, "affinity", kind)
        for index, term in iter_mappings(described, needed):
            yield f"{path}.{needed}[{index}].labelSelector", term
        for index, term in iter_mappings(described, liked):
            at = f"{path}.{liked}[{index}].podAffinityTerm.labelSelector"
            yield at, get_mapping(term, "podAffinityTerm")


def _all(manifests: Manifests) -> list[str]:
    return sorted(manifests.labelled_pods.namespaces)


def _are_outside(manifests: Manifests, by: Object, namespaces: list[str] | None) -> bool:
    """True if all of these namespaces are outside of the set."""
    return bool(namespaces) and all(
        name in _SYSTEM or manifests.is_external("Namespace", name, by) for name in namespaces or ()
    )


def _no_pods(
    manifests: Manifests, by: Object, path: str, selector: Any, namespaces: list[str] | None
) -> Iterator[Finding]:
    """A finding if a selector takes no pod; an empty one takes all and is meant so."""
    if not isinstance(selector, Mapping) or not selector or namespaces is None:
        return
    if _are_outside(manifests, by, namespaces):
        return
    pods, outside = manifests.labelled_pods, manifests.outside("Pod", by)

    def takes(some: Mapping[str, Any]) -> bool:
        there = bool(pods.selected(some, namespaces))
        return there or any(matches(some, labels) for labels in outside)

    declare = "Correct it, or declare the pods: --external Pod/key=value"
    where = f"no pod in namespace {', '.join(namespaces)} has"
    if not takes(selector):
        there = pods.labels(namespaces)
        closest = closest_selector(selector, there)
        message = f"{where} the labels {format_selector(selector)}; {closest}. {declare}"
        yield finding(by, path, message)
        return
    for below, key, value, narrowed in _each_value(selector):
        if not takes(narrowed):
            there = islice(pods.labels(namespaces), MOST_COMPARED)
            others = {labels[key] for labels in there if key in labels}
            message = f"{where} {key}={value} and the rest; {list_known(others, value)}. {declare}"
            yield finding(by, f"{path}.{below}", message)


def _each_value(
    selector: Mapping[str, Any],
) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """(path, key, value, selector of it alone) of every value that an expression lets in."""
    expressions = [each for _, each in iter_mappings(selector, "matchExpressions")]
    for i, each in enumerate(expressions):
        for j, value in enumerate(get_list(each, "values") if each.get("operator") == "In" else ()):
            alone = [*expressions[:i], {**each, "values": [value]}, *expressions[i + 1 :]]
            narrowed = {**selector, "matchExpressions": alone}
            yield f"matchExpressions[{i}].values[{j}]", str(each.get("key")), value, narrowed


RULES = (disruption_budgets, network_policies, services, monitors, workloads, spread)
