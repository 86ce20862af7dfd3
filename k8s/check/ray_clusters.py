"""Ray clusters as KubeRay 1.7 makes them, wherever in a Ray custom resource they are described."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from k8s.check.objects import Object, Objects, get_mapping, get_path, get_string, iter_mappings

JOBS = {"RayJob": "spec", "RayCronJob": "spec.jobTemplate"}
"""Kinds that run a job, and where its spec is."""
_CLUSTERS = {
    "RayCluster": "spec",
    "RayService": "spec.rayClusterConfig",
    **{kind: f"{path}.rayClusterSpec" for kind, path in JOBS.items()},
}
"""Path of the description of a cluster, by kind."""
GENERATED = "-<generated>"
"""KubeRay adds five random characters to the name of a service's and a job's cluster."""
HEAD = "headgroup"
"""Name of the head's group in labels."""
DEFAULT_PORTS = {
    "client": 10001,
    "gcs-server": 6379,
    "dashboard": 8265,
    "metrics": 8080,
    "serve": 8000,
}
"""Ports of the head's Service, if the head's container declares none."""
METRICS = ("metrics", 8080)
"""Port that KubeRay adds to the Ray container if it declares none of this name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """The head or a worker group."""

    name: str
    role: Literal["head", "worker"]
    path: str
    """Within the owner, such as spec.headGroupSpec."""
    spec: Mapping[str, Any]

    @property
    def pod_path(self) -> str:
        return f"{self.path}.template.spec"

    @property
    def pod(self) -> Mapping[str, Any]:
        """The pod's spec."""
        return get_mapping(self.spec, "template", "spec")

    @property
    def container(self) -> Mapping[str, Any]:
        """The Ray container: KubeRay takes the first."""
        return get_mapping(self.pod, "containers", 0)

    @property
    def container_path(self) -> str:
        return f"{self.pod_path}.containers[0]"

    @property
    def start_params(self) -> Mapping[str, Any]:
        return get_mapping(self.spec, "rayStartParams")


@dataclass(frozen=True, eq=False, kw_only=True)
class Cluster:
    """One Ray cluster."""

    owner: Object
    path: str
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Value of ray.io/cluster, of which only the beginning is known under a RayService."""
        own = self.owner.kind == "RayCluster"
        return self.owner.name if own else f"{self.owner.name}{GENERATED}"

    @property
    def head(self) -> Group:
        path = f"{self.path}.headGroupSpec"
        return Group(
            name=HEAD, role="head", path=path, spec=get_mapping(self.spec, "headGroupSpec")
        )

    @property
    def workers(self) -> list[Group]:
        return [
            Group(
                name=get_string(group, "groupName"),
                role="worker",
                path=f"{self.path}.workerGroupSpecs[{index}]",
                spec=group,
            )
            for index, group in iter_mappings(self.spec, "workerGroupSpecs")
        ]

    @property
    def groups(self) -> list[Group]:
        return [self.head, *self.workers]

    @property
    def serves_on_head(self) -> bool:
        """True if the Service of a RayService sends requests to the head."""
        return get_path(self.owner.spec, "excludeHeadPodFromServeSvc") is not True

    def labels(self, group: Group) -> dict[str, str]:
        """Labels of a group's pods: KubeRay's own, and the template's."""
        own = {
            "ray.io/is-ray-node": "yes",
            "ray.io/cluster": self.name,
            "ray.io/node-type": group.role,
            "ray.io/group": group.name,
            "ray.io/identifier": f"{self.name}-{group.role}",
            "app.kubernetes.io/name": "kuberay",
            "app.kubernetes.io/created-by": "kuberay-operator",
        }
        fixed = {name: own[f"ray.io/{name}"] for name in ("node-type", "group", "cluster")}
        if self.owner.kind == "RayService":
            serves = group.role == "worker" or self.serves_on_head
            own["ray.io/serve"] = str(serves).lower()
        template_labels = {
            **get_mapping(group.spec, "template", "metadata", "labels"),
            **get_mapping(group.spec, "labels"),
        }
        own |= {str(key): str(value) for key, value in template_labels.items()}
        return own | {f"ray.io/{name}": value for name, value in fixed.items()}

    @property
    def head_ports(self) -> dict[str, int]:
        """Ports of the head's Service by name: those of its container."""
        ports = {
            get_string(port, "name") or f"{port.get('containerPort')}-port": port.get(
                "containerPort"
            )
            for _, port in iter_mappings(self.head.container, "ports")
        }
        numbers = {name: port for name, port in ports.items() if isinstance(port, int)}
        name, port = METRICS
        return {name: port} | (numbers or DEFAULT_PORTS)


def clusters(objects: Objects) -> list[Cluster]:
    """Every Ray cluster of the set."""
    return [
        Cluster(owner=owner, path=path, spec=spec)
        for kind, path in _CLUSTERS.items()
        for owner in objects.of_kind(kind)
        if (spec := get_mapping(owner.document, *path.split(".")))
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """The job of a RayJob or RayCronJob."""

    owner: Object
    path: str
    spec: Mapping[str, Any]

    @property
    def command(self) -> str:
        return get_string(self.spec, "entrypoint")


def jobs(objects: Objects) -> Iterator[Job]:
    """Every Ray job of the set."""
    for kind, path in JOBS.items():
        for owner in objects.of_kind(kind):
            yield Job(owner=owner, path=path, spec=get_mapping(owner.document, *path.split(".")))


def generated_services(cluster: Cluster) -> Iterator[tuple[str, dict[str, str], dict[str, int]]]:
    """(name, labels, ports) of the Services that KubeRay makes for a RayCluster or RayService."""
    owner = cluster.owner
    if owner.kind not in ("RayCluster", "RayService"):
        return  # a job's cluster has a name that nobody knows before it is there
    head = get_string(cluster.spec, "headGroupSpec", "headService", "metadata", "name")
    labels = {
        "ray.io/originated-from-cr-name": owner.name,
        "ray.io/originated-from-crd": owner.kind,
    }
    head_labels = labels | {
        "ray.io/cluster": cluster.name,
        "ray.io/node-type": "head",
        "ray.io/identifier": f"{cluster.name}-head",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    yield head or f"{owner.name}-head-svc", head_labels, cluster.head_ports
    if owner.kind == "RayService" or owner.annotations.get("ray.io/enable-serve-service") == "true":
        own = get_mapping(owner.spec, "serveService")
        named = get_string(own, "metadata", "name")
        declared = {
            get_string(each, "name"): each.get("port")
            for _, each in iter_mappings(own, "spec", "ports")
        }
        ports = {name: port for name, port in cluster.head_ports.items() if name == "serve"}
        ports |= {name: port for name, port in declared.items() if isinstance(port, int)}
        serve = labels | {"ray.io/serve": f"{owner.name}-serve"}
        yield named or f"{owner.name}-serve-svc", serve, ports


def generated_secret(cluster: Cluster) -> str | None:
    """Name of the token's Secret that KubeRay makes where authOptions name none."""
    options = get_mapping(cluster.spec, "authOptions")
    made = options.get("mode") == "token" and not get_string(options, "secretName")
    return cluster.name if made else None
