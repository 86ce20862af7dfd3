"""Referenced objects must exist: in the set, created by the cluster, or declared outside."""

import re
from collections.abc import Iterator

from k8s.check.finding import Finding, finding, list_known
from k8s.check.manifests import Manifests
from k8s.check.objects import get_mapping, get_string, iter_mappings
from k8s.check.reference_finder import Reference, references

_MADE_BY_THE_CLUSTER = {
    ("ConfigMap", "kube-root-ca.crt"),
    ("ConfigMap", "openshift-service-ca.crt"),
    ("ServiceAccount", "default"),
    ("Service", "kubernetes"),
}
"""Objects that exist in every namespace."""
_TARGETS = ("ConfigMap", "Secret", "PersistentVolumeClaim", "ServiceAccount")
_CLUSTER_WIDE = ("ClusterRole",)


def config_maps(manifests: Manifests) -> Iterator[Finding]:
    """A ConfigMap is named that is nowhere."""
    yield from _unresolved(manifests, "ConfigMap")


def secrets(manifests: Manifests) -> Iterator[Finding]:
    """A Secret is named that is nowhere."""
    yield from _unresolved(manifests, "Secret")


def claims(manifests: Manifests) -> Iterator[Finding]:
    """A PersistentVolumeClaim is named that is nowhere."""
    yield from _unresolved(manifests, "PersistentVolumeClaim")


def service_accounts(manifests: Manifests) -> Iterator[Finding]:
    """A ServiceAccount is named that is nowhere."""
    yield from _unresolved(manifests, "ServiceAccount")


def targets(manifests: Manifests) -> Iterator[Finding]:
    """A Service, role, cluster or scaled workload is named that is nowhere."""
    for reference in references(manifests):
        if reference.kind not in _TARGETS:
            yield from _missing(manifests, reference)


def _unresolved(manifests: Manifests, kind: str) -> Iterator[Finding]:
    for reference in references(manifests):
        if reference.kind == kind:
            yield from _missing(manifests, reference)


def _missing(manifests: Manifests, reference: Reference) -> Iterator[Finding]:
    kind, name = reference.kind, reference.name
    if reference.optional or _is_there(manifests, reference):
        return
    there = _names(manifests, kind, reference.namespace)
    elsewhere = manifests.namespaces(kind, name)
    hint = f"; there is one in namespace {elsewhere[0]}" if elsewhere else ""
    yield finding(
        reference.by,
        reference.path,
        f"no {kind} {name!r} in namespace {reference.namespace}; {list_known(there, name)}{hint}."
        f" Add it, or declare it: --external {kind}/{name}",
    )


def _names(manifests: Manifests, kind: str, namespace: str) -> list[str]:
    if kind in _CLUSTER_WIDE:
        return [each.name for each in manifests.of_kind(kind)]
    if kind == "Service":
        return manifests.service_names(namespace)
    return manifests.names(kind, namespace)


def _is_there(manifests: Manifests, reference: Reference) -> bool:
    kind, name, namespace = reference.kind, reference.name, reference.namespace
    if name in _names(manifests, kind, namespace) or (kind, name) in _MADE_BY_THE_CLUSTER:
        return True
    if kind == "Secret" and (namespace, name) in manifests.generated_secrets:
        return True
    if kind == "PersistentVolumeClaim" and _of_stateful_set(manifests, name, namespace):
        return True
    return manifests.is_external(kind, name, reference.by)


def _of_stateful_set(manifests: Manifests, claim: str, namespace: str) -> bool:
    """TEMPLATE-SET-NUMBER is a claim that a StatefulSet makes."""
    generated = (
        f"{get_string(template, 'metadata', 'name')}-{owner.name}"
        for owner in manifests.of_kind("StatefulSet")
        if owner.namespace == namespace
        for _, template in iter_mappings(owner.spec, "volumeClaimTemplates")
    )
    return re.sub(r"-\d+$", "", claim) in generated


def keys(manifests: Manifests) -> Iterator[Finding]:
    """A key is asked of a ConfigMap or Secret that has others."""
    for reference in references(manifests):
        found = manifests.find(reference.kind, reference.name, reference.namespace)
        if found is None or reference.optional:
            continue
        fields = ("data", "binaryData", "stringData")
        there = [key for field in fields for key in get_mapping(found.document, field)]
        for path, key in reference.keys:
            if key and key not in there:
                yield finding(
                    reference.by,
                    path,
                    f"{found.kind} {found.name} has no key {key!r}; {list_known(there, key)}",
                )


def mounts(manifests: Manifests) -> Iterator[Finding]:
    """A container mounts a volume that its pod has not."""
    for pods in manifests.pods:
        for path, container in pods.containers:
            for index, mount in iter_mappings(container, "volumeMounts"):
                name = get_string(mount, "name")
                if name not in pods.volumes:
                    yield finding(
                        pods.owner,
                        f"{path}.volumeMounts[{index}].name",
                        f"the pod has no volume {name!r}; {list_known(pods.volumes, name)}",
                    )


def duplicates(manifests: Manifests) -> Iterator[Finding]:
    """An object stands twice: the one that is applied last wins."""
    seen = set()
    for each in manifests:
        identity = (each.group, each.kind, each.namespace, each.name)
        if identity in seen and not each.is_generated:
            yield finding(
                each,
                "metadata.name",
                f"another {each.kind} of this name is in the set, and the last one applied wins;"
                " name them apart, or check overlays one by one",
            )
        seen.add(identity)


RULES = (config_maps, secrets, claims, service_accounts, targets, keys, mounts, duplicates)
