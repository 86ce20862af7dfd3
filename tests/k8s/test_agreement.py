"""Values that must agree do: within the manifests, with the code, the image and the pins."""

import os
import re
import subprocess
import sys
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from aigc.artifact import Store
from aigc.prometheus.exporter import ExporterConfig
from serve.access import api_keys
from serve.hosting.desired_models import parse_desired, resolve_store
from serve.local import haproxy
from serve.settings import parse
from tests.k8s.rendered import (
    K8S,
    ROOT,
    Rendered,
    clusters,
    combinations,
    containers,
    environment,
    has_s3,
    pods,
    seconds,
    service,
    told,
)

with warnings.catch_warnings():
    # Ray 2.60 declares its schemas with arguments that pydantic has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve.app import application, build

DOCKERFILE = (K8S / "images" / "Dockerfile").read_text()


@pytest.mark.parametrize("name", combinations())
def test_ray_version_agrees_in_manifests_images_and_pins(name: str, rendered: Rendered) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (ray,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    objects = rendered.objects(name)
    assert {cluster["rayVersion"] for _, cluster in clusters(objects)} == {ray}
    images = {one["image"] for _, template in pods(objects) for one in containers(template)}
    tag = f"{project}-ray{ray}"
    ours = {f"{name}:{tag}" for name in ("aigc-serve", "aigc-serve-gpu", "aigc-train")}
    assert images <= {*ours, "redis:7.4.6"}
    assert f"aigc-serve:{tag} " in DOCKERFILE
    assert f"aigc-train:{tag} " in DOCKERFILE
    for image in ("serve", "train"):
        locked = (ROOT / "requirements" / f"{image}.txt").read_text()
        assert re.findall(r"^ray==(\S+)", locked, re.MULTILINE) == [ray]


def test_pods_have_the_environment_of_aigc_serve(
    rendered: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigc import watchdog
    from serve.local import ray_machine

    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    run = ray_machine.new_run()
    try:
        ray_machine.set_environment(run, most_replicas=8)
        alone = {k: v for k, v in os.environ.items() if k.startswith("RAY_")}
    finally:
        others = psutil.Process().children(recursive=True)
        watchdog.end_run(run.folder, spare=[process.pid for process in others])
    pods_have = environment(rendered.objects("base"), "sampling-environment")
    of_the_machine = {
        # Ports and paths, so that several runs stand side by side; in a pod Ray's own are free.
        *(n for n in alone if n.endswith(("_PORT", "_PATH", "_LOC", "_STATE_BASE", "_STATE_FILE"))),
        # Loopback is enough for one machine; KubeRay makes the token.
        *("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"),
        # Proxies of other nodes hear later that a replica goes.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
        "RAY_SERVE_HAPROXY_NBTHREAD",
    }
    told = {k: v for k, v in alone.items() if k not in of_the_machine}
    assert len(told) >= 8
    assert {k: pods_have.get(k) for k in told} == told


def test_image_has_the_haproxy_named_to_pods(rendered: Rendered) -> None:
    pods_have = environment(rendered.objects("base"), "sampling-environment")
    path = pods_have["RAY_SERVE_HAPROXY_BINARY_PATH"]
    assert f"python -m serve.local.haproxy {path}\n" in DOCKERFILE
    assert int(pods_have["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"]) == haproxy.CLIENT_S


@pytest.mark.parametrize("name", combinations())
def test_head_and_workers_have_equal_environments(name: str, rendered: Rendered) -> None:
    for kind, cluster in clusters(rendered.objects(name)):
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
        workers = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
        common = [e for e in workers["envFrom"] if e["configMapRef"]["name"][:3] != "s3-"]
        assert [e for e in head["envFrom"] if e["configMapRef"]["name"][:3] != "s3-"] == common, (
            kind
        )


@pytest.mark.parametrize("name", combinations())
def test_serve_config_is_accepted_by_the_application(
    name: str, rendered: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered.objects(name)
    spec = service(objects)
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    worker = group["template"]["spec"]["containers"][0]
    config = yaml.safe_load(spec["serveConfigV2"])
    (app,) = config["applications"]
    settings = parse(app["args"])
    monkeypatch.setenv("AIGC_STORE", told(objects, worker)["AIGC_STORE"])
    target = resolve_store(parse_desired(app["deployments"][0]["user_config"]))
    ours = application(replace(settings, artifacts=target.artifacts))
    assert {k: app[k] for k in ("name", "route_prefix", "import_path")} == {
        k: ours[k] for k in ("name", "route_prefix", "import_path")
    }
    assert [d["name"] for d in app["deployments"]] == [*settings.pools_by_name]
    assert all(re.search(r"/\d+$", uri) for uri in target.artifacts)
    deployment = build(app["args"])._bound_deployment
    assert deployment.name == "default"
    scaling = deployment._deployment_config.autoscaling_config
    cpus = int(group["rayStartParams"]["num-cpus"])
    assert (scaling.min_replicas, scaling.max_replicas) == settings.replicas
    assert settings.replicas[0] >= group["minReplicas"] >= 2
    each = int(cpus // settings.num_cpus)  # replicas of a worker
    if settings.num_gpus:
        each = min(each, int(worker["resources"]["limits"]["nvidia.com/gpu"]))
    assert settings.replicas[1] == group["maxReplicas"] * each
    room = size(worker["resources"]["limits"]["memory"])
    shm = size("256Mi")
    assert each * settings.memory_of("default") + shm < 0.6 * room
    mounted = [mount["mountPath"] for mount in worker["volumeMounts"]]
    assert str(Path(settings.keys).parent) in mounted
    assert settings.metrics_dir in mounted
    store = target.artifacts[0].removesuffix("/digits/1")
    assert store == "s3://aigc/artifacts" if has_s3(name) else store in mounted


def size(quantity: str) -> int:
    """Bytes of "4Gi"."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def test_there_is_one_serve_config(rendered: Rendered) -> None:
    on_gpus = {"gpu-sampling" in name: set() for name in combinations()}
    for name in combinations():
        on_gpus["gpu-sampling" in name].add(service(rendered.objects(name))["serveConfigV2"])
    assert {gpus: len(configs) for gpus, configs in on_gpus.items()} == {False: 1, True: 1}


@pytest.mark.parametrize("name", combinations())
def test_replicas_end_before_pods_and_pods_before_clusters(name: str, rendered: Rendered) -> None:
    objects = rendered.objects(name)
    spec = service(objects)
    variables = environment(objects, "sampling-environment")
    drain_s = seconds(variables, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
    proxy_s = seconds(variables, "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S")
    quiet_s = seconds(variables, "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S")
    config = yaml.safe_load(spec["serveConfigV2"])
    deployment = build(config["applications"][0]["args"])._bound_deployment
    replica_s = deployment._deployment_config.graceful_shutdown_timeout_s
    worker = spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    sleep, wait_s = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert quiet_s + 5 <= replica_s
    assert replica_s + proxy_s < drain_s
    assert int(wait_s) + drain_s < worker["terminationGracePeriodSeconds"]
    assert worker["terminationGracePeriodSeconds"] < spec["rayClusterDeletionDelaySeconds"]
    assert config["http_options"]["keep_alive_timeout_s"] > 600


@pytest.mark.process
@pytest.mark.parametrize("name", ["base", "s3"])
def test_init_container_waits_for_the_first_artifact(
    name: str, rendered: Rendered, bucket: str, sealed: Path, tmp_path: Path
) -> None:
    """Serve gives up on a replica that finds none."""
    objects = rendered.objects(name)
    (group,) = service(objects)["rayClusterConfig"]["workerGroupSpecs"]
    by_name = {one["name"]: one for one in containers(group["template"])}
    waits, serves = by_name["wait-for-artifact"], by_name["ray-worker"]
    assert told(objects, waits) == told(objects, serves)
    assert [mount for mount in waits["volumeMounts"] if mount not in serves["volumeMounts"]] == []
    store = bucket if name == "s3" else str(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        waits["command"], env=os.environ | {"AIGC_STORE": store, "PATH": path}
    )
    with process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        Store(store).publish(sealed)
        assert process.wait(30) == 0


@pytest.mark.parametrize("name", ["base", "training-job"])
def test_resources_suit_pods_of_operators(name: str, rendered: Rendered) -> None:
    """Kubernetes evicts nothing, or anything, where it cannot ask a controller for its scale."""
    budgets = [o["spec"] for o in rendered.objects(name) if o["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 2 + (name == "training-job")
    for budget in budgets:
        assert isinstance(budget["minAvailable"], int)
        assert "maxUnavailable" not in budget


@pytest.mark.parametrize("name", combinations())
def test_memory_volumes_hold_the_object_store(name: str, rendered: Rendered) -> None:
    for _, cluster in clusters(rendered.objects(name)):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            (shm,) = (v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")
            store = int(group["rayStartParams"]["object-store-memory"])
            assert store < size(shm["emptyDir"]["sizeLimit"])


@pytest.mark.parametrize("name", combinations())
def test_exporter_listens_on_its_declared_port(name: str, rendered: Rendered) -> None:
    exporters = [
        one
        for _, template in pods(rendered.objects(name))
        for one in containers(template)
        if one["name"] == "metrics"
    ]
    assert exporters
    for one in exporters:
        port = str(ExporterConfig().port)
        assert one["ports"] == [{"name": "aigc-metrics", "containerPort": int(port)}]
        assert one["command"][:2] == ["aigc", "metrics"]
        assert one["command"][-2:] == ["--port", port]


def test_network_policy_opens_every_metrics_port_to_prometheus_only(rendered: Rendered) -> None:
    objects = rendered.objects("training-job")
    policy = rendered.one("training-job", "NetworkPolicy", "prometheus-to-metrics")["spec"]
    let_in = {port["port"] for port in policy["ingress"][0]["ports"]}
    declared: dict[str, int] = {
        port["name"]: port["containerPort"]
        for _, template in pods(objects)
        for one in containers(template)
        for port in one.get("ports", ())
    }
    assert let_in == {port for name, port in declared.items() if name.endswith("metrics")}
    assert declared == {
        "gcs-server": 6379,
        "dashboard": 8265,
        "client": 10001,
        "serve": 8000,
        "metrics": 8080,
        "as-metrics": 44217,
        "dash-metrics": 44227,
        "aigc-metrics": 9464,
        "redis": 6379,
    }


def test_ingress_limits_match_the_server(rendered: Rendered) -> None:
    ingress = rendered.one("base", "Ingress", "sampling")
    notes: dict[str, Any] = ingress["metadata"]["annotations"]
    limits = parse({}).limits
    largest = limits.max_tensor_bytes + limits.max_body_bytes
    assert notes["nginx.ingress.kubernetes.io/proxy-body-size"] == f"{largest >> 20}m"
    assert int(notes["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > haproxy.CLIENT_S


def test_requests_need_a_key_by_default() -> None:
    text = (K8S / "base" / "keys.toml").read_text()
    (only,) = api_keys.parse(text, "keys.toml").all
    assert only.name == "nobody"
    assert only.scopes == {"sample"}
    password = (K8S / "base" / "redis-password.env").read_text()
    assert re.findall(r"^password=(.*)$", password, re.MULTILINE) == [""]
    assert (K8S / "components" / "s3" / "credentials").read_bytes() == b""
