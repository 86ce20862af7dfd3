"""Images: pinned, the same all over a Ray cluster, and of the Ray version that is stated."""

import fnmatch
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

from k8s.check.finding import Finding, finding
from k8s.check.manifests import Manifests
from k8s.check.objects import get_string
from k8s.check.ray_clusters import Cluster
from k8s.check.ray_serve_config import OURS, applications

BY_DIGEST = "aigc/images"
"""Annotation of an object whose images must go by digest: "digest", or "digest except redis"."""
_MOVING = ("latest", "nightly", "main", "master", "dev", "edge", "stable")
"""Tags under which another image may lie tomorrow."""
_RAY_REPOSITORY = re.compile(r"(^|/)ray(-ml|-llm|-deps)?$")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_STATED = re.compile(r"ray-?v?(\d+\.\d+\.\d+)")
_VARIANT = re.compile(r"-(gpu|cpu|cu\d+)(?=$|-)")


def pinned(manifests: Manifests) -> Iterator[Finding]:
    """An image without a tag, or with one that moves."""
    for pods in manifests.pods:
        for path, container in pods.containers:
            image = container.get("image")
            if not isinstance(image, str) or "@sha256:" in image:
                continue
            _, tag = split(image)
            if not tag:
                message = "has no tag, which means latest"
            elif tag in _MOVING or tag.startswith("nightly"):
                message = f"has the tag {tag}, under which another one may lie tomorrow"
            else:
                continue
            yield finding(
                pods.owner, f"{path}.image", f"{image} {message}; give a version, or a digest"
            )


def digests(manifests: Manifests) -> Iterator[Finding]:
    """An image goes by a tag in an object that wants digests (annotation aigc/images: digest)."""
    for pods in manifests.pods:
        wish = str(pods.owner.annotations.get(BY_DIGEST, "")).split()
        if wish[:1] != ["digest"]:
            continue
        excepted = [name.strip(",") for name in wish[1:] if name != "except"]
        for path, container in pods.containers:
            image = get_string(container, "image")
            repository, _ = split(image)
            meant = any(fnmatch.fnmatchcase(repository, pattern) for pattern in excepted)
            if image and "@sha256:" not in image and not meant:
                yield finding(
                    pods.owner,
                    f"{path}.image",
                    f"{image} has no digest, which the annotation {BY_DIGEST} asks for: another"
                    " image may be pushed under its tag. Say which one is meant: `kustomize edit"
                    f" set image {repository}={image}@sha256:...` (python -m k8s.pin tells it)",
                )


def split(image: str) -> tuple[str, str]:
    """(repository, tag) of an image; "" without a tag."""
    name = image.partition("@")[0]
    start = name.rfind("/") + 1
    repository, _, tag = name[start:].partition(":")
    return name[:start] + repository, tag


def one_per_cluster(manifests: Manifests) -> Iterator[Finding]:
    """Images of one cluster that differ: head and workers must be the same Ray and Python."""
    for cluster in manifests.clusters:
        head = get_string(cluster.head.container, "image")
        ray = {f"{group.container_path}.image" for group in cluster.groups}
        for pods in manifests.pods_of(cluster.owner) if head else ():
            for at, container in pods.containers:
                image, path = get_string(container, "image"), f"{at}.image"
                if image and (_differ(image, head) if path in ray else _apart(image, head)):
                    yield finding(
                        cluster.owner,
                        path,
                        f"is {image}, and the head's is {head}: another Ray, Python or code cannot"
                        " be relied on to talk to it. Use one image",
                    )


def _differ(image: str, head: str) -> bool:
    """True if the images differ in more than GPU support."""
    return _essence(image) != _essence(head)


def _apart(image: str, head: str) -> bool:
    """True if an image beside Ray's, a sidecar's or a submitter's, is another tag of the head's.

    Of Ray's own images only the version counts: a submitter talks HTTP, with any Python.
    """
    repository, _ = split(image)
    if _RAY_REPOSITORY.search(repository):
        return len({ray_of(image), ray_of(head)} - {None}) == 2
    return repository == split(head)[0] and _differ(image, head)


def _essence(image: str) -> str:
    """The part of an image that must be equal: without its suffix for GPUs or CPUs."""
    repository, tag = split(image)
    if "@" in image:
        return image
    return f"{repository}:{_VARIANT.sub('', tag)}"


def ray_version(manifests: Manifests) -> Iterator[Finding]:
    """rayVersion is not what the image's tag says; KubeRay goes by it."""
    for cluster in manifests.clusters:
        stated = get_string(cluster.spec, "rayVersion")
        for group in cluster.groups:
            image = get_string(group.container, "image")
            tagged = ray_of(image)
            if stated and tagged and stated != tagged:
                yield finding(
                    cluster.owner,
                    f"{cluster.path}.rayVersion",
                    f"is {stated}, and {image} of group {group.name} holds Ray {tagged}; KubeRay"
                    " goes by rayVersion. Make them equal",
                )


def ray_of(image: str) -> str | None:
    """The Ray version that an image's tag states, or None."""
    repository, tag = split(image)
    found = _STATED.search(tag)
    if found:
        return found[1]
    if _RAY_REPOSITORY.search(repository) and (version := _VERSION.match(tag)):
        return version[0]
    return None


def ours(manifests: Manifests) -> Iterator[Finding]:
    """A cluster that runs this project's code has another Ray than the project is pinned to."""
    pin = pinned_ray()
    for cluster in manifests.clusters:
        stated = get_string(cluster.spec, "rayVersion")
        if pin and stated and stated != pin and _runs_ours(manifests, cluster):
            yield finding(
                cluster.owner,
                f"{cluster.path}.rayVersion",
                f"is {stated}, and aigc is made for Ray {pin} (pyproject.toml, constraints.txt)",
            )


def pinned_ray() -> str | None:
    """The Ray version that this project requires, or None where it is not installed."""
    try:
        lines = requires("aigc") or []
    except PackageNotFoundError:
        return None
    pins = (re.match(r"ray\[\w+\]==([\d.]+)", line.replace(" ", "")) for line in lines)
    return next((each[1] for each in pins if each), None)


def _runs_ours(manifests: Manifests, cluster: Cluster) -> bool:
    served = (each.get("import_path") in OURS for _, each in applications(cluster.owner))
    trained = (
        re.search(r"(^|[\s/])aigc\s", job.command)
        for job in manifests.jobs
        if job.owner is cluster.owner
    )
    return any(served) or any(trained)


RULES = (pinned, digests, one_per_cluster, ray_version, ours)
