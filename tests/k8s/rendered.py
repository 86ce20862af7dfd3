"""The manifests as `kubectl kustomize` renders them, each once per session."""

import copy
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
SHARED = ROOT.parent / "shared"
"""CRDs of KubeRay and prometheus-operator, and checkers of manifests."""

BEHIND = {"cron-retraining": ["training-job"], "kueue": ["training-job"]}
"""Components that change or copy what others bring."""
TOGETHER = [
    ["training-job", "s3"],
    ["training-job", "s3", "cron-retraining"],
    ["training-job", "kueue", "cron-retraining"],
]

Object = dict[str, Any]


def folders(kind: str) -> list[str]:
    """Names of the overlays, or of the components."""
    return sorted(path.parent.name for path in (K8S / kind).glob("*/kustomization.yaml"))


def combinations() -> list[str]:
    """Base, base with each component and with some together, and every overlay."""
    alone = [[*BEHIND.get(name, []), name] for name in folders("components")]
    added = ["+".join(names) for names in [*alone, *TOGETHER]]
    return ["base", *added, *(f"overlays/{name}" for name in folders("overlays"))]


def kustomize(folder: Path) -> str:
    """The objects that a folder renders to; a warning is an error."""
    command = ["kubectl", "kustomize", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("kubectl is not on this machine")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def write(folder: Path, components: Sequence[str] = (), **more: Any) -> None:
    """An overlay outside of the repository: base with components, and what else it says."""
    at = os.path.relpath(K8S, folder)
    overlay: Object = {
        "resources": [f"{at}/base"],
        "components": [f"{at}/components/{name}" for name in components],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))


class Rendered:
    """All combinations by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.text = functools.cache(self._text)

    def _text(self, name: str) -> str:
        if (K8S / name / "kustomization.yaml").exists():
            return kustomize(K8S / name)
        folder = self._folder / name
        folder.mkdir()
        write(folder, name.split("+"))
        return kustomize(folder)

    def objects(self, name: str) -> list[Object]:
        """Fresh ones, which a test may change."""
        return [*yaml.load_all(self.text(name), yaml.CSafeLoader)]

    def one(self, name: str, kind: str, called: str) -> Object:
        """The object of a kind with this name."""
        return find(self.objects(name), kind, called)

    def everything(self) -> str:
        """Every distinct object of all combinations, as one stream."""
        return "---\n".join(
            sorted({yaml.safe_dump(o) for n in combinations() for o in self.objects(n)})
        )


def find(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The object of a kind with this name."""
    (found,) = (o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return found


def tool(name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of the shared checkers, or skip where they are not."""
    script = SHARED / "tools" / f"{name}.py"
    if not script.exists():
        pytest.skip(f"{SHARED} is not on this machine")
    command = [sys.executable, "-W", "ignore", str(script), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=240)


def passed(done: subprocess.CompletedProcess[str]) -> None:
    """Assert that a checker found nothing bad."""
    said = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert done.returncode == 0, "\n".join([*said, done.stderr])


def clusters(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Ray clusters by the kind of what they belong to."""
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "RayService":
            yield one["kind"], spec["rayClusterConfig"]
        elif one["kind"] == "RayJob":
            yield one["kind"], spec["rayClusterSpec"]
        elif one["kind"] == "RayCronJob":
            yield one["kind"], spec["jobTemplate"]["rayClusterSpec"]


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod template by where it is: what KubeRay and Kubernetes make pods of."""
    for kind, cluster in clusters(objects):
        yield f"{kind} head", _with_autoscaler(cluster)
        for group in cluster["workerGroupSpecs"]:
            yield f"{kind} worker", group["template"]
    for one in objects:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", spec)
        if "submitterPodTemplate" in spec:
            yield f"{one['kind']} submitter", spec["submitterPodTemplate"]
        if one["kind"] == "StatefulSet":
            for claim in spec["volumeClaimTemplates"]:
                volume = {"name": claim["metadata"]["name"], "persistentVolumeClaim": {}}
                spec["template"]["spec"]["volumes"].append(volume)
            yield one["metadata"]["name"], spec["template"]


def _with_autoscaler(cluster: Mapping[str, Any]) -> Object:
    """The head with the container that KubeRay adds."""
    template: Object = copy.deepcopy(cluster["headGroupSpec"]["template"])
    options = cluster.get("autoscalerOptions")
    if cluster.get("enableInTreeAutoscaling"):
        image = template["spec"]["containers"][0]["image"]
        added = {name: options[name] for name in ("resources", "securityContext", "volumeMounts")}
        template["spec"]["containers"].append({"name": "autoscaler", "image": image, **added})
    return template


def containers(template: Mapping[str, Any]) -> list[Object]:
    """All of a pod, those that run before the others as well."""
    spec = template["spec"]
    return [*spec["containers"], *spec.get("initContainers", [])]


def environment(objects: list[Object], called: str) -> dict[str, str]:
    """The config map whose name begins so."""
    (found,) = (
        o
        for o in objects
        if o["kind"] == "ConfigMap"
        and re.fullmatch(f"{called}-[a-z0-9]{{10}}", o["metadata"]["name"])
    )
    data: dict[str, str] = found["data"]
    return data


def told(objects: list[Object], container: Object) -> dict[str, str]:
    """The environment of a container, from its config maps and itself."""
    maps = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    return found | {one["name"]: one["value"] for one in container.get("env", ())}


def service(objects: list[Object]) -> Object:
    """The spec of the RayService."""
    (found,) = (o["spec"] for o in objects if o["kind"] == "RayService")
    return dict(found)


def has_s3(name: str) -> bool:
    """True if a combination keeps runs and artifacts in a bucket."""
    return "s3" in name or name in ("overlays/gpu", "overlays/spot")


def seconds(variables: dict[str, str], name: str) -> float:
    """A time in an environment."""
    return float(variables[name])
