"""GPUs and spot nodes: what asks for them, what may go there, and what must not."""

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.check.finding import Finding, finding
from k8s.check.manifests import Manifests
from k8s.check.objects import Object, get_list, get_mapping, get_path, iter_mappings
from k8s.check.pods import PodTemplate
from k8s.check.ray_clusters import Group
from k8s.check.ray_serve_config import OURS, applications, deployments

_GPU_KEYS = ("nvidia.com/", "amd.com/gpu", "gpu.intel.com/", "cloud.google.com/gke-accelerator")
_SPOT = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
}
"""Labels and taints of nodes that may be taken away."""


def gpus(resources: Mapping[str, Any]) -> dict[str, str]:
    """GPU resources and their quantities; a share of one, as MIG makes, counts too."""
    return {
        name: str(quantity)
        for name, quantity in resources.items()
        if name.startswith(("nvidia.com/gpu", "nvidia.com/mig-", "amd.com/gpu", "gpu.intel.com/"))
    }


def gpu_quantities(manifests: Manifests) -> Iterator[Finding]:
    """GPUs are requested without a limit, or another number than the limit."""
    for pods in manifests.pods:
        for path, container in pods.containers:
            limits = gpus(get_mapping(container, "resources", "limits"))
            for name, asked in gpus(get_mapping(container, "resources", "requests")).items():
                if asked != limits.get(name):
                    yield finding(
                        pods.owner,
                        f"{path}.resources.requests['{name}']",
                        f"is {asked}, and the limit is {limits.get(name, 'not given')}: Kubernetes"
                        " takes only equal ones. Set the limit, the request follows it",
                    )


def gpu_nodes(manifests: Manifests) -> Iterator[Finding]:
    """A pod without a GPU tolerates or selects GPU nodes: it takes their room."""
    for pods in manifests.pods:
        if pods.owner.kind == "DaemonSet" or _has_gpu(pods):
            continue
        for path, key, _ in _wishes(pods):
            if key.startswith(_GPU_KEYS):
                yield finding(
                    pods.owner,
                    path,
                    f"{_who(pods)} asks for no GPU, and {key} lets it onto GPU nodes, where it"
                    " takes the room of one that does. Remove it, or give it a GPU limit",
                )


def spot_nodes(manifests: Manifests) -> Iterator[Finding]:
    """The head, a submitter or a StatefulSet may land on a node that is taken away."""
    for pods in manifests.pods:
        lasting = pods.role in ("head", "submitter") or pods.owner.kind == "StatefulSet"
        for path, key, value in _wishes(pods) if lasting else ():
            if key in _SPOT and value in (_SPOT[key], None):
                yield finding(
                    pods.owner,
                    path,
                    f"{_who(pods)} must last, and {key} lets it onto spot nodes, which are taken"
                    " away at short notice. Remove it; worker groups may have it",
                )
            elif not key:
                yield finding(
                    pods.owner,
                    path,
                    f"{_who(pods)} must last, and this tolerates every taint, that of spot nodes"
                    " too. Name the key that is meant",
                )


def ray_gpus(manifests: Manifests) -> Iterator[Finding]:
    """rayStartParams promise GPUs that the container does not get."""
    for cluster in manifests.clusters:
        for group in cluster.groups:
            promised = str(group.start_params.get("num-gpus", "0"))
            limit = _given(group)
            if promised not in ("0", limit):
                yield finding(
                    cluster.owner,
                    f"{group.path}.rayStartParams.num-gpus",
                    f"is {promised}, and the container's GPU limit is {limit}: Ray would place work"
                    " on GPUs that are not there, or not on some that are. Leave it out: KubeRay"
                    " takes it from the limit",
                )


def gpu_replicas(manifests: Manifests) -> Iterator[Finding]:
    """Replicas ask for a GPU, and no group of their cluster has one: they wait for ever."""
    for cluster in manifests.clusters:
        if all(_given(group) == "0" for group in cluster.groups):
            for path, asked in _gpus_of_replicas(cluster.owner):
                if isinstance(asked, int | float) and asked > 0:
                    yield finding(
                        cluster.owner,
                        path,
                        f"is {asked:g}, and no container of the cluster has a GPU limit: the"
                        " replica waits for ever. Add a group with GPUs, or leave this out",
                    )


def _gpus_of_replicas(owner: Object) -> Iterator[tuple[str, Any]]:
    for path, deployment in deployments(owner):
        below = "ray_actor_options.num_gpus"
        yield f"{path}.{below}", get_path(deployment, *below.split("."))
    for path, application in applications(owner):
        if application.get("import_path") in OURS:
            args = get_mapping(application, "args")
            yield f"{path}.args.gpus", args.get("gpus")
            for name, pool in get_mapping(args, "pools").items():
                yield f"{path}.args.pools.{name}.gpus", get_path(pool, "gpus")


def _given(group: Group) -> str:
    limits = gpus(get_mapping(group.container, "resources", "limits"))
    return next(iter(limits.values()), "0")


def _has_gpu(pods: PodTemplate) -> bool:
    claims = bool(
        get_list(pods.spec, "resourceClaims")
    )  # devices that are not counted as resources
    return claims or any(
        gpus(get_mapping(container, "resources", field))
        for _, container in pods.containers
        for field in ("limits", "requests")
    )


def _who(pods: PodTemplate) -> str:
    return {"pod": "it", "head": "the head", "worker": "this group"}.get(pods.role, "the submitter")


def _wishes(pods: PodTemplate) -> Iterator[tuple[str, str, str | None]]:
    """(path, key, value) of every toleration and node label of a pod; value None for any."""
    for index, each in iter_mappings(pods.spec, "tolerations"):
        value = each.get("value") if each.get("operator") != "Exists" else None
        yield f"{pods.path}.tolerations[{index}]", str(each.get("key") or ""), value
    for key, value in get_mapping(pods.spec, "nodeSelector").items():
        yield f"{pods.path}.nodeSelector['{key}']", key, str(value)
    needed = "requiredDuringSchedulingIgnoredDuringExecution"
    path = f"affinity.nodeAffinity.{needed}.nodeSelectorTerms"
    for i, term in iter_mappings(pods.spec, *path.split(".")):
        for j, each in iter_mappings(term, "matchExpressions"):
            at = f"{pods.path}.{path}[{i}].matchExpressions[{j}]"
            if each.get("operator") in ("In", "Exists"):
                for value in get_list(each, "values") or [None]:
                    yield at, str(each.get("key") or "unnamed"), get_path([value], 0)


RULES = (gpu_quantities, gpu_nodes, spot_nodes, ray_gpus, gpu_replicas)
