"""Every pod that the set would make: templates of core kinds, of Ray clusters, of operators."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from k8s.check import operators
from k8s.check.clusters import GENERATED, METRICS, Cluster, Job, clusters, jobs
from k8s.check.objects import Object, Objects, dig, table, tables, word

_TEMPLATES = {
    "Pod": "",
    "CronJob": "spec.jobTemplate.spec.template",
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), "spec.template"),
    **dict.fromkeys(("Job", "ReplicationController"), "spec.template"),
}
"""Where the template of a pod is, by kind."""

KUBERAY_VOLUMES = {"shared-mem", "ray-logs"}
"""Of /dev/shm and, with the autoscaler, /tmp/ray, where nothing else is mounted there."""

Role = Literal["pod", "head", "worker", "submitter"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pods:
    """Pods of one kind: what their template says, with the labels that they come to have."""

    owner: Object
    path: str
    """Of the pod's spec within the owner, such as spec.template.spec."""
    spec: Mapping[str, Any]
    labels: Mapping[str, str]
    role: Role = "pod"
    autoscaler: tuple[str, Mapping[str, Any]] | None = None
    """Path and options of the container that KubeRay adds to the head."""
    whole: bool = True
    """False where an operator adds containers, and ports, that are not in the set."""

    @property
    def containers(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(path, container) of all containers, those that start first among them."""
        found = [
            (f"{self.path}.{field}[{index}]", container)
            for field in ("initContainers", "containers")
            for index, container in tables(self.spec, field)
        ]
        model = table(self.spec, "model")  # of KServe: a container under another name
        return [
            *found,
            *([(f"{self.path}.model", model)] if model else ()),
            *([self.autoscaler] if self.autoscaler else ()),
        ]

    @property
    def ports(self) -> dict[str, int]:
        """Named ports that a container declares, and the one that KubeRay adds."""
        found = {
            word(port, "name"): port.get("containerPort", 0)
            for _, container in self.containers
            for _, port in tables(container, "ports")
            if word(port, "name")
        }
        if self.role in ("head", "worker"):
            found.setdefault(*METRICS)
        return found

    @property
    def volumes(self) -> set[str]:
        """Names of volumes that a container may mount."""
        claims = tables(self.owner.spec, "volumeClaimTemplates")
        own = {word(each, "name") for _, each in tables(self.spec, "volumes")}
        own |= {word(each, "metadata", "name") for _, each in claims}
        return own | (KUBERAY_VOLUMES if self.role in ("head", "worker") else set())


def all_pods(objects: Objects) -> list[Pods]:
    """The pods of the whole set."""
    found = [*_of_core_kinds(objects)]
    for cluster in clusters(objects):
        found += _of_cluster(cluster)
    found += filter(None, map(_submitter, jobs(objects)))
    for owner, path, labels, spec in operators.pods(objects):
        found.append(Pods(owner=owner, path=path, spec=spec, labels=labels, whole=False))
    return found


def _of_core_kinds(objects: Objects) -> Iterator[Pods]:
    for kind, path in _TEMPLATES.items():
        for owner in objects.of_kind(kind):
            template = table(owner.document, *path.split(".")) if path else owner.document
            labels = {str(k): str(v) for k, v in table(template, "metadata", "labels").items()}
            if kind in ("Job", "CronJob"):
                labels |= job_labels(owner)
            if kind == "StatefulSet":
                labels["statefulset.kubernetes.io/pod-name"] = f"{owner.name}-0"
            yield Pods(
                owner=owner,
                path=f"{path}.spec".lstrip("."),
                spec=table(template, "spec"),
                labels=labels,
            )


def _of_cluster(cluster: Cluster) -> Iterator[Pods]:
    options = dig(cluster.spec, "autoscalerOptions")
    for group in cluster.groups:
        added = None
        if group.role == "head" and isinstance(options, Mapping):
            added = (f"{cluster.path}.autoscalerOptions", options)
        yield Pods(
            owner=cluster.owner,
            path=group.pod_path,
            spec=group.pod,
            labels=cluster.labels(group),
            role=group.role,
            autoscaler=added,
        )


def job_labels(owner: Object) -> dict[str, str]:
    """What Kubernetes adds to the pods of a job; one that is started by the clock has a number."""
    scheduled = owner.kind in ("CronJob", "RayCronJob")
    name = f"{owner.name}{GENERATED}" if scheduled else owner.name
    return {"job-name": name, "batch.kubernetes.io/job-name": name}


def _submitter(job: Job) -> Pods | None:
    """The pod that submits a job; without a template KubeRay makes one of the head's image."""
    if job.spec.get("submissionMode", "K8sJobMode") != "K8sJobMode":
        return None
    template = table(job.spec, "submitterPodTemplate")
    labels = job_labels(job.owner)
    labels |= {
        "ray.io/originated-from-cr-name": labels["job-name"],
        "ray.io/originated-from-crd": "RayJob",
    }
    given = {str(k): str(v) for k, v in table(template, "metadata", "labels").items()}
    return Pods(
        owner=job.owner,
        path=f"{job.path}.submitterPodTemplate.spec",
        spec=table(template, "spec"),
        labels=labels | given,
        role="submitter",
    )
