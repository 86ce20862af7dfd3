"""`aigc serve` under a chosen autoscaling policy, for comparison.

    python -m tests.bench.scaled_server '{"target_ongoing_requests": 4, "downscale_delay_s": 15}' \
        STORE/NAME --replicas 1..2

With target_ongoing_requests the policy is Ray's default one, and the other names are fields of its
AutoscalingConfig; without, they are fields of serve.autoscaling.Scaling.
"""

import json
import sys
import warnings
from dataclasses import replace
from typing import Any

from serve import run as serve_run
from serve.autoscaling import Scaling
from serve.machine import Run
from serve.settings import ParsedScaling, Settings


def main() -> None:
    options: dict[str, float] = json.loads(sys.argv[1])
    deploy = serve_run.deploy

    def deploy_with(run: Run, config: serve_run.ServeConfig, settings: Settings) -> None:
        # Imported here: Ray reads its environment at import, and by now it is set.
        from serve import app

        if "target_ongoing_requests" in options:
            app.autoscaling = request_count
        else:
            settings = replace(settings, scaling=ParsedScaling(**options))
        deploy(run, config, settings)

    def request_count(scaling: Scaling, low: int, high: int) -> Any:
        from ray.serve.config import AutoscalingConfig

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # metrics_interval_s
            return AutoscalingConfig(
                min_replicas=low,
                max_replicas=high,
                initial_replicas=low,
                metrics_interval_s=1.0,
                **options,
            )

    serve_run.deploy = deploy_with
    sys.exit(serve_run.command(sys.argv[2:]))


if __name__ == "__main__":
    main()
