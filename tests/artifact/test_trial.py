"""Trial runs in a process with limits; a crash is a refusal."""

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from aigc.artifact import ArtifactError
from aigc.artifact.manifest import Manifest
from aigc.artifact.trial import Bounds, child_environment, try_out
from tests.artifact.bombs import BOMBS, whole
from tests.artifact.hostile import (
    ROUNDS,
    added,
    const,
    contents,
    forever,
    model,
    node,
    write,
    zeros_graph,
)

pytestmark = pytest.mark.process

MEMORY = 192 << 20
BASE = 256 << 20
"""Memory of the process before it loads anything, with slack."""


def trials() -> list[psutil.Process]:
    """Children of this process that try an artifact; a store of other tests may be one, too."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "aigc.artifact.trial" in child.cmdline():  # it began as a copy of this one
                found.append(child)
    return found


class Watch:
    """The most memory that any child of this process had, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            for child in trials():
                with suppress(psutil.Error):
                    self.most = max(self.most, child.memory_info().rss)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.stop()


def tried(folder: Path, seconds: float = 60, max_batch: int = 16) -> None:
    bounds = Bounds(memory_bytes=MEMORY, seconds=seconds, max_batch=max_batch)
    try_out(*contents(folder), bounds)


@pytest.mark.parametrize("name", BOMBS)
def test_graph_beyond_the_memory_fails_in_the_child(
    name: str, tmp_path: Path, watch: Watch
) -> None:
    folder = write(tmp_path / "bomb", BOMBS[name])
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 1 << 20
    with pytest.raises(ArtifactError, match="stranger@1") as refusal:
        tried(folder)
    said = str(refusal.value)
    assert "192 MiB" in said or "exceeds the supported maximum" in said, said
    assert watch.most < MEMORY + BASE


def test_endless_loop_is_ended(tmp_path: Path) -> None:
    folder = write(tmp_path / "loop", model([*zeros_graph("before"), forever()], ROUNDS))
    began_s = time.monotonic()
    with pytest.raises(ArtifactError, match=r"not loaded within 3 s; raise limits.max_load_second"):
        tried(folder, seconds=3)
    assert time.monotonic() - began_s < 30
    assert not trials()


def test_most_expensive_batch_size_is_found(tmp_path: Path) -> None:
    """Sizes between one and the full batch are run as well, as far as time goes."""
    nodes = [
        node("Shape", ["latent"], ["shape"]),
        node("Gather", ["shape", "zero_at"], ["n"]),
        node("Equal", ["n", "seven"], ["is_seven"]),
        node("Where", ["is_seven", "huge", "one_at"], ["size"]),
        node("ConstantOfShape", ["size"], ["made"]),
    ]
    graph = added(nodes, "made", whole("seven", 7), whole("huge", 1 << 30))
    with pytest.raises(ArtifactError, match="takes more than the 192 MiB"):
        tried(write(tmp_path / "seven", graph))


def test_honest_artifact_fits_its_limits(tmp_path: Path, sealed: Path) -> None:
    tried(write(tmp_path / "honest", model(zeros_graph())))
    tried(sealed, max_batch=64)


@pytest.mark.parametrize("fixture", ["written", "joined"])
def test_other_signatures_are_tried_too(fixture: str, request: pytest.FixtureRequest) -> None:
    tried(request.getfixturevalue(fixture), max_batch=8)


def test_weights_may_fill_half_of_the_memory(tmp_path: Path) -> None:
    def weighing(count: int) -> onnx.ModelProto:
        weights = const("big", np.ones(count, np.float32))
        return added([node("Identity", ["big"], ["made"])], "made", weights)

    tried(write(tmp_path / "light", weighing(MEMORY // 16)))
    with pytest.raises(ArtifactError, match=r"takes more than the 192 MiB|SIGABRT"):
        tried(write(tmp_path / "heavy", weighing(MEMORY // 4)))


def test_reference_bombs_are_refused(tmp_path: Path) -> None:
    """Their shape is the one that the manifest promises."""
    from tests.artifact.archives import archive, header
    from tests.artifact.archives import whole as whole_archive

    def wide(manifest: Manifest) -> Manifest:
        signature = manifest.signatures["sample"]
        latent = dataclasses.replace(signature.inputs[0], shape=(1 << 26,))
        inputs = (latent, *signature.inputs[1:])
        changed = dataclasses.replace(signature, inputs=inputs)
        return dataclasses.replace(manifest, signatures={"sample": changed})

    graph = model(zeros_graph())
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 26
    latents = {"in/latent": header("in/latent", (1, 1 << 26))}
    npz = archive(
        {**whole_archive(in_label=(1,), out_image=(1, 1, 8, 8)), **latents}, zeros=1 << 28
    )
    folder = write(tmp_path / "npz", graph, npz=npz, change=wide)
    with pytest.raises(ArtifactError, match="takes more than the 192 MiB"):
        tried(folder)


def test_crash_of_the_child_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime can take the process down with it."""
    manifest, found = contents(write(tmp_path / "a", model(zeros_graph())))
    broken = dataclasses.replace(found, references={"\0": b""}, graphs={})
    with pytest.raises(ArtifactError, match="the model cannot be tried: "):
        try_out(manifest, broken, Bounds(memory_bytes=MEMORY, seconds=60))

    def kill() -> None:
        while not (children := trials()):
            time.sleep(0.001)
        children[0].send_signal(signal.SIGSEGV)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ArtifactError, match=r"tried in a process of its own, ended it .SIGSEGV"):
        tried(tmp_path / "a")
    killer.join()


def test_child_writes_no_files_and_gets_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys; from aigc.artifact.trial import Bounds, limit;"
        "limit(Bounds(memory_bytes=1 << 26, seconds=60));"
        "open(sys.argv[1], 'w').write('x')"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "written"], capture_output=True)
    assert (tmp_path / "written").read_bytes() == b""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "secret" not in child_environment().values()
