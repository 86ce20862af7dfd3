"""Replicas load artifacts of strangers: apart, in time, within memory, and signed if need be."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from aigc.artifact import Artifact, ArtifactError, Store
from aigc.artifact.signing import Trust, sign
from serve.batching.batcher import Batcher
from serve.hosting import desired_models
from serve.hosting.memory_budget import MemoryBudget, resident_bytes
from serve.hosting.models import HostedModels, ModelLoader
from serve.hosting.time_limit import within
from serve.metrics import Metrics
from serve.settings import Settings
from tests.artifact.bombs import BOMBS
from tests.artifact.hostile import ROUNDS, forever, model, write, zeros_graph
from tests.artifact.keys import write_keys
from tests.serve.client import serving

pytestmark = pytest.mark.process


def loader(*, seconds: float = 60, trust: Trust | None = None, apart: bool = True) -> ModelLoader:
    memory = MemoryBudget(limit_bytes=resident_bytes() + (256 << 20))
    return ModelLoader(
        threads=1,
        max_batch=16,
        memory=memory,
        metrics=Metrics(),
        batcher=Batcher(max_queue=1),
        seconds=seconds,
        trust=trust,
        apart=apart,
    )


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An object store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
        S3FileSystem.clear_instance_cache()  # they know where another test's store was
        yield
    S3FileSystem.clear_instance_cache()


def test_a_store_that_never_answers_is_a_refusal_in_time(
    stalled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desired_models, "CANDIDATE_S", 1.0)
    began_s = time.monotonic()
    uri = "s3://models/digits/1"
    with pytest.raises(ArtifactError, match=r"s3://models/digits/1 was not loaded within 1 s"):
        loader(seconds=1).open(uri)
    with pytest.raises(ArtifactError, match=r"was not loaded within 1 s"):
        HostedModels.open([uri], loader(seconds=1))
    with pytest.raises(ArtifactError, match=r"was not found within 1 s; look whether its store"):
        desired_models.read_candidate(uri)
    assert time.monotonic() - began_s < 30


def test_what_is_loaded_too_late_does_not_count_as_loaded(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = threading.Event()

    def verify(artifact: Artifact) -> None:
        time.sleep(1.5)
        late.set()

    monkeypatch.setattr(Artifact, "verify", verify)
    slow = loader(seconds=1, apart=False)
    with pytest.raises(ArtifactError, match="was not loaded within 1 s"):
        slow.open(f"{store}/tiny/1")
    assert late.wait(10)
    time.sleep(0.1)  # the thread has nothing left to do
    assert slow.memory.allocations == {}


def test_work_in_time_gives_what_it_gives_and_raises_what_it_raises() -> None:
    assert within(5, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        within(5, divmod, 7, 0)
    with pytest.raises(TimeoutError, match="not done within 0 s"):
        within(0.05, time.sleep, 5)


def test_a_loop_without_an_end_is_refused_in_time(tmp_path: Path) -> None:
    folder = write(tmp_path / "loop", model([*zeros_graph("before"), forever()], ROUNDS))
    with pytest.raises(ArtifactError, match=r"process of its own, was not loaded within \d s"):
        loader(seconds=4).open(str(folder))


def test_a_bomb_costs_the_replica_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "bomb", BOMBS["folded"])
    before = resident_bytes()
    with pytest.raises(ArtifactError, match="takes more than the 256 MiB of memory that it may"):
        loader().open(str(folder))
    assert resident_bytes() - before < 64 << 20


def test_what_a_replica_trusts_is_what_was_signed(tmp_path: Path) -> None:
    """Read once: what was checked is what is loaded."""
    folder = write(tmp_path / "store" / "stranger" / "1", model(zeros_graph()))
    private, public = write_keys(tmp_path)
    trust = Trust.load(public)
    for open_it in (loader(trust=trust, apart=False).open, loader(trust=trust).locate):
        with pytest.raises(ArtifactError, match="is not signed"):
            open_it(str(folder))
    sign(folder, private)
    assert loader(trust=trust).open(str(folder)).id == "stranger@1"
    models = HostedModels.open([f"{tmp_path}/store/stranger"], loader(trust=trust, apart=False))
    assert models.all[0].id == "stranger@1"


def test_trust_is_a_setting_and_a_variable(
    tmp_path: Path, metrics_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "stranger", model(zeros_graph()))
    _, public = write_keys(tmp_path)
    settings = Settings(metrics_dir=str(metrics_dir), trust=str(public))
    with serving(settings) as client, pytest.raises(ArtifactError, match="is not signed"):
        client.run(client.replica.configure({"artifacts": [str(folder)]}))
    monkeypatch.setenv("AIGC_TRUST", str(tmp_path / "nowhere"))
    settings = Settings(metrics_dir=str(metrics_dir))
    with pytest.raises(ValueError, match=r"trust .*nowhere: No such file"), serving(settings):
        pass


@pytest.mark.parametrize("name", ["1", "1.0", "latest", "ready", "versions", "manifest.json"])
def test_a_name_that_can_be_exported_can_be_served(
    name: str, tmp_path: Path, metrics_dir: Path
) -> None:
    store = Store(tmp_path / "store")
    store.publish(write(tmp_path / "build", model(zeros_graph()), name=name))
    link = tmp_path / "store" / name / "2"
    write(tmp_path / "elsewhere", model(zeros_graph()), name=name, version="2")
    link.symlink_to(tmp_path / "elsewhere")
    settings = Settings(metrics_dir=str(metrics_dir))
    with serving(settings, f"{store.uri}/{name}", f"{store.uri}/{name}@1") as client:
        for model_name in (name, f"{name}@1", f"{name}@2"):
            answer = client.samples(model=model_name, n=1, seed=0, format="json")
            assert answer.status_code == 200, answer.text
            assert client.get(f"/v1/models/{model_name}").json()["id"].startswith(f"{name}@")
        assert client.get(f"/v2/models/{name}/versions/1/ready").status_code == 200
        assert client.get(f"/v2/models/{name}/ready").status_code == 200
        assert client.get(f"/v2/models/{name}").json()["versions"] == ["1", "2"]


def test_a_process_that_is_held_to_its_memory_fails_the_run_and_goes_on(tmp_path: Path) -> None:
    """In a process of its own: the limit stays for good."""
    script = """
import sys
import threading
import numpy as np
from serve.hosting.memory_budget import ASKED_BYTES, MemoryBudget, resident_bytes
memory = MemoryBudget(limit_bytes=resident_bytes() + (64 << 20), enforced=True)
memory.enforce()
try:
    np.ones((ASKED_BYTES + (256 << 20)) // 8)
except MemoryError:
    print("refused", np.ones(1 << 20).sum())
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == "refused 1048576.0\n", found.stderr
