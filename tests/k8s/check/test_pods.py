"""The pods that controllers make of templates, and what they add to them."""

from typing import Any

from k8s.check.manifests import Manifests
from k8s.check.pods import PodTemplate

CONTAINER = {"name": "a", "image": "a:1", "ports": [{"name": "http", "containerPort": 80}]}


def pods(kind: str, group: str, spec: dict[str, Any], name: str = "x") -> list[PodTemplate]:
    document = {
        "apiVersion": f"{group}/v1" if group else "v1",
        "kind": kind,
        "metadata": {"name": name, "labels": {"of": "object"}},
        "spec": spec,
    }
    return Manifests([document]).pods


def template(**labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}, "spec": {"containers": [CONTAINER]}}


def test_pods_of_core_kinds() -> None:
    (own,) = pods("Pod", "", {"containers": [CONTAINER]})
    assert (own.path, own.labels, own.ports) == ("spec", {"of": "object"}, {"http": 80})
    (job,) = pods("Job", "batch", {"template": template(a="b")})
    assert job.labels == {"a": "b", "job-name": "x", "batch.kubernetes.io/job-name": "x"}
    (cron,) = pods("CronJob", "batch", {"jobTemplate": {"spec": {"template": template()}}})
    assert cron.path == "spec.jobTemplate.spec.template.spec"
    assert cron.labels["job-name"] != "x"  # it ends with the time of its start
    (kept,) = pods("StatefulSet", "apps", {"template": template()})
    assert kept.labels == {"statefulset.kubernetes.io/pod-name": "x-0"}


def test_kuberay_labels_override_those_of_the_template() -> None:
    given = {"ray.io/node-type": "mine", "app.kubernetes.io/name": "mine", "a": "b"}
    head = {"template": template(**given), "labels": {"c": "d"}}
    worker = {"groupName": "small", "template": template()}
    cluster = {"headGroupSpec": head, "workerGroupSpecs": [worker]}
    own, other = pods("RayCluster", "ray.io", cluster)
    assert own.labels == {
        "a": "b",
        "c": "d",
        "app.kubernetes.io/name": "mine",
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/cluster": "x",
        "ray.io/group": "headgroup",
        "ray.io/identifier": "x-head",
        "ray.io/is-ray-node": "yes",
        "ray.io/node-type": "head",
    }
    assert other.labels["ray.io/group"] == "small"
    assert other.labels["app.kubernetes.io/name"] == "kuberay"
    assert other.ports == {"http": 80, "metrics": 8080}
    assert other.path == "spec.workerGroupSpecs[0].template.spec"
    assert "ray-logs" in other.volumes


def test_ray_job_has_a_submitter_unless_disabled() -> None:
    job = {"rayClusterSpec": {"headGroupSpec": {"template": template()}}}
    head, submitter = pods("RayJob", "ray.io", job)
    assert (head.role, submitter.role) == ("head", "submitter")
    assert head.labels["ray.io/cluster"] != "x"  # KubeRay adds random characters
    assert submitter.labels["batch.kubernetes.io/job-name"] == "x"
    assert submitter.labels["ray.io/originated-from-cr-name"] == "x"
    (only,) = pods("RayJob", "ray.io", job | {"submissionMode": "HTTPMode"})
    assert only.role == "head"
    head, submitter = pods("RayCronJob", "ray.io", {"jobTemplate": job})
    assert head.path == "spec.jobTemplate.rayClusterSpec.headGroupSpec.template.spec"
    assert submitter.labels["job-name"] != "x"


def test_autoscaler_is_a_container_of_the_head() -> None:
    cluster = {"autoscalerOptions": {"env": []}, "headGroupSpec": {"template": template()}}
    (head,) = pods("RayCluster", "ray.io", cluster)
    assert [path for path, _ in head.containers] == [
        "spec.headGroupSpec.template.spec.containers[0]",
        "spec.autoscalerOptions",
    ]


def test_pods_of_operators() -> None:
    (prometheus,) = pods(
        "Prometheus",
        "monitoring.coreos.com",
        {"serviceAccountName": "p", "podMetadata": {"labels": {"a": "b"}}},
    )
    assert prometheus.labels["app.kubernetes.io/instance"] == "x"
    assert prometheus.labels["a"] == "b"
    assert prometheus.ports["web"] == 9090
    assert prometheus.spec["serviceAccountName"] == "p"
    served = {"predictor": {"model": {"env": [{"name": "A"}]}}}
    (predictor,) = pods("InferenceService", "serving.kserve.io", served)
    assert predictor.labels["serving.kserve.io/inferenceservice"] == "x"
    assert [path for path, _ in predictor.containers] == ["spec.predictor.model"]
    assert not predictor.whole
    assert pods("Service", "", {"selector": {}}) == []
