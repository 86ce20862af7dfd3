"""Rendezvous of the workers of one machine through a file that only their user can read.

torch's default, a TCP store, listens on every interface without authentication.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroup


class _FileBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: WorkerGroup, backend_config: "FileConfig") -> None:
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        worker_group.execute(_set_torch_distributed_env_vars)
        # A new file per start: one that a dead group has written to would mislead the next group.
        file = Path(backend_config.folder, f"rendezvous-{secrets.token_hex(8)}")
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend="nccl" if gpus else "gloo",
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{file}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )


@dataclass
class FileConfig(TorchConfig):  # type: ignore[misc]
    """TorchConfig for workers that share `folder`, which must be private."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_FileBackend]:
        return _FileBackend
