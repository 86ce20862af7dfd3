"""The set of objects as rules ask of it: objects, their pods and Services, what exists outside."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from k8s.check import operators
from k8s.check.labels import Labelled
from k8s.check.objects import Object, Objects, get_mapping, get_string, iter_mappings
from k8s.check.pods import PodTemplate, all_pods
from k8s.check.ray_clusters import Cluster, Job, clusters, generated_secret, jobs
from k8s.check.services import Service, services


class Manifests(Objects):
    """Objects, and what Kubernetes and its operators would make of them."""

    @cached_property
    def pods(self) -> list[PodTemplate]:
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

    @cached_property
    def labelled_pods(self) -> Labelled[PodTemplate]:
        return Labelled((pods.owner.namespace, pods.labels, pods) for pods in self.pods)

    @cached_property
    def labelled_services(self) -> Labelled[Service]:
        return Labelled((each.namespace, each.labels, each) for each in self.services)

    @cached_property
    def _pods_of(self) -> dict[int, list[PodTemplate]]:
        templates: dict[int, list[PodTemplate]] = {}
        for pods in self.pods:
            templates.setdefault(id(pods.owner), []).append(pods)
        return templates

    def pods_of(self, owner: Object) -> list[PodTemplate]:
        """Pods that are made of an object of the set."""
        return self._pods_of.get(id(owner), [])

    @cached_property
    def _service_names(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for each in self.services:
            names.setdefault(each.namespace, []).append(each.name)
        return names

    def service_names(self, namespace: str) -> list[str]:
        """Names of the Services of a namespace, those that operators make among them."""
        return self._service_names.get(namespace, [])

    @cached_property
    def generated_secrets(self) -> set[tuple[str, str]]:
        """(namespace, name) of the Secrets that operators make."""
        names = {
            (cluster.owner.namespace, secret)
            for cluster in self.clusters
            if (secret := generated_secret(cluster))
        }
        return names | set(operators.secrets(self))

    def variable(self, by: Object, container: Mapping[str, Any], name: str) -> str | None:
        """A container's environment variable, as far as the set says what it is."""
        for _, each in iter_mappings(container, "env"):
            if each.get("name") == name:
                named = get_mapping(each, "valueFrom", "configMapKeyRef")
                found = self.find("ConfigMap", get_string(named, "name"), by.namespace)
                data = get_mapping(found.document, "data") if found else {}
                return (
                    get_string(each, "value") or get_string(data, get_string(named, "key")) or None
                )
        for _, each in reversed(iter_mappings(container, "envFrom")):  # the last one wins
            prefix = get_string(each, "prefix")
            found = self.find("ConfigMap", get_string(each, "configMapRef", "name"), by.namespace)
            data = get_mapping(found.document, "data") if found else {}
            if name.startswith(prefix) and name.removeprefix(prefix) in data:
                return get_string(data, name.removeprefix(prefix))
        return None

    def outside(self, kind: str, by: Object) -> list[Mapping[str, str]]:
        """Labels of pods (or Services) that are declared to exist: Pod/key=value,key=value."""
        return [
            dict(pair.split("=", 1) for pair in name.split(",") if "=" in pair)
            for name in self.declared(kind, by)
        ]
