"""Objects as rendered: typed access that survives whatever stands in them."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ANNOTATION = "aigc/external"
"""On an object: what it refers to that is made elsewhere, as "Kind/name, Kind/name"."""

_GROUPS = {
    **dict.fromkeys(("ConfigMap", "Secret", "Service", "ServiceAccount", "Pod", "Namespace"), ""),
    **dict.fromkeys(("PersistentVolumeClaim", "ReplicationController"), ""),
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), "apps"),
    **dict.fromkeys(("Job", "CronJob"), "batch"),
    **dict.fromkeys(("Ingress", "NetworkPolicy"), "networking.k8s.io"),
    **dict.fromkeys(("RayCluster", "RayJob", "RayService", "RayCronJob"), "ray.io"),
    **dict.fromkeys(("PodMonitor", "ServiceMonitor", "Prometheus"), "monitoring.coreos.com"),
    "Alertmanager": "monitoring.coreos.com",
    "InferenceService": "serving.kserve.io",
}
"""API group of kinds that rules ask for: others have a Service and an Ingress too."""


def dig(value: Any, *path: str | int) -> Any:
    """What stands at a path, or None where the path ends early."""
    for step in path:
        if isinstance(step, int):
            there = isinstance(value, list) and step < len(value)
        else:
            there = isinstance(value, Mapping) and step in value
        if not there:
            return None
        value = value[step]
    return value


def table(value: Any, *path: str | int) -> Mapping[str, Any]:
    """The mapping at a path; an empty one if something else stands there."""
    found = dig(value, *path)
    return found if isinstance(found, Mapping) else {}


def rows(value: Any, *path: str | int) -> list[Any]:
    """The list at a path; an empty one if something else stands there."""
    found = dig(value, *path)
    return found if isinstance(found, list) else []


def tables(value: Any, *path: str | int) -> list[tuple[int, Mapping[str, Any]]]:
    """(index, mapping) of the list at a path."""
    return [(i, each) for i, each in enumerate(rows(value, *path)) if isinstance(each, Mapping)]


def word(value: Any, *path: str | int) -> str:
    """The string at a path; "" if something else stands there."""
    found = dig(value, *path)
    return found if isinstance(found, str) else ""


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, string) of every string below a value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from strings(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from strings(below, f"{path}[{index}]")


@dataclass(frozen=True, eq=False)
class Object:
    """One object of the set."""

    document: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return word(self.document, "kind")

    @property
    def group(self) -> str:
        """API group; "" for the core one."""
        return word(self.document, "apiVersion").rpartition("/")[0]

    @property
    def name(self) -> str:
        return word(self.document, "metadata", "name")

    @property
    def namespace(self) -> str:
        """Without one an object lands where it is applied, `default` unless told otherwise."""
        return word(self.document, "metadata", "namespace") or "default"

    @property
    def labels(self) -> Mapping[str, Any]:
        return table(self.document, "metadata", "labels")

    @property
    def annotations(self) -> Mapping[str, Any]:
        return table(self.document, "metadata", "annotations")

    @property
    def spec(self) -> Mapping[str, Any]:
        return table(self.document, "spec")

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Objects:
    """All objects of the set, and what is declared to exist outside of it.

    external: "Kind/name" patterns such as "Secret/aigc-*".
    """

    def __init__(
        self, documents: Iterable[Mapping[str, Any]], external: Iterable[str] = ()
    ) -> None:
        self.all = tuple(Object(document) for document in documents)
        self.external = tuple(external)
        for pattern in self.external:
            if not all(pattern.partition("/")):
                raise ValueError(f"--external must be Kind/name, got {pattern!r}")

    def __iter__(self) -> Iterator[Object]:
        return iter(self.all)

    def of_kind(self, *kinds: str) -> list[Object]:
        """Objects of these kinds, as Kubernetes and the operators this knows mean them."""
        return [
            each
            for each in self.all
            if each.kind in kinds and each.group == _GROUPS.get(each.kind, each.group)
        ]

    def find(self, kind: str, name: str, namespace: str) -> Object | None:
        """The object of this name, or None."""
        there = (each for each in self.of_kind(kind) if each.name == name)
        return next((each for each in there if each.namespace == namespace), None)

    def names(self, kind: str, namespace: str) -> list[str]:
        """Names of a kind's objects in a namespace."""
        return [each.name for each in self.of_kind(kind) if each.namespace == namespace]

    def declared(self, kind: str, by: Object) -> list[str]:
        """Name patterns of a kind that exists outside: by flag, or by the referring object."""
        noted = by.annotations.get(ANNOTATION)
        entries = [*self.external, *(re.split(r",\s+", noted) if isinstance(noted, str) else ())]
        parts = (entry.strip().partition("/") for entry in entries)
        return [name for own, _, name in parts if own == kind]

    def is_external(self, kind: str, name: str, by: Object) -> bool:
        """Whether it is declared to exist outside of the set."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.declared(kind, by))
