"""README.md is true: its code runs, its folders are there, its table of models is complete."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from aigc import models
from aigc.artifact import Store
from aigc.artifact.audio_files import read_sound
from aigc.artifact.image_files import read_png
from aigc.config import DataConfig
from aigc.data.sources import digits as digits_data
from serve.settings import Settings
from tests import documented
from tests.demo import road
from tests.serve.artifacts import publish
from tests.serve.listening import listening

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def environment() -> dict[str, str]:
    """Commands find the `aigc` of this environment."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.cluster
def test_demo_runs_as_shown_and_leaves_no_process(tmp_path: Path) -> None:
    """`make demo` with a run of 1,280 samples in place of the whole one, beside an older artifact.

    A run that is there already: test_finished_run_is_resumed_without_ray in cluster/test_driver.py.
    """
    publish(Store(tmp_path / "artifacts"), tmp_path / "build", "digits", 0)
    environ = environment() | {"AIGC_DEMO_SAMPLES": "1280", "PYTHONPATH": str(ROOT)}
    demo = subprocess.run(
        [sys.executable, "-m", "tests.demo"],
        cwd=tmp_path,
        env=environ,
        text=True,
        capture_output=True,
        timeout=240,
    )
    stdout = demo.stdout
    assert demo.returncode == 0, stdout + demo.stderr
    for command_line in road():
        assert command_line.split()[1] in stdout
    assert "latency" in stdout
    assert "accuracy/cnn64" in stdout
    assert "aigc_samples_total{" in stdout
    assert (tmp_path / "samples" / "three.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "artifacts" / "digits" / "2" / "manifest.json").exists()
    assert left_over(tmp_path) == []
    for block in blocks("python"):
        subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, check=True, env=environ, timeout=120
        )


def assert_documented_examples_run(url: str, folder: Path) -> None:
    """Run the examples of README.md and docs/ against a server of digits."""
    programs, commands = documented.python_examples(url), documented.curl_examples(url)
    assert {"serving.md, block 0", "inference-protocol.md, block 0"} <= programs.keys()
    assert commands
    for where, program in programs.items():
        ran = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, f"{where}: {ran.stderr}"
    for where, command in commands.items():
        ran = subprocess.run(
            ["/bin/bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, f"{where}: {command}: {ran.stderr}"
    for prompt in ("seven", "7", "a seven", "Seven", "label: 7"):
        body = {"model": "digits", "prompt": prompt, "seed": 7}
        answer = httpx.post(f"{url}/v1/images/generations", json=body, timeout=30)
        assert answer.json()["aigc"]["labels"] == [7], prompt


@pytest.mark.process
def test_documented_examples_run_with_the_class_names_of_the_data(tmp_path: Path) -> None:
    """A tiny artifact with the classes of `make demo`'s data: nothing is trained."""
    for folder in ("samples", "metrics"):
        (tmp_path / folder).mkdir()
    classes = digits_data.load(DataConfig(source="digits"), (1, 8, 8), "test").classes
    store = Store(tmp_path / "artifacts")
    digits = publish(store, tmp_path / "build", "digits", 0, classes)
    with listening(Settings(metrics_dir=str(tmp_path / "metrics")), digits) as served:
        assert_documented_examples_run(served.url, tmp_path)


def samples_of(demo: str, folder: Path) -> Path:
    """Folder of the samples that a demo with runs of 640 samples leaves in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-m", demo],
        cwd=folder,
        env=environment() | {"AIGC_DEMO_SAMPLES": "640", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=850,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "samples"


@pytest.mark.cluster
@pytest.mark.slow  # tests/serve/pair/test_requests.py proves the serving part over Ray, too
@pytest.mark.timeout(900)
def test_demo_of_other_modalities_runs_as_shown(tmp_path: Path) -> None:
    """`make demo-modalities` with runs of 640 samples."""
    for package in ("espeakng_loader", "names"):
        pytest.importorskip(package)
    samples = samples_of("tests.demo_modalities", tmp_path)
    events = (samples / "nine.sse").read_text().strip().split("\n\n")
    texts = [json.loads(event[6:])["choices"][0]["text"] for event in events[:-1]]
    assert events[-1] == "data: [DONE]"
    assert len(texts) > 1
    assert read_sound((samples / "seven-three.wav").read_bytes()).samples.size == 2 * 4096
    spoken = read_sound((samples / "seven-spoken.wav").read_bytes())
    assert spoken.provenance is not None
    assert [given.split(":")[0] for given in spoken.provenance.given] == ["image"]
    assert len((samples / "numbers-1-seed0-0..19.txt").read_text().splitlines()) == 20
    assert len([*samples.glob("digits3-1-seed0-*.png")]) == 21
    assert left_over(tmp_path) == []


@pytest.mark.cluster
@pytest.mark.slow  # tests/models and tests/serve prove the parts of it
@pytest.mark.timeout(900)
def test_demo_of_images_runs_as_shown(tmp_path: Path) -> None:
    """`make demo-images` with runs of 640 samples."""
    samples = samples_of("tests.demo_images", tmp_path)
    photograph, _ = read_png((samples / "photograph.png").read_bytes())
    assert photograph.shape == (384, 512, 3)
    again = samples / "reconstructed" / "autoencoder-1-seed0-0.png"
    assert read_png(again.read_bytes())[0].shape == photograph.shape
    larger = samples / "upscaled" / "upscaler-1-seed0-0.png"
    assert read_png(larger.read_bytes())[0].shape == (768, 1024, 3)
    filled, _ = read_png((samples / "filled.png").read_bytes())
    assert filled.shape == photograph.shape
    assert (filled == photograph).all(2).mean() > 0.5  # outside the mask
    assert len([*samples.glob("people-1-seed0-*.png")]) == 41
    assert left_over(tmp_path) == []


@pytest.mark.cluster
def test_ctrl_c_in_demo_leaves_no_process(tmp_path: Path) -> None:
    environ = environment() | {"PYTHONPATH": str(ROOT)}
    demo = subprocess.Popen(
        [sys.executable, "-m", "tests.demo"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(left_over(tmp_path)) < 6:  # Ray is up
        time.sleep(0.2)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=90) == 130
    assert left_over(tmp_path) == []


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that work in a folder."""
    commands = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                commands.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return commands


def test_table_has_every_model_and_preset() -> None:
    for name in models.names():
        rows = [line for line in README.splitlines() if line.startswith(f"| `{name}`")]
        assert len(rows) == 1, f"the README's table of models needs a row for {name}"
        for preset in models.load(name).PRESETS:
            assert f"`{preset}`" in rows[0], f"the row of {name} lacks {preset}"


def test_tree_names_the_folders_that_exist() -> None:
    (tree,) = (b for b in blocks("text") if "artifact/" in b)
    parent, named = "", set()
    for indent, name in re.findall(r"^( *)(\w+)/", tree, re.MULTILINE):
        parent = parent if indent else name
        named.add(f"{parent}/{name}" if indent else name)
    assert {folder for folder in named if not (ROOT / folder).is_dir()} == set()
    packages = {
        str(path.parent.relative_to(ROOT))
        for package in ("aigc", "cluster", "serve", "k8s")
        for path in ROOT.glob(f"{package}/*/__init__.py")
    }
    assert {
        name for name in packages if name != "serve/dialects" and not name.startswith("k8s/")
    } <= named
