"""A port that goes by a name which nothing declares leads nowhere, without an error."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from k8s.check.finding import Finding, finding, list_known
from k8s.check.manifests import Manifests
from k8s.check.objects import Object, get_mapping, get_path, get_string, iter_mappings
from k8s.check.pods import PodTemplate
from k8s.check.reference_finder import ingress_backends, route_backends
from k8s.check.rules.selectors import monitored_pods, monitored_services, peer_namespaces


def pod_monitors(manifests: Manifests) -> Iterator[Finding]:
    """A PodMonitor asks for a port that none of its pods declares."""
    for by in manifests.of_kind("PodMonitor"):
        pods = monitored_pods(manifests, by)
        for index, endpoint in iter_mappings(by.spec, "podMetricsEndpoints"):
            for field in ("port", "targetPort"):
                path = f"spec.podMetricsEndpoints[{index}].{field}"
                yield from _undeclared(by, path, endpoint.get(field), pods)


def service_monitors(manifests: Manifests) -> Iterator[Finding]:
    """A ServiceMonitor asks for a port that none of its Services has."""
    for by in manifests.of_kind("ServiceMonitor"):
        services = monitored_services(manifests, by)
        there = [name for service in services for name in service.ports]
        for index, endpoint in iter_mappings(by.spec, "endpoints"):
            port = endpoint.get("port")
            if services and isinstance(port, str) and port not in there:
                yield finding(
                    by,
                    f"spec.endpoints[{index}].port",
                    f"no Service that it selects has a port {port!r}; {list_known(there, port)}",
                )


def services(manifests: Manifests) -> Iterator[Finding]:
    """A Service sends to a named port that none of its pods declares."""
    for by in manifests.of_kind("Service"):
        if selector := get_mapping(by.spec, "selector"):
            pods = _selected(manifests, by.namespace, {"matchLabels": selector})
            for index, port in iter_mappings(by.spec, "ports"):
                path = f"spec.ports[{index}].targetPort"
                yield from _undeclared(by, path, port.get("targetPort"), pods)


def backends(manifests: Manifests) -> Iterator[Finding]:
    """An Ingress or a route sends to a port that the Service has not."""
    there = {(each.namespace, each.name): each for each in manifests.services}
    for by in manifests.of_kind("Ingress"):
        for path, backend in ingress_backends(by):
            service = there.get((by.namespace, get_string(backend, "service", "name")))
            for field in ("name", "number"):
                port = get_path(backend, "service", "port", field)
                if service and port is not None and not service.has(port):
                    at = f"{path}.service.port.{field}"
                    yield finding(by, at, _no_port(service.name, port, service.ports))
    for by in (each for each in manifests if each.kind in ("HTTPRoute", "GRPCRoute")):
        for path, backend in route_backends(by):
            namespace = get_string(backend, "namespace") or by.namespace
            service = there.get((namespace, get_string(backend, "name")))
            port = backend.get("port")
            if service and port is not None and not service.has(port):
                yield finding(by, f"{path}.port", _no_port(service.name, port, service.ports))


def _no_port(service: str, port: object, ports: Mapping[str, int]) -> str:
    there = [f"{name}={number}" if name != str(number) else name for name, number in ports.items()]
    return f"Service {service} has no port {port!r}; {list_known(there, port)}"


def network_policies(manifests: Manifests) -> Iterator[Finding]:
    """A NetworkPolicy names a port that none of the pods it is about declares."""
    for by in manifests.of_kind("NetworkPolicy"):
        own = _selected(manifests, by.namespace, get_mapping(by.spec, "podSelector"))
        for i, rule in iter_mappings(by.spec, "ingress"):
            for j, port in iter_mappings(rule, "ports"):
                path = f"spec.ingress[{i}].ports[{j}].port"
                yield from _undeclared(by, path, port.get("port"), own)
        for i, rule in iter_mappings(by.spec, "egress"):
            peers = [
                pods
                for _, peer in iter_mappings(rule, "to")
                for namespace in peer_namespaces(manifests, by, peer) or ()
                for pods in _selected(manifests, namespace, get_mapping(peer, "podSelector"))
            ]
            for j, port in iter_mappings(rule, "ports"):
                path = f"spec.egress[{i}].ports[{j}].port"
                yield from _undeclared(by, path, port.get("port"), peers)


def probes(manifests: Manifests) -> Iterator[Finding]:
    """A probe or hook asks a named port that its container does not declare."""
    for pods in manifests.pods:
        for path, container in pods.containers:
            there = {get_string(port, "name") for _, port in iter_mappings(container, "ports")} - {
                ""
            }
            if pods.role in ("head", "worker") and path.endswith(".containers[0]"):
                there.add("metrics")
            hooks = ("lifecycle.preStop", "lifecycle.postStart")
            for below in ("livenessProbe", "readinessProbe", "startupProbe", *hooks):
                for how in ("httpGet", "tcpSocket"):
                    port = get_path(container, *below.split("."), how, "port")
                    if isinstance(port, str) and not port.isdigit() and port not in there:
                        yield finding(
                            pods.owner,
                            f"{path}.{below}.{how}.port",
                            f"the container declares no port {port!r}; {list_known(there, port)}",
                        )


def _selected(
    manifests: Manifests, namespace: str, selector: Mapping[str, Any]
) -> list[PodTemplate]:
    """Pods of a namespace that a LabelSelector takes."""
    return manifests.labelled_pods.selected(selector, [namespace])


def _undeclared(
    by: Object, path: str, port: object, pods: Iterable[PodTemplate]
) -> Iterator[Finding]:
    """A finding if a port goes by a name that none of these pods declares."""
    templates = list(pods)
    if not all(each.whole for each in templates):
        return
    there = [name for each in templates for name in each.ports]
    if templates and isinstance(port, str) and not port.isdigit() and port not in there:
        yield finding(
            by,
            path,
            f"no container of its pods declares a port {port!r}; {list_known(there, port)}",
        )


RULES = (pod_monitors, service_monitors, services, backends, network_policies, probes)
