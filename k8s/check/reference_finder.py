"""References of objects and pods to config maps, secrets, claims, accounts and the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k8s.check.manifests import Manifests
from k8s.check.objects import Object, get_list, get_mapping, get_path, get_string, iter_mappings
from k8s.check.pods import PodTemplate

_SCALERS = ("HorizontalPodAutoscaler", "VerticalPodAutoscaler", "ScaledObject")
_BUILT_IN_ROLES = {"cluster-admin", "admin", "edit", "view"}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One object names another."""

    by: Object
    path: str
    kind: str
    name: str
    namespace: str
    keys: tuple[tuple[str, str], ...] = ()
    """(path, key) of what it needs in a ConfigMap or Secret."""
    optional: bool = False


def references(manifests: Manifests) -> Iterator[Reference]:
    """Every reference of the set to what rules know how to find."""
    for pods in manifests.pods:
        for path, kind, name, keys, optional in _of_pods(pods):
            if name:
                yield Reference(
                    by=pods.owner,
                    path=path,
                    kind=kind,
                    name=name,
                    namespace=pods.owner.namespace,
                    keys=keys,
                    optional=optional,
                )
    for by in manifests:
        for path, kind, name, namespace, keys in _of_object(by):
            if name:
                yield Reference(
                    by=by, path=path, kind=kind, name=name, namespace=namespace, keys=keys
                )


_Keys = tuple[tuple[str, str], ...]
_InPod = tuple[str, str, str, _Keys, bool]
_InObject = tuple[str, str, str, str, _Keys]


def _of_pods(pods: PodTemplate) -> Iterator[_InPod]:
    spec, path = pods.spec, pods.path
    for field in ("serviceAccountName", "serviceAccount"):
        if get_string(spec, field):
            yield f"{path}.{field}", "ServiceAccount", get_string(spec, field), (), False
            break
    for index, each in iter_mappings(spec, "imagePullSecrets"):
        at = f"{path}.imagePullSecrets[{index}].name"
        yield at, "Secret", get_string(each, "name"), (), False
    for index, volume in iter_mappings(spec, "volumes"):
        yield from _of_volume(volume, f"{path}.volumes[{index}]")
    for at, container in pods.containers:
        yield from _of_container(container, at)


def _of_volume(volume: Mapping[str, Any], path: str) -> Iterator[_InPod]:
    if claim := get_string(volume, "persistentVolumeClaim", "claimName"):
        at = f"{path}.persistentVolumeClaim.claimName"
        yield at, "PersistentVolumeClaim", claim, (), False
    sources = [(path, "name", "secretName", volume)]
    for index, source in iter_mappings(volume, "projected", "sources"):
        sources.append((f"{path}.projected.sources[{index}]", "name", "name", source))
    for at, config_field, secret_field, source in sources:
        for kind, form, field in (
            ("ConfigMap", "configMap", config_field),
            ("Secret", "secret", secret_field),
        ):
            named = get_mapping(source, form)
            keys = tuple(
                (f"{at}.{form}.items[{index}].key", get_string(item, "key"))
                for index, item in iter_mappings(named, "items")
            )
            optional = named.get("optional") is True
            yield f"{at}.{form}.{field}", kind, get_string(named, field), keys, optional
    if secret := get_string(volume, "csi", "nodePublishSecretRef", "name"):
        yield f"{path}.csi.nodePublishSecretRef.name", "Secret", secret, (), False


def _of_container(container: Mapping[str, Any], path: str) -> Iterator[_InPod]:
    for index, each in iter_mappings(container, "env"):
        for kind, form in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            named = get_mapping(each, "valueFrom", form)
            at = f"{path}.env[{index}].valueFrom.{form}"
            keys = ((f"{at}.key", get_string(named, "key")),)
            yield f"{at}.name", kind, get_string(named, "name"), keys, named.get("optional") is True
    for index, each in iter_mappings(container, "envFrom"):
        for kind, form in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            named = get_mapping(each, form)
            at = f"{path}.envFrom[{index}].{form}.name"
            yield at, kind, get_string(named, "name"), (), named.get("optional") is True


def _of_object(by: Object) -> Iterator[_InObject]:
    special = {
        "Ingress": _of_ingress,
        **dict.fromkeys(_SCALERS, _of_scaler),
        "RoleBinding": _of_binding,
        "ClusterRoleBinding": _of_binding,
        "PodMonitor": _of_monitor,
        "ServiceMonitor": _of_monitor,
        "HTTPRoute": _of_route,
        "GRPCRoute": _of_route,
        "Prometheus": _of_prometheus,
        **dict.fromkeys(("RayCluster", "RayService", "RayJob", "RayCronJob"), _of_ray),
    }
    if by.kind in special:
        yield from special[by.kind](by)
    if by.kind == "StatefulSet" and (name := get_string(by.spec, "serviceName")):
        yield "spec.serviceName", "Service", name, by.namespace, ()
    if by.kind == "ServiceAccount":
        for field in ("imagePullSecrets", "secrets"):
            for index, each in iter_mappings(by.document, field):
                yield f"{field}[{index}].name", "Secret", get_string(each, "name"), by.namespace, ()


