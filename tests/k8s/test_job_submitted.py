"""The RayJob of the manifests runs: its entrypoint, read by the shells that read it in the cluster.

`ray job submit` from the submitter's pod, the driver on the head, two workers of the run on pods of
their own, the artifact in the claim that sampling mounts.
"""

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from aigc.artifact import Artifact
from aigc.training.run import Run
from tests.k8s.kuberay import RayCluster
from tests.k8s.pod import Network
from tests.k8s.rendered import Rendered

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


class Job:
    """A RayJob's cluster, and what KubeRay's submitter does with it."""

    def __init__(
        self, network: Network, objects: list[dict[str, Any]], claims: Mapping[str, Path]
    ) -> None:
        (self.spec,) = (o["spec"] for o in objects if o["kind"] == "RayJob")
        self.network, self.objects, self.claims = network, objects, claims
        self.shown: set[str] = set()
        """Names of metrics that the head's sidecar has shown."""
        self.cluster = RayCluster(network, objects, self.spec["rayClusterSpec"], claims=claims)

    def submit(self, entrypoint: str, name: str) -> tuple[int, str]:
        """Exit status and output of a submission, which ends when the job does."""
        with self.network.pod(self.objects, self.spec["submitterPodTemplate"]) as pod:
            runtime = shlex.quote(json.dumps(yaml.safe_load(self.spec["runtimeEnvYAML"])))
            line = (
                f"ray job submit --address {self.cluster.dashboard} --submission-id {name}"
                f" --runtime-env-json {runtime} -- {entrypoint} ;"
            )
            container = self.spec["submitterPodTemplate"]["spec"]["containers"][0]["name"]
            process = pod.start(container, ["bash", "-c", line], **self.cluster.environment)
            while process.poll() is None:
                shown = httpx.get(f"http://{self.cluster.head.ip}:9464/metrics", timeout=30).text
                self.shown |= set(re.findall(r"^aigc_training_\w+", shown, re.MULTILINE))
                time.sleep(0.5)
            return process.returncode, pod.log(container).read_text()


@pytest.fixture(scope="module")
def job(rendered: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    claims = {name: tmp_path_factory.mktemp(name) for name in ("runs", "artifacts")}
    with Network() as network:
        job = Job(network, rendered.objects("overlays/kind"), claims)
        with job.cluster:
            job.cluster.start()
            yield job


def test_the_entrypoint_trains_and_seals_and_again_resumes(job: Job) -> None:
    run, store = Run(job.claims["runs"] / "digits"), job.claims["artifacts"] / "digits"
    short = "--report-interval 320 --samples"
    for samples, starts in ((640, [0]), (1280, [0, 640])):
        entrypoint = job.spec["entrypoint"].replace("--resume", f"--resume {short} {samples}")
        assert entrypoint != job.spec["entrypoint"]
        status, said = job.submit(entrypoint, f"training-{samples}")
        assert status == 0, said
        assert [start["samples"] for start in run.starts()] == starts
        sealed = Artifact.open(str(store / str(len(starts))))
        assert sealed.manifest.training.samples == run.facts()["samples"] == samples
    assert run.facts()["workers"] == 2
    assert {"aigc_training_samples", "aigc_training_workers"} <= job.shown


def test_a_job_that_cannot_be_is_a_failure(job: Job) -> None:
    entrypoint = job.spec["entrypoint"].replace("dcgan:digits", "dcgan:digts")
    status, said = job.submit(entrypoint, "broken")
    assert status != 0
    assert "did you mean 'digits'" in said
