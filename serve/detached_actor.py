"""Actors of the Ray cluster that outlive whichever replica creates them."""

from typing import Any

NAMESPACE = "aigc"


def get_or_create(kind: type[Any], name: str) -> Any:
    """Handle of the cluster's only actor of this name. Blocks on Ray's control plane.

    It is restarted when its node dies; its calls run one after the other.
    """
    import ray

    options = ray.remote(kind).options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_concurrency=1,
        max_restarts=-1,
    )
    return options.remote()
