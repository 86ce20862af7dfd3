"""requirements/: all that is installed has a hash and the version of constraints.txt, no gaps."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packages import TRAINING_ONLY, closure

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
FILES = sorted(file.stem for file in FOLDER.glob("*.txt"))
SETS = {
    "dev": (("train", "serve", "s3", "hf", "tracing", "dev"), ("dev", "torch", "cuda")),
    "serve": (("serve", "s3", "tracing"), ("serve",)),
    "train": (("train", "s3", "hf"), ("train", "torch", "cuda")),
}
"""(extras, files) that are installed together."""


def read(*files: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """Requirement and hashes by name."""
    found = {}
    for file in files:
        for part in re.split(r"^(?=[\w])", file.read_text(), flags=re.MULTILINE):
            if not part.startswith("#"):
                requirement = Requirement(re.split(r"\s*\\\n", part)[0])
                hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", part)
                found[canonicalize_name(requirement.name)] = requirement, hashes
    return found


def files(*names: str) -> list[Path]:
    return [FOLDER / f"{name}.txt" for name in names]


@pytest.mark.parametrize("file", [*files(*FILES), ROOT / "tests" / "k8s" / "checkov.txt"], ids=str)
def test_every_requirement_is_pinned_with_hashes(file: Path) -> None:
    found = read(file)
    assert found
    for requirement, hashes in found.values():
        assert re.fullmatch(r"==[\w.+]+", str(requirement.specifier)), requirement
        assert hashes, requirement


@pytest.mark.parametrize("name", SETS)
def test_every_requirements_file_is_complete(name: str) -> None:
    extras, together = SETS[name]
    there = read(*files("build", *together))
    assert closure(*extras) - set(there) == set()
    assert (TRAINING_ONLY & set(there) == set()) == (name == "serve")


def test_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    for name, (requirement, _) in read(*files(*(f for f in FILES if f != "lock"))).items():
        if name != "onnxruntime-gpu":  # in place of onnxruntime, in one image
            assert str(requirement.specifier).removesuffix("+cpu") == f"=={pins[name]}"


def test_onnxruntime_gpu_is_for_linux_on_x86_64_with_a_version_of_its_own() -> None:
    (file,) = files("onnxruntime-gpu")
    found = read(file)
    assert {"onnxruntime-gpu", "nvidia-cublas", "nvidia-cudnn-cu13"} <= found.keys()
    assert "onnxruntime" not in found  # the same package, of which the image has one
    here = {"sys_platform": "linux", "platform_machine": "x86_64"}
    for requirement, _ in found.values():
        assert requirement.marker is not None
        assert requirement.marker.evaluate(here)
        for other in ({"platform_machine": "aarch64"}, {"sys_platform": "win32"}):
            assert not requirement.marker.evaluate(here | other)
    assert "UPGRADE=onnxruntime-gpu" in file.read_text()


def test_training_image_has_ray_dashboard() -> None:
    assert {"opencensus", "aiohttp-cors", "prometheus-client"} <= set(read(*files("train")))


def test_every_pip_install_requires_hashes_or_brings_nothing() -> None:
    makefile = (ROOT / "Makefile").read_text()
    makefile = makefile.replace("$(HASHED)", re.findall(r"HASHED := (.*)", makefile)[0])
    makefile = makefile.replace("\t$(PIP)", "\t pip install")
    dockerfile = (ROOT / "k8s" / "images" / "Dockerfile").read_text()
    installed = re.findall(
        r"^\s.*\bpip install (.*)|^RUN pip install (.*)", makefile + dockerfile, re.M
    )
    lines = ["".join(each) for each in installed]
    assert len(lines) >= 8
    for line in lines:
        own = "--no-deps" in line and line.endswith(" .")
        tried = "==$(VERSION)" in line  # another Ray, into an environment that is thrown away
        assert own or tried or ("--require-hashes" in line and "-r " in line), line
