"""GPUs and spot nodes on the right pods."""

from typing import Any

import pytest

from tests.k8s.check.mutation import GONE, Mutation, changed, copied, findings, set_at

JOB = "spec.rayClusterSpec"
GPUS = f"{JOB}.workerGroupSpecs[0].template.spec"
CPUS = f"{JOB}.workerGroupSpecs[1].template.spec"
HEAD = f"{JOB}.headGroupSpec.template.spec"
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
SPOT_TAINT = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {
                "matchExpressions": [
                    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}
                ]
            }
        ]
    }
}

MUTATIONS = [
    Mutation(
        rule="placement/gpu_quantities",
        object="RayJob/training",
        path=f"{GPUS}.containers[0].resources.requests['nvidia.com/gpu']",
        value=2,
        says="is 2, and the limit is 1",
    ),
    Mutation(
        rule="placement/gpu_quantities",
        object="Deployment/web",
        path="spec.template.spec.containers[0].resources",
        value={"requests": {"amd.com/gpu": 1}},
        found="spec.template.spec.containers[0].resources.requests['amd.com/gpu']",
        says="is 1, and the limit is not given",
    ),
    Mutation(
        rule="placement/gpu_nodes",
        object="RayJob/training",
        path=f"{HEAD}.tolerations[0]",
        value=GPU_TAINT,
        says="the head asks for no GPU, and nvidia.com/gpu lets it onto GPU nodes",
    ),
    Mutation(
        rule="placement/gpu_nodes",
        object="RayJob/training",
        path=f"{CPUS}.tolerations[0]",
        value=GPU_TAINT,
        says="this group asks for no GPU",
    ),
    Mutation(
        rule="placement/gpu_nodes",
        object="RayJob/training",
        path=f"{CPUS}.nodeSelector['cloud.google.com/gke-accelerator']",
        value="nvidia-l4",
        says="this group asks for no GPU, and cloud.google.com/gke-accelerator",
    ),
    Mutation(
        rule="placement/spot_nodes",
        object="RayJob/training",
        path=f"{HEAD}.tolerations[0]",
        value=SPOT_TAINT,
        says="the head must last, and cloud.google.com/gke-spot lets it onto spot nodes",
    ),
    Mutation(
        rule="placement/spot_nodes",
        object="RayJob/training",
        path="spec.submitterPodTemplate.spec.nodeSelector['eks.amazonaws.com/capacityType']",
        value="SPOT",
        says="the submitter must last",
    ),
    Mutation(
        rule="placement/spot_nodes",
        object="StatefulSet/redis",
        path="spec.template.spec.tolerations",
        value=[{"operator": "Exists"}],
        found="spec.template.spec.tolerations[0]",
        says="it must last, and this tolerates every taint",
    ),
    Mutation(
        rule="placement/spot_nodes",
        object="RayService/sampling",
        path="spec.rayClusterConfig.headGroupSpec.template.spec.affinity.nodeAffinity",
        value=AFFINITY,
        found="spec.rayClusterConfig.headGroupSpec.template.spec.affinity.nodeAffinity"
        ".requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]",
        says="karpenter.sh/capacity-type lets it onto spot nodes",
    ),
    Mutation(
        rule="placement/ray_gpus",
        object="RayJob/training",
        path=f"{JOB}.workerGroupSpecs[1].rayStartParams.num-gpus",
        value="1",
        says="is 1, and the container's GPU limit is 0",
    ),
    Mutation(
        rule="placement/ray_gpus",
        object="RayJob/training",
        path=f"{JOB}.workerGroupSpecs[0].rayStartParams.num-gpus",
        value="4",
        says="is 4, and the container's GPU limit is 1",
    ),
    Mutation(
        rule="placement/gpu_replicas",
        object="RayService/sampling",
        path="spec.serveConfigV2.applications[1].deployments[0].ray_actor_options.num_gpus",
        value=0.5,
        says="is 0.5, and no container of the cluster has a GPU limit",
    ),
    Mutation(
        rule="placement/gpu_replicas",
        object="RayService/sampling",
        path="spec.serveConfigV2.applications[0].args.pools.large.gpus",
        value=1,
        says="is 1, and no container of the cluster has a GPU limit",
    ),
]

RESERVED = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {
                "matchExpressions": [
                    {"key": "karpenter.sh/capacity-type", "operator": "NotIn", "values": ["spot"]}
                ]
            }
        ]
    }
}

MEANT: list[tuple[str, Any]] = [
    (f"{CPUS}.tolerations[0]", SPOT_TAINT),
    (f"{HEAD}.tolerations[0]", {"key": "karpenter.sh/capacity-type", "value": "on-demand"}),
    (f"{HEAD}.nodeSelector", {"karpenter.sh/capacity-type": "on-demand"}),
    (f"{JOB}.workerGroupSpecs[0].rayStartParams.num-gpus", "0"),
    (f"{JOB}.workerGroupSpecs[0].rayStartParams.num-gpus", GONE),
    (f"{GPUS}.containers[0].resources.requests", GONE),
    (f"{HEAD}.affinity.nodeAffinity", RESERVED),
]


@pytest.mark.parametrize(("path", "value"), MEANT)
def test_workers_may_use_spot_nodes_and_leave_gpus(path: str, value: Any) -> None:
    documents = changed(("RayJob/training", path, value))
    assert findings(documents) == []


def test_gpu_may_be_a_device_or_a_share() -> None:
    documents, job = copied("RayJob/training")
    set_at(job, f"{CPUS}.tolerations[0]", GPU_TAINT)
    limits = {"memory": "4Gi", "nvidia.com/mig-1g.5gb": 1}
    set_at(job, f"{CPUS}.containers[0].resources", {"limits": limits})
    assert findings(documents) == []
    del limits["nvidia.com/mig-1g.5gb"]
    assert len(findings(documents)) == 1
    set_at(job, f"{CPUS}.resourceClaims", [{"name": "gpu", "resourceClaimTemplateName": "gpu"}])
    assert findings(documents) == []


def test_daemon_set_may_tolerate_gpu_nodes() -> None:
    documents, web = copied("Deployment/web")
    set_at(web, "spec.template.spec.tolerations", [GPU_TAINT])
    assert [each.rule for each in findings(documents)] == ["placement/gpu_nodes"]
    web["kind"] = "DaemonSet"
    assert [each for each in findings(documents) if each.rule.startswith("placement/")] == []
