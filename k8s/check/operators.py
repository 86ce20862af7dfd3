"""Objects that well-known operators create from custom resources; selectors and references may
refer to them.

prometheus-operator (makeSelectorLabels in its pkg/), KServe, cert-manager, external-secrets,
sealed-secrets and the Secrets Store CSI driver; only names, labels and ports, by their own docs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.check.objects import Object, Objects, get_mapping, get_string, iter_mappings

_MONITORING = {"Prometheus": ("prometheus", 9090), "Alertmanager": ("alertmanager", 9093)}


def pods(objects: Objects) -> Iterator[tuple[Object, str, dict[str, str], Mapping[str, Any]]]:
    """(owner, path of the pod's spec, labels, that spec) of pods that operators make."""
    for owner in objects.of_kind(*_MONITORING):
        name, port = _MONITORING[owner.kind]
        labels = {
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/instance": owner.name,
            "app.kubernetes.io/managed-by": "prometheus-operator",
            f"operator.{name}.io/name": owner.name,
            name: owner.name,
        }
        pod_labels = get_mapping(owner.spec, "podMetadata", "labels")
        ports = [{"name": "web", "containerPort": port}]
        ports.append({"name": "reloader-web", "containerPort": 8080})
        spec = {
            **{key: owner.spec[key] for key in _OF_THE_POD if key in owner.spec},
            "containers": [{"name": name, "ports": ports}],
        }
        yield owner, "spec", labels | {str(k): str(v) for k, v in pod_labels.items()}, spec
    for owner in objects.of_kind("InferenceService"):
        for component in ("predictor", "transformer", "explainer"):
            if described := get_mapping(owner.spec, component):
                name = f"{owner.name}-{component}"
                labels = {
                    "serving.kserve.io/inferenceservice": owner.name,
                    "component": component,
                    "app": f"isvc.{name}",
                }
                labels |= {str(k): str(v) for k, v in owner.labels.items()}
                labels |= {str(k): str(v) for k, v in get_mapping(described, "labels").items()}
                yield owner, f"spec.{component}", labels, described


_OF_THE_POD = ("serviceAccountName", "imagePullSecrets", "tolerations", "nodeSelector", "affinity")


def services(objects: Objects) -> Iterator[tuple[Object, str, dict[str, str], dict[str, int]]]:
    """(owner, name, labels, ports) of Services that operators make."""
    for owner in objects.of_kind(*_MONITORING):
        name, port = _MONITORING[owner.kind]
        yield owner, f"{name}-operated", {f"operated-{name}": "true"}, {"web": port}
    for owner in objects.of_kind("InferenceService"):
        for component in ("predictor", "transformer", "explainer"):
            if get_mapping(owner.spec, component):
                yield owner, f"{owner.name}-{component}", {}, {"http": 80}


def secrets(objects: Objects) -> Iterator[tuple[str, str]]:
    """(namespace, name) of Secrets that operators make."""
    for owner in objects:
        if owner.kind == "Certificate":
            yield owner.namespace, get_string(owner.spec, "secretName")
        elif owner.kind == "SealedSecret":
            yield owner.namespace, owner.name
        elif owner.kind == "ExternalSecret":
            yield owner.namespace, get_string(owner.spec, "target", "name") or owner.name
        elif owner.kind == "SecretProviderClass":
            for _, each in iter_mappings(owner.spec, "secretObjects"):
                yield owner.namespace, get_string(each, "secretName")
        elif owner.kind == "Ingress" and any(
            "cert-manager.io/" in key for key in owner.annotations
        ):
            for _, each in iter_mappings(owner.spec, "tls"):
                yield owner.namespace, get_string(each, "secretName")
