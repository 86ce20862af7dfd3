"""docs/operations.md is true: its overlay renders, what its commands name is there."""

import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.k8s.rendered import K8S, ROOT, Rendered, find, kustomize

GUIDE = (ROOT / "docs" / "operations.md").read_text()


def test_documented_overlay_renders(tmp_path: Path) -> None:
    (overlay,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert "../aigc/k8s/overlays/gpu" in overlay
    text = overlay.replace("../aigc/k8s", os.path.relpath(K8S, tmp_path))
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "keys.toml").write_text("[[key]]\n")
    (tmp_path / "redis-password.env").write_text("password=yours\n")
    (tmp_path / "credentials").write_text("[default]\n")
    rendered = kustomize(tmp_path)
    objects = [*yaml.safe_load_all(rendered)]
    assert "s3://aigc" not in rendered
    assert not re.search(r"image: aigc-", rendered)
    assert "example.com/aigc-train:0.1.0-ray2.60.0" in rendered
    ingress = find(objects, "Ingress", "sampling")["spec"]
    assert ingress["rules"][0]["host"] in ingress["tls"][0]["hosts"]
    (s3,) = (
        o["data"]
        for o in objects
        if o["metadata"]["name"].startswith("s3-") and "data" in o and o["kind"] == "ConfigMap"
    )
    assert s3["AWS_RETRY_MODE"] == "standard"


def test_documented_overlay_of_ones_own_model_mounts_its_files(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-models.md").read_text()
    (overlay,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    base = os.path.relpath(K8S / "overlays" / "kind", tmp_path)
    text = f"resources: [{base}]\nnamespace: aigc\n{overlay}"
    (tmp_path / "kustomization.yaml").write_text(text)
    for name in ("resgan.py", "shapes.py"):
        (tmp_path / name).write_text("pass\n")
    objects = [*yaml.safe_load_all(kustomize(tmp_path))]
    (code,) = (o for o in objects if o["metadata"]["name"].startswith("own-code-"))
    assert code["data"].keys() == {"resgan.py", "shapes.py"}
    job = find(objects, "RayJob", "training")["spec"]
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (v for v in pod["volumes"] if v["name"] == "own-code")
    assert volume["configMap"]["name"] == code["metadata"]["name"]
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "own-code")
    bash, c, line = shlex.split(job["entrypoint"])
    assert (bash, c) == ("bash", "-c")
    assert shlex.split(line)[:3] == ["aigc", "train", f"{mount['mountPath']}/resgan.py:small"]
    assert "$AIGC_RUNS/resgan" in line


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("RayJob", "training", "delete rayjob training"),
        ("StatefulSet", "redis", "delete pod redis-0"),
        ("RayService", "sampling", "port-forward service/sampling"),
        ("Namespace", "aigc", "kubectl -n aigc "),
    ],
)
def test_documented_commands_name_existing_objects(
    kind: str, name: str, command: str, rendered: Rendered
) -> None:
    assert command in GUIDE
    assert find(rendered.objects("overlays/kind"), kind, name)


def test_documented_files_exist() -> None:
    for path in re.findall(r"`((?:k8s|tests|docs)/[\w./-]+)`", GUIDE):
        assert (ROOT / path).exists(), path
