"""Every Service of the set: written down, or made by KubeRay and other operators."""

from collections.abc import Mapping
from dataclasses import dataclass

from k8s.check import operators
from k8s.check.objects import Object, Objects, get_string, iter_mappings
from k8s.check.ray_clusters import clusters, generated_services


@dataclass(frozen=True, eq=False, kw_only=True)
class Service:
    """A Service as others see it."""

    owner: Object
    """The Service itself, or what an operator makes it of."""
    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    """Ports by name, or by number for those without one."""

    def has(self, port: object) -> bool:
        """True if it has a port of this name or number."""
        return isinstance(port, str | int) and port in {*self.ports, *self.ports.values()}


def services(objects: Objects) -> list[Service]:
    """All Services."""
    services = []
    for own in objects.of_kind("Service"):
        ports = {
            get_string(each, "name") or str(each["port"]): each["port"]
            for _, each in iter_mappings(own.spec, "ports")
            if isinstance(each.get("port"), int)
        }
        labels = {str(key): str(value) for key, value in own.labels.items()}
        services.append((own, own.name, labels, ports))
    for cluster in clusters(objects):
        for name, labels, ports in generated_services(cluster):
            services.append((cluster.owner, name, labels, ports))
    services += operators.services(objects)
    return [
        Service(owner=owner, name=name, namespace=owner.namespace, labels=labels, ports=ports)
        for owner, name, labels, ports in services
    ]
