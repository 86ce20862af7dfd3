"""`aigc k8s init`, from a wheel: an overlay that the project's own check finds nothing in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from k8s.init import Init, write
from tests.k8s.rendered import kustomize

FLAGS = [
    *("--registry", "ghcr.io/acme", "--pull-secret", "regcred", "--namespace", "gen"),
    *("--bucket", "s3://acme/aigc", "--region", "eu-west-1", "--name", "faces"),
    *("--model", "dcgan:hinge", "--data", "s3://acme/pictures"),
]


@pytest.mark.process
@pytest.mark.parametrize("flags", [[], FLAGS], ids=["plain", "all"])
def test_overlay_of_a_wheel_passes_the_check(
    flags: list[str], installed: Path, tmp_path: Path
) -> None:
    if shutil.which("kubectl") is None and shutil.which("kustomize") is None:
        pytest.skip("neither kubectl nor kustomize is on this machine")
    for arguments in (["init", "mine", *flags], ["check", "mine"]):
        run = subprocess.run(
            [sys.executable, "-P", "-m", "aigc.cli", "k8s", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stdout + run.stderr
    assert "0 findings" in run.stderr


def test_overlay_says_what_the_flags_say(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    init = Init(
        folder=str(folder),
        registry="ghcr.io/acme",
        pull_secret="regcred",
        namespace="gen",
        bucket="s3://acme/aigc",
        region="eu-west-1",
        model="dcgan:hinge",
        data="s3://acme/pictures",
        name="faces",
        licence="MIT",
    )
    assert write(init) == [folder / "kustomization.yaml", folder / "keys.toml"]
    objects = list(yaml.safe_load_all(kustomize(folder)))
    by_kind = {one["kind"]: one for one in objects}
    assert {one["metadata"].get("namespace", "gen") for one in objects} == {"gen"}
    assert by_kind["RayJob"]["spec"]["entrypoint"].split() == [
        *("bash", "-c", '"aigc', "train", "dcgan:hinge", "--data.path", "s3://acme/pictures"),
        *("--address", "auto", "--workers", "2..4", "--threads", "3", "--storage", "\\$AIGC_RUNS"),
        *("--name", "faces", "--resume", "&&", "aigc", "export", "\\$AIGC_RUNS/faces"),
        *("--name", "faces", "--licence", "MIT", "--out", '\\$AIGC_STORE"'),
    ]
    served = yaml.safe_load(by_kind["RayService"]["spec"]["serveConfigV2"])
    (deployment,) = served["applications"][0]["deployments"]
    assert deployment["user_config"] == {"artifacts": ["$AIGC_STORE/faces/1"]}
    (bucket,) = (
        one["data"]
        for one in objects
        if one["metadata"]["name"].startswith("s3-") and one["kind"] == "ConfigMap"
    )
    assert bucket["AIGC_STORE"] == "s3://acme/aigc/artifacts"
    assert bucket["AWS_DEFAULT_REGION"] == "eu-west-1"
    images = set(re.findall(r"image: (\S+)", kustomize(folder)))
    assert {image.partition(":")[0] for image in images} == {
        *("ghcr.io/acme/aigc-serve", "ghcr.io/acme/aigc-train", "redis")
    }
    accounts = [one for one in objects if one["kind"] == "ServiceAccount"]
    assert all(one["imagePullSecrets"] == [{"name": "regcred"}] for one in accounts)
    password = (folder / "redis-password.env").read_text()
    assert re.fullmatch(r"password=[0-9a-f]{64}\n", password)
    assert (folder / "redis-password.env").stat().st_mode & 0o777 == 0o600
    assert "redis-password.env" in (folder / ".gitignore").read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; give a folder that does not exist yet"):
        write(Init(folder=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("registry", "ghcr.io/acme/$(id)"),
        ("pull_secret", "a b"),
        ("namespace", "Gen"),
        ("bucket", "acme"),
        ("model", 'x"; rm -rf /'),
        ("model", ""),
        ("data", "pictures"),
        ("name", "Two Words"),
        ("region", "eu-central-1"),
    ],
)
def test_value_that_would_not_work_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field):
        Init(folder="x", **{field: value})  # type: ignore[arg-type]
