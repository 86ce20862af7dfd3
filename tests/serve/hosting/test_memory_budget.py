"""The memory of a replica is bounded: refused with the sum before it is too much."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aigc.artifact import Artifact
from serve.batching.batcher import Batcher
from serve.hosting.memory_budget import (
    CAUTION,
    MemoryBudget,
    MemoryLimitError,
    machine_bytes,
    replica_share,
    resident_bytes,
)
from serve.hosting.models import HostedModels, ModelLoader
from serve.metrics import Metrics
from serve.settings import PoolSettings, Settings
from tests.serve.client import Client, serving

MIB = 1 << 20


@dataclass
class Process:
    """Whose resident memory is said."""

    resident: int = 100 * MIB

    def __call__(self) -> int:
        return self.resident


@pytest.fixture
def process() -> Process:
    return Process()


def loaded(
    memory: MemoryBudget, process: Process, name: str, weights: int, per_sample: int
) -> list[int]:
    """The batches that were run while it was loaded, of 64 at most."""
    sizes: list[int] = []

    def run(size: int) -> None:
        sizes.append(size)
        process.resident = max(process.resident, before + per_sample * size)

    part = memory.load(name, weights)
    process.resident += weights
    part.opened()
    before = process.resident
    part.run_batches(64, run)
    memory.keep(part)
    return sizes


def test_batches_grow_to_the_full_one(process: Process) -> None:
    memory = MemoryBudget(limit_bytes=1000 * MIB, resident=process)
    assert loaded(memory, process, "a@1", 50 * MIB, MIB) == [1, 4, 16, 64]
    part = memory.allocations["a@1"]
    assert (part.weights, part.arena) == (50 * MIB, 64 * MIB)


def test_weights_that_cannot_fit_are_not_read(process: Process) -> None:
    memory = MemoryBudget(limit_bytes=300 * MIB, resident=process)
    with pytest.raises(MemoryLimitError) as refused:
        memory.load("a@1", 150 * MIB)
    message = str(refused.value)
    assert "a replica would hold 400.0 MiB and may hold 300.0 MiB" in message
    assert "the process 100.0 MiB, a@1's weights 150.0 MiB, a@1's reading them 150.0" in message


def test_graphs_of_all_artifacts_share_the_memory_of_the_gpu(process: Process) -> None:
    memory = MemoryBudget(limit_bytes=1000 * MIB, gpu_limit_bytes=100 * MIB, resident=process)
    for name in ("a@1", "b@1"):
        allocation = memory.load(name, 0)
        memory.claim_gpu(allocation, 40 * MIB)
        memory.keep(allocation)
    third = memory.load("c@1", 0)
    says = r"c@1 does not fit on the GPU: .* at least 110\.0 MiB there and may take 100\.0 MiB"
    with pytest.raises(MemoryLimitError, match=says + r" \(a@1 40\.0 MiB, b@1 40\.0 MiB, c@1 30"):
        memory.claim_gpu(third, 30 * MIB)
    memory.keep_only({"b@1"})
    memory.claim_gpu(third, 30 * MIB)
    MemoryBudget(limit_bytes=1000 * MIB, resident=process).claim_gpu(third, 1 << 40)  # no GPU


def test_the_batch_that_would_not_fit_is_never_run(process: Process) -> None:
    memory = MemoryBudget(limit_bytes=1000 * MIB, resident=process)
    loaded(memory, process, "a@1", 100 * MIB, MIB)
    ran: list[int] = []
    with pytest.raises(MemoryLimitError) as refused:
        ran = loaded(memory, process, "b@1", 100 * MIB, 10 * MIB)
    assert ran == []
    assert process.resident < memory.limit_bytes
    message = str(refused.value)
    assert "a@1 164.0 MiB" in message
    assert "b@1's a batch of 64" in message
    said = message.split("(")[1].split(")")[0].split(", ")
    parts = [float(part.rsplit(" ", 2)[1]) for part in said]
    total = float(message.split("would hold ")[1].split(" ")[0])
    unit = 1024 if "GiB and may" in message else 1
    assert sum(parts) == pytest.approx(total * unit, rel=0.01), "the parts are the sum"
    assert CAUTION > 1


def test_real_artifacts_are_measured_and_refused(store: Path, metrics_dir: Path) -> None:
    def loader(limit_bytes: int) -> ModelLoader:
        memory = MemoryBudget(limit_bytes=limit_bytes)
        return ModelLoader(
            threads=1, max_batch=8, memory=memory, metrics=Metrics(), batcher=Batcher(max_queue=1)
        )

    ample = loader(resident_bytes() + (1 << 30))
    hosted = HostedModels.open([f"{store}/tiny@1", f"{store}/tiny@2"], ample)
    assert set(ample.memory.allocations) == {one.id for one in hosted.all}
    with pytest.raises(MemoryLimitError, match="tiny@1 does not fit: with it a replica would hold"):
        HostedModels.open([f"{store}/tiny@1"], loader(resident_bytes()))


def test_artifacts_beyond_the_gpu_of_a_replica_fail_the_start(
    store: Path, metrics_dir: Path
) -> None:
    def opened(gpu_bytes: int | None) -> HostedModels:
        loader = ModelLoader(
            threads=1,
            max_batch=2,
            memory=MemoryBudget(limit_bytes=8 << 30, gpu_limit_bytes=gpu_bytes),
            metrics=Metrics(),
            batcher=Batcher(max_queue=1),
        )
        return HostedModels.open([f"{store}/tiny@1", f"{store}/tiny@2"], loader)

    files = Artifact.open(f"{store}/tiny@1", verify=False).manifest.files
    graph = sum(file.bytes for name, file in files.items() if name.endswith(".onnx"))
    assert len(opened(2 * graph + 100).all) == 2
    with pytest.raises(MemoryLimitError, match=r"tiny@2 does not fit on the GPU: .*gpu_memory"):
        opened(2 * graph - 100)


def test_what_does_not_fit_fails_the_start_and_later_leaves_what_is_served(
    store: Path, metrics_dir: Path
) -> None:
    tight = Settings(metrics_dir=str(metrics_dir / "tight"), memory=MIB)
    with serving(tight) as client, pytest.raises(MemoryLimitError):
        client.run(client.replica.configure({"artifacts": [f"{store}/tiny@1"]}))
    with serving(Settings(metrics_dir=str(metrics_dir / "ample")), f"{store}/tiny@1") as client:
        client.probe.memory.limit_bytes = resident_bytes()
        _configure(client, f"{store}/tiny@1", f"{store}/other")
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["tiny@1"]
        assert client.probe.count("aigc_refused_loads_total") == 1
        client.probe.memory.limit_bytes += 1 << 30
        _configure(client, f"{store}/other")
        assert set(client.probe.memory.allocations) == {"other@1"}


def _configure(client: Client, *references: str) -> None:
    client.run(client.replica.configure({"artifacts": references}))

    async def settle() -> None:
        await client.probe.loaded()

    client.run(settle())


def test_by_default_the_replicas_of_all_pools_share_the_machine() -> None:
    settings = Settings(
        replicas=(1, 2),
        pools={"large": PoolSettings(replicas=(0, 2)), "own": PoolSettings(memory=5)},
    )
    assert settings.most_replicas == 5
    assert (
        settings.replica_settings("large").memory
        == replica_share(5)
        == int(0.8 * machine_bytes()) // 5
    )
    assert settings.replica_settings("own").memory == 5


def test_batches_of_free_sizes_are_measured_at_the_largest(free: Path, metrics_dir: Path) -> None:
    seen: list[tuple[int, ...]] = []
    loader = ModelLoader(
        threads=1,
        max_batch=16,
        memory=MemoryBudget(limit_bytes=4 << 30),
        metrics=Metrics(),
        batcher=Batcher(max_queue=1),
    )
    run = Artifact.run

    def noted(self: Artifact, name: str, inputs: Any) -> Any:
        if name == "sample":
            seen.append(inputs["latent"].shape)
        return run(self, name, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Artifact, "run", noted)
        loader.open(str(free))
    # Six times the values of the default size: a full batch holds a sixth of its samples.
    assert seen[:2] == [(1, 4, 12, 12), (2, 4, 12, 12)]
    assert (16, 4, 4, 6) in seen
