"""Files of docs/own-models.md and a foreign graph, from an installed wheel to samples over HTTP;
sums of a batch."""

import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from aigc import data, models
from aigc.artifact.image_files import png, read_png, to_uint8
from aigc.testing import check_model
from aigc.testing.model_contract import CONTRACT
from aigc.training import checkpoint
from aigc.training.loop import NonFiniteLoss, TrainState, train
from aigc.training.run import Run
from tests.ports import free_port
from tests.sealing.upscalers import upscaler
from tests.training.small_runs import worst

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "own-models.md").read_text()
FILES = dict(re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
"""The files that the page shows, by name."""


def shown(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def road() -> list[str]:
    """The commands of the page that use its files, from training to samples."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    (block,) = [block for block in blocks if "aigc serve" in block]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def test_the_gan_of_the_page_has_sixty_lines() -> None:
    assert "in 60 lines" in PAGE
    assert len(FILES["resgan.py"].splitlines()) == 60


@dataclass
class Installed:
    """The project's wheel in a folder of its own, and a folder of a user's beside it."""

    site: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(self.site),
            "XDG_CACHE_HOME": f"{self.folder}/cache",
        }

    def start(self, command: str) -> "subprocess.Popen[str]":
        program, *rest = shlex.split(command)
        program = str(self.site / "bin" / program) if program == "aigc" else program
        return subprocess.Popen(
            [program, *rest],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str) -> str:
        """The last line of stdout."""
        with self.start(command) as process:
            try:
                out, err = process.communicate(timeout=240)
            except BaseException:
                process.kill()
                raise
        assert process.returncode == 0, f"{command}: {err}"
        return (out.splitlines() or [""])[-1]

    @contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """URL of what `aigc serve` of a page serves, on a free port."""
        command = command.replace("8000", str(free_port())).removesuffix("&")
        server = self.start(f"{command} --metrics-port 0")
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert url, server.communicate()[1]
            yield url
        finally:
            server.terminate()
            server.communicate(timeout=60)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    source, site = folder / "source", folder / "site"
    without = shutil.ignore_patterns("__pycache__")
    for name in ("aigc", "cluster", "serve", "k8s"):
        shutil.copytree(ROOT / name, source / name, ignore=without)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    (folder / "own").mkdir()
    return Installed(site, shown(folder / "own"))


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[str]:
    """URL of a server of the page's models, by the page's commands, and of a foreign upscaler.

    Nothing but the store is left of what they were made from.
    """
    asked = installed.run(f"{sys.executable} -c 'import aigc; print(aigc.__file__)'")
    assert asked == str(installed.site / "aigc" / "__init__.py")
    upscaler(installed.folder / "up.onnx", layers=2)
    shutil.copy(installed.folder / "up.onnx", installed.site.parent)
    for command in (
        "aigc import up.onnx --name up --range 0..1 --tile --axis height=4..16:2 width=4..14",
        "aigc verify artifacts/up",
    ):
        assert Path(installed.run(command)) == Path("artifacts/up/1")
    commands = [line.replace("--samples 1280", "--samples 192") for line in road()]
    trains, exports, serve = commands[:2], commands[2:4], commands[4]
    assert all("--workers 2" in command for command in trains)
    for command in trains:
        installed.run(f"{command} --precision float64 --threads 1")
    alone = trains[1].replace("--workers 2", "--workers 0").replace("--name codebook", "--name one")
    installed.run(f"{alone} --precision float64 --threads 1")
    for name in (*FILES, "up.onnx"):
        (installed.folder / name).unlink()
    for command in exports:
        installed.run(command)
    with installed.serving(serve.replace("artifacts/resgan", "artifacts/resgan artifacts/up")) as u:
        yield u


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_files_of_the_page_go_from_a_wheel_to_samples_over_http(
    installed: Installed, served: str
) -> None:
    runs = [Run(installed.folder / "runs" / name) for name in ("one", "codebook")]
    one, two = (checkpoint.tensors(run.load_state()) for run in runs)
    assert 0 < worst(one, two) < 1e-9
    for command in road()[5:]:
        installed.run(command.replace("http://127.0.0.1:8000", served))
    sample = {"model": "resgan", "n": 2, "label": 0, "seed": 1, "format": "json"}
    assert len(httpx.post(f"{served}/v1/samples", json=sample, timeout=60).json()["samples"]) == 2
    for name, artifact in {"codes": "codebook@1", "squares": "resgan@1"}.items():
        pixels, provenance = read_png((installed.folder / f"{name}.png").read_bytes())
        assert pixels.shape == (70, 70, 1)  # four by four, with margins
        assert provenance is not None
        assert (provenance.artifact, provenance.n) == (artifact, 16)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_foreign_upscaler_goes_from_a_wheel_to_tiles_over_http_equal_to_the_whole(
    installed: Installed, served: str
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (40, 33, 1), np.uint8)
    lr = levels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    whole = onnxruntime.InferenceSession(installed.site.parent / "up.onnx").run(None, {"lr": lr})
    inputs = {"lr": base64.b64encode(png(levels)).decode()}
    body = {"model": "up", "inputs": inputs, "format": "png"}
    answer = httpx.post(f"{served}/v1/samples", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert np.array_equal(read_png(answer.content)[0], to_uint8(whole[0], 0, 1)[0])


@pytest.mark.process
@pytest.mark.timeout(900)
def test_files_of_the_page_are_checked_by_an_installed_wheel(installed: Installed) -> None:
    shown(installed.folder)
    said = installed.run("aigc check-model ./resgan.py --only gradients")
    assert said == "4 checks hold"
    assert "7 checks hold" in installed.run("aigc check-data ./shapes.py --for ./resgan.py")


@pytest.mark.process
@pytest.mark.parametrize("name", ["resgan", "codebook", "decorrelated", "doubler"])
def test_models_of_the_page_keep_the_contract(name: str, tmp_path: Path) -> None:
    names = {function.__name__ for function in CONTRACT} - {"parity"}  # the road exports them
    check_model(f"{shown(tmp_path)}/{name}.py", names)


class Threads:
    """Workers of one batch as threads of this process."""

    overlaps = False

    def __init__(self, rank: int, world_size: int, meeting: threading.Barrier, parts: Any) -> None:
        self.rank, self.world_size = rank, world_size
        self.device = torch.device("cpu")
        self._meeting, self._parts = meeting, parts

    def all_reduce(self, flat: Tensor) -> None:
        self._parts[self.rank] = flat.clone()
        self._meeting.wait(60)
        total = sum(self._parts[1:], self._parts[0].clone())
        self._meeting.wait(60)
        flat.copy_(total)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        pass

    def convert_sync_batch_norm(self, model: object) -> None:
        raise NotImplementedError


def codebook(folder: Path, **changes: Any) -> Any:
    config = models.preset(str(shown(folder) / "codebook.py"))
    changes = {"batch": 16, "samples": 96, "precision": "float64"} | changes
    quiet = {"checkpoint_interval": 0, "report_interval": 0, "grid_interval": 0}
    return replace(config, **(quiet | changes))


def trained(config: Any, world_size: int = 1) -> list[dict[str, Tensor]]:
    """States of all workers at the end."""
    source = data.load(config.data, config.model)
    meeting, parts = threading.Barrier(world_size), [torch.empty(0)] * world_size
    states = [TrainState(config) for _ in range(world_size)]
    threads = [
        threading.Thread(
            target=train,
            args=(config, state, source),
            kwargs={"group": Threads(rank, world_size, meeting, parts)},
        )
        for rank, state in enumerate(states)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [checkpoint.tensors(state) for state in states]


def test_sums_of_a_batch_are_those_of_one_worker(tmp_path: Path) -> None:
    config = codebook(tmp_path)
    (alone,) = trained(config)
    two, other = trained(config, 2)
    assert 0 < worst(alone, two) < 1e-9
    assert worst(two, other) == 0  # buffers too, which follow the sums
    (parts,) = trained(replace(config, micro_batch=5))
    assert 0 < worst(alone, parts) < 1e-9
    assert torch.equal(alone["model/counts"], parts["model/counts"])
    counts = alone["model/counts"]
    assert float(counts.sum()) == pytest.approx(32 * 0.99**6 + 16 * 16 * (1 - 0.99**6))


def test_a_batch_that_is_not_finite_changes_no_buffer_by_its_sums(tmp_path: Path) -> None:
    config = codebook(tmp_path)
    state = TrainState(config)
    before = checkpoint.snapshot(state, {}).tensors
    source = data.load(config.data, config.model)
    broken = replace(source, samples=source.samples * float("nan"))  # type: ignore[type-var]
    with pytest.raises(NonFiniteLoss):
        train(config, state, broken)
    after = checkpoint.tensors(state)
    for name in ("codes", "counts", "totals"):
        assert torch.equal(before[f"model/{name}"], after[f"model/{name}"]), name
