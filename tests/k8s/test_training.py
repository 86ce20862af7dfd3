"""The training job: its entrypoint fits its cluster, and its nodes may go."""

import os
import shlex
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from aigc.prometheus.exporter import ENVIRONMENT as METRICS
from tests.k8s.rendered import (
    Rendered,
    combinations,
    containers,
    environment,
    has_s3,
    pods,
    seconds,
    told,
)

TRAINING = [name for name in combinations() if "training" in name or "overlays" in name]


@pytest.mark.parametrize("name", TRAINING)
def test_entrypoint_trains_on_this_cluster(name: str, rendered: Rendered) -> None:
    objects = rendered.objects(name)
    jobs = 0
    for one in objects:
        spec = one.get("spec", {}).get("jobTemplate", one.get("spec", {}))
        if "entrypoint" not in spec:
            continue
        jobs += 1
        head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        variables = told(objects, head)
        bash, c, line = shlex.split(spec["entrypoint"])
        assert (bash, c) == ("bash", "-c")
        train, export = (shlex.split(command) for command in line.split("&&"))
        assert train[:2] == ["aigc", "train"]
        flags = dict(zip(train[3::2], train[4::2], strict=False))
        (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
        assert flags["--workers"] == f"{group['minReplicas']}..{group['maxReplicas']}"
        threads = int(flags["--threads"])
        assert int(group["rayStartParams"]["num-cpus"]) == threads + 1
        assert variables["OMP_NUM_THREADS"] == str(threads)
        assert flags["--address"] == "auto"
        assert train[-1] == "--resume"
        assert export[:3] == ["aigc", "export", f"{flags['--storage']}/{flags['--name']}"]
        out = export[export.index("--out") + 1]
        assert (flags["--storage"], out) == ("$AIGC_RUNS", "$AIGC_STORE")
        there = [mount["mountPath"] for mount in head["volumeMounts"]]
        for variable in ("AIGC_RUNS", "AIGC_STORE"):
            place = variables[variable]
            assert place.startswith("s3://aigc/") if has_s3(name) else place in there
        assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"][METRICS] in there
    assert jobs == 1 + ("cron" in name)


@pytest.mark.parametrize("submitter", ["KubeRay's shell", "Ray's API"])
def test_entrypoint_survives_shell_quoting(
    submitter: str, rendered: Rendered, tmp_path: Path
) -> None:
    """KubeRay pastes it into a shell's command line, Ray's CLI makes one line of it, the head runs
    that in a shell; only the last knows the variables."""
    ran = tmp_path / "ran"
    aigc = tmp_path / "aigc"
    aigc.write_text(f'#!/bin/sh\necho "$@" >> {ran}\n')
    aigc.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for kind, name in (("RayJob", "training"), ("RayCronJob", "retraining")):
        spec = rendered.one("training-job+cron-retraining", kind, name)["spec"]
        line = spec.get("jobTemplate", spec)["entrypoint"]
        if submitter == "KubeRay's shell":
            words = subprocess.run(
                ["bash", "-c", f"printf '%s\\0' {line} ;"],
                env={"PATH": path},
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split("\0")[:-1]
            line = shlex.join(words)
        told_to_head = {"PATH": path, "AIGC_RUNS": "s3://b/runs", "AIGC_STORE": "s3://b/store"}
        subprocess.run(line, shell=True, check=True, env=told_to_head)
    week = datetime.now().strftime("%G-w%V")
    flags = "--address auto --workers 2..4 --threads 3 --storage s3://b/runs"
    assert ran.read_text().splitlines() == [
        f"train dcgan:digits {flags} --name digits --resume",
        "export s3://b/runs/digits --name digits --licence Apache-2.0 --out s3://b/store",
        f"train dcgan:digits {flags} --name digits-{week} --resume",
        f"export s3://b/runs/digits-{week} --name digits --licence Apache-2.0 --out s3://b/store",
    ]


@pytest.mark.parametrize("name", TRAINING)
def test_entrypoint_flags_exist(name: str, rendered: Rendered) -> None:
    pytest.importorskip("torch")
    import tyro

    from aigc import models
    from aigc.commands import export
    from cluster.train import Options

    (job,) = (o["spec"] for o in rendered.objects(name) if o["kind"] == "RayJob")
    line = shlex.split(job["entrypoint"])[2]
    train, sealed = (shlex.split(command) for command in line.split("&&"))
    default = Options(config=models.preset(train[2]))
    options = tyro.cli(Options, default=default, args=train[3:])
    assert options.world == (2, 4)
    assert tyro.cli(export.Options, args=sealed[2:]).name == options.name


@pytest.mark.parametrize("name", TRAINING)
def test_checkpoint_interval_fits_the_spot_notice(name: str, rendered: Rendered) -> None:
    objects = rendered.objects(name)
    variables = environment(objects, "training-environment")
    drain_s = seconds(variables, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
    grace_s = {
        template["spec"]["terminationGracePeriodSeconds"]
        for where, template in pods(objects)
        if where in ("RayJob worker", "RayCronJob worker")
    }
    assert all(drain_s < grace for grace in grace_s)
    if name == "overlays/spot":
        assert max(grace_s) < 30
    assert seconds(variables, "RAY_JOB_STOP_WAIT_TIME_S") > 3


def test_gpu_and_spot_nodes_are_for_training_workers_only(rendered: Rendered) -> None:
    for name in ("overlays/gpu", "overlays/spot"):
        for where, template in pods(rendered.objects(name)):
            (limits, requests) = (
                {c["name"]: c["resources"].get(kind, {}) for c in containers(template)}
                for kind in ("limits", "requests")
            )
            gpus = [c for c in limits if "nvidia.com/gpu" in limits[c]]
            assert gpus == (["ray-worker"] if where == "RayJob worker" else [])
            assert [limits[c]["nvidia.com/gpu"] for c in gpus] == [
                requests[c]["nvidia.com/gpu"] for c in gpus
            ]
            tolerated = {t["key"] for t in template["spec"].get("tolerations", ())}
            assert ("nvidia.com/gpu" in tolerated) == bool(gpus)
            assert any("spot" in key or "scaleset" in key for key in tolerated) == (
                bool(gpus) and name == "overlays/spot"
            )


def test_gpu_sampling_gives_every_replica_a_gpu(rendered: Rendered) -> None:
    objects = rendered.objects("gpu-sampling")
    for where, template in pods(objects):
        limits = {c["name"]: c["resources"].get("limits", {}) for c in containers(template)}
        gpus = [name for name in limits if "nvidia.com/gpu" in limits[name]]
        assert gpus == (["ray-worker"] if where == "RayService worker" else [])
        tolerated = {t["key"] for t in template["spec"].get("tolerations", ())}
        assert ("nvidia.com/gpu" in tolerated) == bool(gpus)
    service = rendered.one("gpu-sampling", "RayService", "sampling")["spec"]
    serve, base = (
        yaml.safe_load(spec["serveConfigV2"])
        for spec in (service, rendered.one("base", "RayService", "sampling")["spec"])
    )
    own = serve["applications"][0]["args"]
    assert (own["provider"], own["gpus"]) == ("cuda", 1)
    (group,) = service["rayClusterConfig"]["workerGroupSpecs"]
    assert own["replicas"] == [group["minReplicas"], group["maxReplicas"]]
    changed = ("replicas", "provider", "gpus", "memory")
    for config in (serve, base):
        for name in changed:
            config["applications"][0]["args"].pop(name, None)
    assert serve == base
