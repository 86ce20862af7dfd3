"""Ray clusters: who may use them, and what their heads and containers are given."""

import re
from collections.abc import Iterator

from k8s.check.finding import Finding, finding
from k8s.check.manifests import Manifests
from k8s.check.objects import get_mapping, get_path, get_string, iter_mappings
from k8s.check.ray_clusters import Cluster, Group
from k8s.check.rules.placement import gpus

MODE = "RAY_AUTH_MODE"
TOKENS_SINCE = (2, 52)
"""The Ray version that has tokens."""


def authentication(manifests: Manifests) -> Iterator[Finding]:
    """A cluster takes work from whoever reaches its ports: it asks for no token."""
    for cluster in manifests.clusters:
        if get_path(cluster.spec, "authOptions", "mode") == "token":
            continue
        open_to_all = [g for g in cluster.groups if not _asks_for_token(manifests, cluster, g)]
        if not open_to_all:
            continue
        version = [int(part) for part in re.findall(r"\d+", get_string(cluster.spec, "rayVersion"))]
        message = "set authOptions.mode to token"
        if version and tuple(version[:2]) < TOKENS_SINCE:
            since = ".".join(map(str, TOKENS_SINCE))
            message = (
                f"{message}, with Ray {since} or later in place of {cluster.spec['rayVersion']}"
            )
        yield finding(
            cluster.owner,
            f"{cluster.path}.authOptions",
            f"{_named(open_to_all)} asked for no token ({MODE}), so whoever reaches Ray's ports"
            f" runs code there; {message}",
        )


def _asks_for_token(manifests: Manifests, cluster: Cluster, group: Group) -> bool:
    """True if its Ray requires a token by its own environment, as far as the set defines it."""
    mode = manifests.variable(cluster.owner, group.container, MODE)
    return mode == "token" if mode is not None else _is_from_outside(manifests, cluster, group)


def _is_from_outside(manifests: Manifests, cluster: Cluster, group: Group) -> bool:
    """True if a part of its environment is declared to be outside of the set."""
    return any(
        manifests.is_external(kind, get_string(each, form, "name"), cluster.owner)
        for _, each in iter_mappings(group.container, "envFrom")
        for kind, form in (("ConfigMap", "configMapRef"), ("Secret", "secretRef"))
    )


def _named(groups: list[Group]) -> str:
    names = ", ".join("the head" if group.role == "head" else group.name for group in groups)
    return f"{names} {'is' if len(groups) == 1 else 'are'}"


def idle_head(manifests: Manifests) -> Iterator[Finding]:
    """The head of a cluster that scales itself takes work, and can be ended by it."""
    for cluster in manifests.clusters:
        if cluster.spec.get("enableInTreeAutoscaling") is not True or not cluster.workers:
            continue
        head = cluster.head
        stated = head.start_params.get("num-cpus", get_mapping(head.spec, "resources").get("CPU"))
        if str(stated) != "0":
            yield finding(
                cluster.owner,
                f"{head.path}.rayStartParams.num-cpus",
                f"is {'not given' if stated is None else stated}, so work and replicas go to the"
                " head before a node is added for them, and what they break ends the whole cluster;"
                ' make it "0"',
            )


def head_gpus(manifests: Manifests) -> Iterator[Finding]:
    """The head has a GPU that workers could have."""
    for cluster in manifests.clusters:
        head = cluster.head
        if not cluster.workers:
            continue  # alone it does the work
        below = [
            (f"{head.container_path}.resources.{field}['{name}']", quantity)
            for field in ("limits", "requests")
            for name, quantity in gpus(get_mapping(head.container, "resources", field)).items()
        ]
        below += [
            (f"{head.path}.{field}.{key}", str(get_mapping(head.spec, field).get(key, "0")))
            for field, key in (("rayStartParams", "num-gpus"), ("resources", "GPU"))
        ]
        asked = [(path, quantity) for path, quantity in below if quantity not in ("0", "")]
        if asked:
            path, quantity = asked[0]
            yield finding(
                cluster.owner,
                path,
                f"is {quantity}: the head coordinates, and holds a GPU node for as long as the"
                " cluster lives; give the GPU to a worker group",
            )


def memory_limits(manifests: Manifests) -> Iterator[Finding]:
    """A container of Ray has no limit of memory: Ray takes the whole node's for its own."""
    for cluster in manifests.clusters:
        if _limited_by_namespace(manifests, cluster):
            continue
        for group in cluster.groups:
            limits = (get_mapping(at, "resources", "limits") for at in (group.container, group.pod))
            stated = "memory" in group.start_params or "memory" in get_mapping(
                group.spec, "resources"
            )
            if group.container and not stated and not any("memory" in each for each in limits):
                yield finding(
                    cluster.owner,
                    f"{group.container_path}.resources.limits.memory",
                    "is not given: Ray sizes its object store and what it admits by the memory of"
                    " the whole node, and is killed with its neighbours when that runs out; give a"
                    " limit, and the same as a request",
                )


def _limited_by_namespace(manifests: Manifests, cluster: Cluster) -> bool:
    """True if a LimitRange limits containers that have no limit of their own."""
    return any(
        "memory" in get_mapping(each, "default")
        for by in manifests.of_kind("LimitRange")
        for _, each in iter_mappings(by.spec, "limits")
        if by.namespace == cluster.owner.namespace
    )


RULES = (authentication, idle_head, head_gpus, memory_limits)