def _of_ingress(by: Object) -> Iterator[_InObject]:
    for path, backend in ingress_backends(by):
        name = get_string(backend, "service", "name")
        yield f"{path}.service.name", "Service", name, by.namespace, ()
    for index, each in iter_mappings(by.spec, "tls"):
        name = get_string(each, "secretName")
        yield f"spec.tls[{index}].secretName", "Secret", name, by.namespace, ()


def ingress_backends(by: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, backend) of an Ingress."""
    if default := get_mapping(by.spec, "defaultBackend"):
        yield "spec.defaultBackend", default
    for i, rule in iter_mappings(by.spec, "rules"):
        for j, route in iter_mappings(rule, "http", "paths"):
            yield f"spec.rules[{i}].http.paths[{j}].backend", get_mapping(route, "backend")


def _of_route(by: Object) -> Iterator[_InObject]:
    for path, backend in route_backends(by):
        namespace = get_string(backend, "namespace") or by.namespace
        yield f"{path}.name", "Service", get_string(backend, "name"), namespace, ()


def route_backends(by: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, backend) of a route of the Gateway API, as far as it is a Service."""
    for i, rule in iter_mappings(by.spec, "rules"):
        for j, backend in iter_mappings(rule, "backendRefs"):
            if backend.get("kind", "Service") == "Service":
                yield f"spec.rules[{i}].backendRefs[{j}]", backend


def _of_scaler(by: Object) -> Iterator[_InObject]:
    field = "targetRef" if by.kind == "VerticalPodAutoscaler" else "scaleTargetRef"
    target = get_mapping(by.spec, field)
    kind = get_string(target, "kind") or "Deployment"  # which KEDA takes for granted
    yield f"spec.{field}", kind, get_string(target, "name"), by.namespace, ()


def _of_binding(by: Object) -> Iterator[_InObject]:
    role = get_mapping(by.document, "roleRef")
    name = get_string(role, "name")
    built_in = role.get("kind") == "ClusterRole" and (
        name in _BUILT_IN_ROLES or name.startswith("system:")
    )
    if not built_in:
        yield "roleRef.name", get_string(role, "kind"), name, by.namespace, ()
    for index, each in iter_mappings(by.document, "subjects"):
        if each.get("kind") == "ServiceAccount":
            namespace = get_string(each, "namespace") or by.namespace
            yield (
                f"subjects[{index}].name",
                "ServiceAccount",
                get_string(each, "name"),
                namespace,
                (),
            )


def _of_monitor(by: Object) -> Iterator[_InObject]:
    field = "podMetricsEndpoints" if by.kind == "PodMonitor" else "endpoints"
    for index, endpoint in iter_mappings(by.spec, field):
        for below in (
            ("bearerTokenSecret",),
            ("authorization", "credentials"),
            ("basicAuth", "username"),
            ("basicAuth", "password"),
            ("tlsConfig", "keySecret"),
            ("tlsConfig", "ca", "secret"),
            ("tlsConfig", "cert", "secret"),
        ):
            named = get_mapping(endpoint, *below)
            at = f"spec.{field}[{index}].{'.'.join(below)}"
            keys = ((f"{at}.key", get_string(named, "key")),)
            yield f"{at}.name", "Secret", get_string(named, "name"), by.namespace, keys


def _of_prometheus(by: Object) -> Iterator[_InObject]:
    for field, kind in (("secrets", "Secret"), ("configMaps", "ConfigMap")):
        for index, name in enumerate(get_list(by.spec, field)):
            yield f"spec.{field}[{index}]", kind, name, by.namespace, ()


def _of_ray(by: Object) -> Iterator[_InObject]:
    job = {"RayJob": "spec", "RayCronJob": "spec.jobTemplate"}.get(by.kind, "")
    selected = get_string(by.document, *job.split("."), "clusterSelector", "ray.io/cluster")
    yield f"{job}.clusterSelector['ray.io/cluster']", "RayCluster", selected, by.namespace, ()
    path = f"{job}.rayClusterSpec" if job else "spec"
    path = "spec.rayClusterConfig" if by.kind == "RayService" else path
    spec = get_path(by.document, *path.split("."))
    for field in ("redisPassword", "redisUsername"):
        below = ("gcsFaultToleranceOptions", field, "valueFrom", "secretKeyRef")
        named = get_mapping(spec, *below)
        at = f"{path}.{'.'.join(below)}"
        keys = ((f"{at}.key", get_string(named, "key")),)
        yield f"{at}.name", "Secret", get_string(named, "name"), by.namespace, keys
    token = get_string(spec, "authOptions", "secretName")
    at = f"{path}.authOptions.secretName"
    yield at, "Secret", token, by.namespace, ((at, "auth_token"),)
    claim = get_string(spec, "gcsFaultToleranceOptions", "storage", "claimName")
    at = f"{path}.gcsFaultToleranceOptions.storage.claimName"
    yield at, "PersistentVolumeClaim", claim, by.namespace, ()
