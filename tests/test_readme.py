"""The README tells the truth: its code runs, its tree is there, its table is complete."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aigc import models
from aigc.artifact.sound import read_sound
from tests.demo import road

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def environment() -> dict[str, str]:
    """Commands find the `aigc` of this environment."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.cluster
def test_the_road_runs_as_shown_and_leaves_no_process(tmp_path: Path) -> None:
    """The demo itself, with a run of 1,280 samples in place of the whole one."""
    environ = environment() | {"AIGC_DEMO_SAMPLES": "1280", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.demo"]
    for _ in range(2):  # the second time finds the first one's run and artifact
        demo = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        stdout, stderr = demo.communicate(timeout=240)
        assert demo.returncode == 0, stdout + stderr
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


@pytest.mark.cluster
@pytest.mark.slow  # what it shows over Ray is in tests/serve/test_server.py, too
@pytest.mark.timeout(900)
def test_the_road_of_the_other_modalities_runs_as_shown(tmp_path: Path) -> None:
    """Text, sound and one from another, each trained for a moment, in one server."""
    for needed in ("espeakng_loader", "names"):
        pytest.importorskip(needed)
    environ = environment() | {"AIGC_DEMO_SAMPLES": "640", "PYTHONPATH": str(ROOT)}
    demo = subprocess.run(
        [sys.executable, "-m", "tests.demo_modalities"],
        cwd=tmp_path,
        env=environ,
        text=True,
        capture_output=True,
        timeout=850,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    samples = tmp_path / "samples"
    events = (samples / "nine.sse").read_text().strip().split("\n\n")
    texts = [json.loads(event[6:])["choices"][0]["text"] for event in events[:-1]]
    assert events[-1] == "data: [DONE]"
    assert len(texts) > 1
    assert read_sound((samples / "seven-three.wav").read_bytes()).samples.size == 2 * 4096
    spoken = read_sound((samples / "seven-spoken.wav").read_bytes())
    assert spoken.provenance is not None
    assert [one.split(":")[0] for one in spoken.provenance.given] == ["image"]
    assert len((samples / "numbers-1-seed0-0..19.txt").read_text().splitlines()) == 20
    assert len([*samples.glob("digits3-1-seed0-*.png")]) == 21
    assert left_over(tmp_path) == []


@pytest.mark.cluster
def test_ctrl_c_in_the_demo_leaves_no_process(tmp_path: Path) -> None:
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
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_every_model_and_preset_is_in_the_table() -> None:
    for name in models.names():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}`"))
        for preset in models.load(name).PRESETS:
            assert f"`{preset}`" in row


def test_the_tree_names_every_module_and_nothing_else() -> None:
    (tree,) = (b for b in blocks("text") if "artifact/" in b)
    named = set(re.findall(r"[\w/]+\.(?:py|html)", tree))
    there = {
        path.name
        for package in ("aigc", "cluster", "serve", "k8s")
        for path in (ROOT / package).rglob("*.*")
        if path.suffix in (".py", ".html") and path.name != "__init__.py"
    }
    assert named == there


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
