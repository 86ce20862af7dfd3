"""The set of objects as rules ask of it: objects, their pods and Services, what exists outside."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from k8s.check.clusters import Cluster, Job, clusters, jobs
from k8s.check.objects import Object, Objects, table, tables, word
from k8s.check.pods import Pods, all_pods
from k8s.check.services import Service, services


class Manifests(Objects):
    """Objects, and what Kubernetes and its operators would make of them."""

    @cached_property
    def pods(self) -> list[Pods]:
        return all_pods(self)

    @cached_property
    def services(self) -> list[Service]:
        return services(self)

    @cached_property
    def clusters(self) -> list[Cluster]:
        return clusters(self)

    @cached_property
    def jobs(self) -> list[Job]:
        return list(jobs(self))

    def pods_in(self, namespace: str) -> list[Pods]:
        return [pods for pods in self.pods if pods.owner.namespace == namespace]

    def variable(self, by: Object, container: Mapping[str, Any], name: str) -> str | None:
        """A container's environment variable, as far as the set says what it is."""
        for _, each in tables(container, "env"):
            if each.get("name") == name:
                named = table(each, "valueFrom", "configMapKeyRef")
                found = self.find("ConfigMap", word(named, "name"), by.namespace)
                data = table(found.document, "data") if found else {}
                return word(each, "value") or word(data, word(named, "key")) or None
        for _, each in reversed(tables(container, "envFrom")):  # the last one wins
            prefix = word(each, "prefix")
            found = self.find("ConfigMap", word(each, "configMapRef", "name"), by.namespace)
            data = table(found.document, "data") if found else {}
            if name.startswith(prefix) and name.removeprefix(prefix) in data:
                return word(data, name.removeprefix(prefix))
        return None

    def outside(self, kind: str, by: Object) -> list[Mapping[str, str]]:
        """Labels of pods (or Services) that are declared to exist: Pod/key=value,key=value."""
        return [
            dict(pair.split("=", 1) for pair in name.split(",") if "=" in pair)
            for name in self.declared(kind, by)
        ]
