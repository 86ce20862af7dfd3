"""All pods of the set: templates of core kinds, of Ray clusters, of operators."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from k8s.check import operators
from k8s.check.objects import Object, Objects, get_mapping, get_path, get_string, iter_mappings
from k8s.check.ray_clusters import GENERATED, METRICS, Cluster, Job, clusters, jobs

_TEMPLATES = {
    "Pod": "",
    "CronJob": "spec.jobTemplate.spec.template",
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), "spec.template"),
    **dict.fromkeys(("Job", "ReplicationController"), "spec.template"),
}
"""Path of the pod template, by kind."""

KUBERAY_VOLUMES = {"shared-mem", "ray-logs"}
"""Volumes of /dev/shm and, with the autoscaler, /tmp/ray, added unless something else is mounted
there."""

Role = Literal["pod", "head", "worker", "submitter"]


@dataclass(frozen=True, eq=False, kw_only=True)
class PodTemplate:
    """A pod template, with the labels that its pods will have."""

    owner: Object
    path: str
    """Path of the pod's spec within the owner, such as spec.template.spec."""
    spec: Mapping[str, Any]
    labels: Mapping[str, str]
    role: Role = "pod"
    autoscaler: tuple[str, Mapping[str, Any]] | None = None
    """Path and options of the container that KubeRay adds to the head."""
    whole: bool = True
    """False if an operator adds containers and ports that are not in the set."""

    @property
    def containers(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(path, container) of all containers, init containers included."""
        containers = [
            (f"{self.path}.{field}[{index}]", container)
            for field in ("initContainers", "containers")
            for index, container in iter_mappings(self.spec, field)
        ]
        model = get_mapping(self.spec, "model")  # of KServe: a container under another name
        return [
            *containers,
            *([(f"{self.path}.model", model)] if model else ()),
            *([self.autoscaler] if self.autoscaler else ()),
        ]

    @property
    def ports(self) -> dict[str, int]:
        """Named ports that a container declares, and the one that KubeRay adds."""
        ports = {
            get_string(port, "name"): port.get("containerPort", 0)
            for _, container in self.containers
            for _, port in iter_mappings(container, "ports")
            if get_string(port, "name")
        }
        if self.role in ("head", "worker"):
            ports.setdefault(*METRICS)
        return ports

    @property
    def volumes(self) -> set[str]:
        """Names of volumes that a container may mount."""
        claims = iter_mappings(self.owner.spec, "volumeClaimTemplates")
        own = {get_string(each, "name") for _, each in iter_mappings(self.spec, "volumes")}
        own |= {get_string(each, "metadata", "name") for _, each in claims}
        return own | (KUBERAY_VOLUMES if self.role in ("head", "worker") else set())


def all_pods(objects: Objects) -> list[PodTemplate]:
    """The pods of the whole set."""
    templates = [*_of_core_kinds(objects)]
    for cluster in clusters(objects):
        templates += _of_cluster(cluster)
    templates += filter(None, map(_submitter, jobs(objects)))
    for owner, path, labels, spec in operators.pods(objects):
        templates.append(PodTemplate(owner=owner, path=path, spec=spec, labels=labels, whole=False))
    return templates


def _of_core_kinds(objects: Objects) -> Iterator[PodTemplate]:
    for kind, path in _TEMPLATES.items():
        for owner in objects.of_kind(kind):
            template = get_mapping(owner.document, *path.split(".")) if path else owner.document
            labels = {
                str(k): str(v) for k, v in get_mapping(template, "metadata", "labels").items()
            }
            if kind in ("Job", "CronJob"):
                labels |= job_labels(owner)
            if kind == "StatefulSet":
                labels["statefulset.kubernetes.io/pod-name"] = f"{owner.name}-0"
            yield PodTemplate(
                owner=owner,
                path=f"{path}.spec".lstrip("."),
                spec=get_mapping(template, "spec"),
                labels=labels,
            )


def _of_cluster(cluster: Cluster) -> Iterator[PodTemplate]:
    options = get_path(cluster.spec, "autoscalerOptions")
    for group in cluster.groups:
        added = None
        if group.role == "head" and isinstance(options, Mapping):
            added = (f"{cluster.path}.autoscalerOptions", options)
        yield PodTemplate(
            owner=cluster.owner,
            path=group.pod_path,
            spec=group.pod,
            labels=cluster.labels(group),
            role=group.role,
            autoscaler=added,
        )


def job_labels(owner: Object) -> dict[str, str]:
    """Labels that Kubernetes adds to the pods of a job; a scheduled job has a generated name."""
    scheduled = owner.kind in ("CronJob", "RayCronJob")
    name = f"{owner.name}{GENERATED}" if scheduled else owner.name
    return {"job-name": name, "batch.kubernetes.io/job-name": name}


def _submitter(job: Job) -> PodTemplate | None:
    """The pod that submits a job; without a template KubeRay makes one of the head's image."""
    if job.spec.get("submissionMode", "K8sJobMode") != "K8sJobMode":
        return None
    template = get_mapping(job.spec, "submitterPodTemplate")
    labels = job_labels(job.owner)
    labels |= {
        "ray.io/originated-from-cr-name": labels["job-name"],
        "ray.io/originated-from-crd": "RayJob",
    }
    own = {str(k): str(v) for k, v in get_mapping(template, "metadata", "labels").items()}
    return PodTemplate(
        owner=job.owner,
        path=f"{job.path}.submitterPodTemplate.spec",
        spec=get_mapping(template, "spec"),
        labels=labels | own,
        role="submitter",
    )
