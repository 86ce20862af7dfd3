"""Images and the Ray in them."""

import re
from copy import deepcopy
from pathlib import Path

import pytest

from k8s.check.rules.images import pinned_ray, ray_of, split
from tests.k8s.check.mutation import WHOLE, Mutation, broken, copied, findings, one, set_at

ROOT = Path(__file__).parents[4]
WEB = "spec.template.spec.containers[0].image"
WORKER = "spec.rayClusterConfig.workerGroupSpecs[0].template.spec.containers[0].image"
MUTATIONS = [
    Mutation(
        rule="images/pinned",
        object="Deployment/web",
        path=WEB,
        value="registry:5000/web",
        says="registry:5000/web has no tag, which means latest",
    ),
    Mutation(
        rule="images/pinned",
        object="Deployment/web",
        path=WEB,
        value="example.com/web:latest",
        says="has the tag latest, under which another one may lie tomorrow; give a version",
    ),
    Mutation(
        rule="images/pinned",
        object="RayJob/training",
        path="spec.rayClusterSpec.headGroupSpec.template.spec.initContainers",
        value=[{"name": "wait", "image": "busybox"}],
        found="spec.rayClusterSpec.headGroupSpec.template.spec.initContainers[0].image",
        says="busybox has no tag",
    ),
    Mutation(
        rule="images/digests",
        object="Deployment/web",
        path="metadata.annotations",
        value={"aigc/images": "digest"},
        found=WEB,
        says="example.com/web:1.4.2 has no digest, which the annotation aigc/images asks for",
    ),
    Mutation(
        rule="images/digests",
        object="StatefulSet/redis",
        path="metadata.annotations",
        value={"aigc/images": "digest except busybox, example.com/*"},
        found=WEB,
        says="`kustomize edit set image redis=redis:7.4.2@sha256:...`",
    ),
    Mutation(
        rule="images/one_per_cluster",
        object="RayService/sampling",
        path=WORKER,
        value="rayproject/ray:2.60.0-py312",
        says="is rayproject/ray:2.60.0-py312, and the head's is rayproject/ray:2.60.0-py311",
    ),
    Mutation(
        rule="images/one_per_cluster",
        object="RayJob/training",
        path="spec.submitterPodTemplate.spec.containers[0].image",
        value="rayproject/ray:2.59.0-py311",
        says="is rayproject/ray:2.59.0-py311, and the head's is",
    ),
    Mutation(
        rule="images/ray_version",
        object="RayService/sampling",
        path="spec.rayClusterConfig.rayVersion",
        value="2.60.1",
        others=True,
        says="is 2.60.1, and rayproject/ray:2.60.0-py311 of group headgroup holds Ray 2.60.0",
    ),
    Mutation(
        rule="images/ours",
        object="RayJob/training",
        path="spec.rayClusterSpec.rayVersion",
        value="2.59.0",
        others=True,
        says="is 2.59.0, and aigc is made for Ray 2.60.0",
    ),
]


def test_other_code_needs_no_pinned_ray() -> None:
    documents = broken(MUTATIONS[-1])
    one(documents, "RayJob/training")["spec"]["entrypoint"] = "python train.py"
    assert [each.rule for each in findings(documents) if each.rule == "images/ours"] == []
    pins = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={pinned_ray()}\n" in pins


@pytest.mark.parametrize(
    ("image", "ray"),
    [
        ("rayproject/ray:2.9.0", "2.9.0"),
        ("rayproject/ray-ml:2.9.0-py310-gpu", "2.9.0"),
        ("registry:5000/aigc-serve:0.1.0-ray2.60.0", "2.60.0"),
        ("registry:5000/aigc-serve:0.1.0", None),
        ("example.com/array:1.2.3", None),
        ("rayproject/ray:nightly", None),
    ],
)
def test_ray_version_is_parsed_from_tags(image: str, ray: str | None) -> None:
    assert ray_of(image) == ray


def test_image_names_are_parsed() -> None:
    assert split("registry:5000/a/b") == ("registry:5000/a/b", "")
    assert split("registry:5000/a/b:1") == ("registry:5000/a/b", "1")
    assert split("a:1@sha256:00") == ("a", "1")


def test_sidecar_of_the_same_code_needs_the_same_image() -> None:
    documents, service = copied("RayService/sampling")
    for group in ("headGroupSpec", "workerGroupSpecs[0]"):
        pod = f"spec.rayClusterConfig.{group}.template.spec"
        set_at(service, f"{pod}.containers[0].image", "example.com/serve:1")
    set_at(
        service,
        f"{pod}.initContainers",
        [{"name": "metrics", "image": "example.com/serve:1"}, {"name": "x", "image": "busybox:1"}],
    )
    assert findings(documents) == []
    set_at(service, f"{pod}.initContainers[0].image", "example.com/serve:2")
    (found,) = findings(documents)
    assert (found.rule, found.path) == (
        "images/one_per_cluster",
        f"{pod}.initContainers[0].image",
    )


@pytest.mark.parametrize(
    ("wish", "image"),
    [
        ("digest", f"example.com/web:1.4.2@sha256:{'0' * 64}"),
        ("digest except busybox, example.com/*", "example.com/web:1.4.2"),
        ("tag", "example.com/web:1.4.2"),
    ],
)
def test_digests_may_be_required_with_exceptions(wish: str, image: str) -> None:
    documents, web = copied("Deployment/web")
    set_at(web, "metadata.annotations", {"aigc/images": wish})
    set_at(web, WEB, image)
    assert findings(documents) == []


def test_digest_pins_and_gpu_variants_are_allowed() -> None:
    documents = deepcopy(WHOLE)
    digest = f"example.com/web@sha256:{'0' * 64}"
    set_at(one(documents, "Deployment/web"), WEB, digest)
    service = one(documents, "RayService/sampling")
    for group in ("headGroupSpec", "workerGroupSpecs[0]"):
        image = f"spec.rayClusterConfig.{group}.template.spec.containers[0].image"
        set_at(service, image, digest)
    workers = one(documents, "RayJob/training")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert re.search("-gpu$", workers[0]["template"]["spec"]["containers"][0]["image"])
    assert findings(documents) == []
    set_at(service, image, digest.replace("0", "1"))
    assert [each.rule for each in findings(documents)] == ["images/one_per_cluster"]
