"""`serve.app:build` with another autoscaling policy, or with replicas of a known pace.

Ray imports this where it builds the application and in every replica. What is to be different is
JSON in the environment of `benchmarks.scaled_server`, which all of them inherit:

    {"requests": {"target_ongoing_requests": 4}, "pace": {"batch_s": 0.004, "sample_s": 0.004}}
"""

import json
import os
import time
import warnings
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingConfig

from serve import app
from serve.autoscaling import Scaling

OPTIONS = "AIGC_BENCH_SCALED"
"""Environment variable that holds the JSON."""


def build(args: Mapping[str, Any]) -> Any:
    """The application, as `serve.app:build` makes it but for the options."""
    options = json.loads(os.environ[OPTIONS])
    if "requests" in options:
        app.autoscaling = by_requests
    if "pace" in options:
        app.IngressDeployment = PacedPool
    return app.build(args)


def by_requests(scaling: Scaling, low: int, high: int) -> AutoscalingConfig:
    """Ray Serve's default policy, its options from the environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # metrics_interval_s
        return AutoscalingConfig(
            min_replicas=low,
            max_replicas=high,
            initial_replicas=low,
            metrics_interval_s=app.REPORT_INTERVAL_S,
            **json.loads(os.environ[OPTIONS])["requests"],
        )


class PacedPool(app.IngressDeployment):
    """A replica whose batches take as long as they are told to, and no processor meanwhile.

    It stands for one with an accelerator of its own: several of them do not slow each other down,
    however few cores this machine has.
    """

    def __init__(self, args: Mapping[str, Any]) -> None:
        pace(**json.loads(os.environ[OPTIONS])["pace"])
        super().__init__(args)


def pace(batch_s: float, sample_s: float) -> None:
    """From here on a batch of n samples takes batch_s + n * sample_s in this process."""
    from serve.hosting.runner import LocalRunner  # it must not be imported before a replica begins

    run = LocalRunner.run

    def paced(lane: LocalRunner, inputs: Mapping[str, Any]) -> Any:
        end_s = time.monotonic() + batch_s + sample_s * len(next(iter(inputs.values())))
        outputs = run(lane, inputs)
        time.sleep(max(0.0, end_s - time.monotonic()))
        return outputs

    LocalRunner.run = paced
