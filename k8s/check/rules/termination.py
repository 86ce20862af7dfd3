"""Arithmetic of going away: what is to happen before a pod is killed must fit in its time.

On termination a pod runs its preStop hook, then gets SIGTERM; SIGKILL comes after
terminationGracePeriodSeconds, counted from the start of the hook.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from k8s.check.finding import Finding, finding
from k8s.check.manifests import Manifests
from k8s.check.objects import get_list, get_path, get_string, iter_mappings
from k8s.check.ray_clusters import Cluster, Group
from k8s.check.ray_serve_config import OURS, applications

GRACE_S = 30
"""Grace period of a pod that states none."""
DELETION_DELAY_S = 60
"""Time for which KubeRay keeps the old cluster of a RayService after traffic has moved."""
GRACEFUL_S = 20.0
"""Ray Serve's graceful_shutdown_timeout_s; serve.app:build sets its own."""
OUR_GRACEFUL_S = 30.0
DRAINING_S = 30.0
"""Time for which Ray's proxy and, behind HAProxy, its replica accept requests while they drain
(ray/serve/_private/constants.py of 2.60)."""
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
DRAIN_S = 30.0
"""Time for which `ray start` drains its node on SIGTERM before it ends (ray/_private/node.py)."""


def hooks(manifests: Manifests) -> Iterator[Finding]:
    """A preStop hook sleeps as long as the pod has: it is killed before it hears of its end."""
    for pods in manifests.pods:
        grace = _grace(pods.spec)
        for path, container in pods.containers:
            seconds = sleep_of(container)
            if seconds and seconds >= grace:
                yield finding(
                    pods.owner,
                    f"{path}.lifecycle.preStop",
                    f"it sleeps {seconds:g} s of the pod's terminationGracePeriodSeconds"
                    f" {_stated(pods.spec)}: SIGTERM never comes before SIGKILL. Sleep less, or"
                    " give the pod more time",
                )


def draining(manifests: Manifests) -> Iterator[Finding]:
    """A pod of a RayService is killed before its replicas and proxy have finished."""
    for cluster in manifests.clusters:
        for group in _serving(cluster):
            times = _Times.of(manifests, cluster, group)
            drained = max(times.finishing, times.drain or 0.0)
            needed = times.hook + drained
            if _grace(group.pod) <= needed:
                message = f"{times}" if drained == times.finishing else f"Ray drains {drained:g} s"
                yield finding(
                    cluster.owner,
                    f"{group.pod_path}.terminationGracePeriodSeconds",
                    f"is {_stated(group.pod)}, and must be more than {needed:g}: preStop sleeps"
                    f" {times.hook:g} s, then {message}",
                )


def drain_window(manifests: Manifests) -> Iterator[Finding]:
    """Ray ends a node's processes before replicas and proxy have finished."""
    for cluster in manifests.clusters:
        for group in _serving(cluster) if _drains(cluster) else ():
            times = _Times.of(manifests, cluster, group)
            window = DRAIN_S if times.drain is None else times.drain
            if window < times.finishing:
                stated = " (the default)" if times.drain is None else ""
                yield finding(
                    cluster.owner,
                    f"{group.container_path}.env",
                    f"{DRAIN} is {window:g}{stated}, after which Ray ends all processes of the"
                    f" node, and must be at least {times.finishing:g}: {times}",
                )


def upgrades(manifests: Manifests) -> Iterator[Finding]:
    """The old cluster of a RayService is deleted while its pods still have time to finish."""
    for cluster in manifests.clusters:
        owner = cluster.owner
        if owner.kind != "RayService" or get_path(owner.spec, "upgradeStrategy", "type") == "None":
            continue
        delay = get_path(owner.spec, "rayClusterDeletionDelaySeconds")
        longest = max((_grace(group.pod) for group in _serving(cluster)), default=0)
        if (delay if isinstance(delay, int) else DELETION_DELAY_S) <= longest:
            stated = delay if isinstance(delay, int) else f"{DELETION_DELAY_S} (the default)"
            yield finding(
                owner,
                "spec.rayClusterDeletionDelaySeconds",
                f"is {stated}, and must be more than the {longest} s that the old cluster's pods"
                " have to finish (terminationGracePeriodSeconds)",
            )


def sleep_of(container: Mapping[str, Any]) -> float:
    """Seconds that the preStop hook of a container sleeps, 0 without one."""
    hook = get_path(container, "lifecycle", "preStop")
    seconds = get_path(hook, "sleep", "seconds")
    if isinstance(seconds, int):
        return float(seconds)
    command = " ".join(map(str, get_list(hook, "exec", "command")))
    return sum(float(found) for found in re.findall(r"\bsleep\s+(\d+(?:\.\d+)?)", command))


def _grace(pod: Mapping[str, Any]) -> int:
    stated = get_path(pod, "terminationGracePeriodSeconds")
    return stated if isinstance(stated, int) else GRACE_S


def _stated(pod: Mapping[str, Any]) -> str:
    given = isinstance(get_path(pod, "terminationGracePeriodSeconds"), int)
    return f"{_grace(pod)}{'' if given else ' (the default)'}"


def _serving(cluster: Cluster) -> list[Group]:
    """Groups that take the requests of a RayService."""
    if cluster.owner.kind != "RayService":
        return []
    return cluster.groups if cluster.serves_on_head else cluster.workers


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Phases in the termination of a pod of a RayService, in seconds."""

    hook: float
    graceful: float
    proxy: float
    drain: float | None
    """The most that Ray waits, None where nothing states it."""

    @property
    def finishing(self) -> float:
        return self.graceful + self.proxy

    @classmethod
    def of(cls, manifests: Manifests, cluster: Cluster, group: Group) -> Self:
        def seconds(variable: str) -> float | None:
            try:
                stated = manifests.variable(cluster.owner, group.container, variable)
                return None if stated is None else float(stated)
            except ValueError:
                return None

        graceful = _graceful(cluster, group)
        behind = manifests.variable(cluster.owner, group.container, "RAY_SERVE_ENABLE_HA_PROXY")
        if behind == "1" and graceful:
            own = seconds("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S")
            graceful = max(graceful, DRAINING_S if own is None else own)
        proxy = seconds("RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S")
        return cls(
            hook=sleep_of(group.container),
            graceful=graceful,
            proxy=DRAINING_S if proxy is None else proxy,
            drain=seconds(DRAIN),
        )

    def __str__(self) -> str:
        return (
            f"replicas have {self.graceful:g} s (graceful_shutdown_timeout_s), the proxy drains"
            f" {self.proxy:g} s (RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S)"
        )


def _graceful(cluster: Cluster, group: Group) -> float:
    """Seconds that the slowest replica of a group has to finish."""
    if group.start_params.get("num-cpus") == "0" and group.role == "head":
        return 0.0  # no replica is there
    longest = []
    for _, application in applications(cluster.owner):
        default = OUR_GRACEFUL_S if application.get("import_path") in OURS else GRACEFUL_S
        listed = [each for _, each in iter_mappings(application, "deployments")]
        # A deployment that states none has the default; one that is not listed does too.
        stated = [each.get("graceful_shutdown_timeout_s", default) for each in listed]
        longest += [float(each) for each in stated or [default] if isinstance(each, int | float)]
    return max(longest, default=GRACEFUL_S)


def _drains(cluster: Cluster) -> bool:
    """True if its Ray drains a node on SIGTERM, as 2.60 does."""
    version = [int(part) for part in re.findall(r"\d+", get_string(cluster.spec, "rayVersion"))]
    return version >= [2, 60]


RULES = (hooks, draining, drain_window, upgrades)
