"""Objects as rendered, with typed access that tolerates malformed content."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

ANNOTATION = "aigc/external"
"""Annotation of an object with its references to objects outside of the set: "Kind/name,
Kind/name"."""

_GROUPS = {
    **dict.fromkeys(("ConfigMap", "Secret", "Service", "ServiceAccount", "Pod", "Namespace"), ""),
    **dict.fromkeys(("PersistentVolumeClaim", "ReplicationController", "LimitRange"), ""),
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), "apps"),
    **dict.fromkeys(("Job", "CronJob"), "batch"),
    **dict.fromkeys(("Ingress", "NetworkPolicy"), "networking.k8s.io"),
    **dict.fromkeys(("RayCluster", "RayJob", "RayService", "RayCronJob"), "ray.io"),
    **dict.fromkeys(("PodMonitor", "ServiceMonitor", "Prometheus"), "monitoring.coreos.com"),
    "Alertmanager": "monitoring.coreos.com",
    "InferenceService": "serving.kserve.io",
}
"""API group of the kinds that rules look for; other groups have a Service and an Ingress too."""


def get_path(value: Any, *path: str | int) -> Any:
    """The value at a path, or None if the path ends early."""
    for step in path:
        if isinstance(step, int):
            there = isinstance(value, list) and step < len(value)
        else:
            there = isinstance(value, Mapping) and step in value
        if not there:
            return None
        value = value[step]
    return value


def get_mapping(value: Any, *path: str | int) -> Mapping[str, Any]:
    """The mapping at a path; an empty one for other values."""
    member = get_path(value, *path)
    return member if isinstance(member, Mapping) else {}


def get_list(value: Any, *path: str | int) -> list[Any]:
    """The list at a path; an empty one for other values."""
    member = get_path(value, *path)
    return member if isinstance(member, list) else []


def iter_mappings(value: Any, *path: str | int) -> list[tuple[int, Mapping[str, Any]]]:
    """(index, mapping) of the mappings in the list at a path."""
    return [(i, each) for i, each in enumerate(get_list(value, *path)) if isinstance(each, Mapping)]


def get_string(value: Any, *path: str | int) -> str:
    """The string at a path; "" for other values."""
    member = get_path(value, *path)
    return member if isinstance(member, str) else ""


def iter_strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, string) of every string below a value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from iter_strings(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from iter_strings(below, f"{path}[{index}]")


@dataclass(frozen=True, eq=False)
class Object:
    """One object of the set."""

    document: Mapping[str, Any]

    @cached_property
    def kind(self) -> str:
        return get_string(self.document, "kind")

    @cached_property
    def group(self) -> str:
        """API group; "" for the core one."""
        return get_string(self.document, "apiVersion").rpartition("/")[0]

    @cached_property
    def name(self) -> str:
        """The name; with generateName only its beginning is known."""
        metadata = get_mapping(self.document, "metadata")
        beginning = get_string(metadata, "generateName")
        return get_string(metadata, "name") or (f"{beginning}<generated>" if beginning else "")

    @property
    def is_generated(self) -> bool:
        """True if the API server generates the end of the name."""
        return not get_string(self.document, "metadata", "name")

    @cached_property
    def namespace(self) -> str:
        """The namespace; without one `default`, where kubectl applies it unless another is set."""
        return get_string(self.document, "metadata", "namespace") or "default"

    @cached_property
    def labels(self) -> Mapping[str, Any]:
        return get_mapping(self.document, "metadata", "labels")

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        return get_mapping(self.document, "metadata", "annotations")

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        return get_mapping(self.document, "spec")

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Objects:
    """All objects of the set, and those declared to exist outside of it.

    external: "Kind/name" patterns such as "Secret/aigc-*".
    """

    def __init__(
        self, documents: Iterable[Mapping[str, Any]], external: Iterable[str] = ()
    ) -> None:
        self.all = tuple(Object(document) for document in documents)
        self._of_kind: dict[str, list[Object]] = {}
        self._named: dict[tuple[str, str, str], Object] = {}
        self._names: dict[tuple[str, str], list[str]] = {}
        self._namespaces: dict[tuple[str, str], list[str]] = {}
        for each in self.all:
            if each.group == _GROUPS.get(each.kind, each.group):
                self._of_kind.setdefault(each.kind, []).append(each)
                self._named.setdefault((each.kind, each.namespace, each.name), each)
                self._names.setdefault((each.kind, each.namespace), []).append(each.name)
                self._namespaces.setdefault((each.kind, each.name), []).append(each.namespace)
        self.external = tuple(external)
        for pattern in self.external:
            if not all(pattern.partition("/")):
                raise ValueError(f"--external must be Kind/name, got {pattern!r}")

    def __iter__(self) -> Iterator[Object]:
        return iter(self.all)

    def of_kind(self, *kinds: str) -> list[Object]:
        """Objects of these kinds in the API groups of Kubernetes and of the known operators."""
        return [each for kind in kinds for each in self._of_kind.get(kind, ())]

    def find(self, kind: str, name: str, namespace: str) -> Object | None:
        """The object of this name, or None."""
        return self._named.get((kind, namespace, name))

    def names(self, kind: str, namespace: str) -> list[str]:
        """Names of a kind's objects in a namespace."""
        return self._names.get((kind, namespace), [])

    def namespaces(self, kind: str, name: str) -> list[str]:
        """Namespaces that have an object of this name."""
        return self._namespaces.get((kind, name), [])

    def declared(self, kind: str, by: Object) -> list[str]:
        """Name patterns of a kind that exists outside: by flag, or by the referring object."""
        noted = by.annotations.get(ANNOTATION)
        entries = [*self.external, *(re.split(r",\s+", noted) if isinstance(noted, str) else ())]
        parts = (entry.strip().partition("/") for entry in entries)
        return [name for own, _, name in parts if own == kind]

    def is_external(self, kind: str, name: str, by: Object) -> bool:
        """True if it is declared to exist outside of the set."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.declared(kind, by))
