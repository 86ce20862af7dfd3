"""Resources that each worker reserves, checked against the cluster."""

from typing import Literal

import ray

Device = Literal["auto", "cpu", "cuda"]


def resources_per_worker(workers: int, threads: int, device: Device) -> dict[str, float]:
    """Resources of each worker: CPUs, and a GPU if wanted or, with "auto", if there are any.

    Raises ValueError if the cluster has no room for `workers`, now or after its autoscaler has
    grown it: Ray Train would wait forever without a message.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    gpus = int(max(sum(node.get("GPU", 0) for node in nodes), limits.get("GPU", 0)))
    need: dict[str, float] = {"CPU": threads}
    if device == "cuda" or (device == "auto" and gpus):
        need["GPU"] = 1
    room = max(sum(_fit(node, need) for node in nodes), _fit(limits, need))
    if room >= workers:
        return need
    wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in need.items())
    total = ", ".join(
        f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in ("CPU", "GPU")
    )
    escape = " or --device cpu" if "GPU" in need and gpus < workers else ""
    raise ValueError(
        f"{workers} workers want {wanted} each, which leaves room for {room} on this cluster of"
        f" {len(nodes)} nodes with {total}; use fewer --workers{escape}, or add nodes"
    )


def describe_free() -> str:
    """Free resources at this moment, for a message."""
    total, now = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if kind in total]
    return ", ".join(f"{now.get(kind, 0):g} of {total[kind]:g} {kind}" for kind in kinds)


def _fit(node: dict[str, float], need: dict[str, float]) -> int:
    return int(min(node.get(kind, 0) // amount for kind, amount in need.items()))
