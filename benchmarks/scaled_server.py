"""`aigc serve` under a chosen autoscaling policy, for comparison.

    python -m benchmarks.scaled_server '{"scaling": {"downscale_delay_s": 15}}' \
        STORE/NAME --replicas 1..2

`scaling` are fields of serve.autoscaling.Scaling; for `requests`, with which Ray Serve's default
policy takes its place, and `pace` see benchmarks.scaled_app.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from serve import cli
from serve.local import driver, server
from serve.local.ray_machine import Run
from serve.options import ServeConfig
from serve.settings import ParsedScaling, Settings
from tests.ports import free_port

Options = Mapping[str, Mapping[str, float]]

DRIVER = "--driver"
OPTIONS = "AIGC_BENCH_SCALED"
"""As in benchmarks.scaled_app, which may be imported only once Ray's environment is set."""


def main() -> None:
    if sys.argv[1] == DRIVER:
        drive(sys.argv[2])
        return
    server.DRIVER = ("benchmarks.scaled_server", DRIVER, sys.argv[1])
    sys.exit(cli.command(sys.argv[2:]))


def drive(options: str) -> None:
    """The process that starts Ray, with another application."""
    os.environ[OPTIONS] = options
    scaling = ParsedScaling(**json.loads(options).get("scaling", {}))
    deploy = driver.deploy

    def deploy_with(run: Run, config: ServeConfig, settings: Settings) -> None:
        # Imported here: Ray reads its environment at import, and by now it is set.
        from serve import app

        application = app.application

        def scaled_application(settings: Settings) -> dict[str, Any]:
            return application(settings) | {"import_path": "benchmarks.scaled_app:build"}

        app.application = scaled_application
        deploy(run, config, replace(settings, scaling=scaling))

    driver.deploy = deploy_with
    driver.main()


@contextmanager
def started(artifact: str, options: Options, *, high: int) -> Iterator[tuple[str, str]]:
    """(URL, URL of the metrics) of such a server with 1 to `high` replicas."""
    command = [sys.executable, "-m", "benchmarks.scaled_server", json.dumps(options), artifact]
    command += ["--replicas", f"1..{high}", "--metrics-port", "0", "--port", str(free_port())]
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        with process:
            assert process.stdout is not None
            try:
                url = process.stdout.readline().strip()
                stderr.seek(0)
                said = stderr.read()
                found = re.search(r"metrics\s+(http\S+)", said)
                if not url or not found:
                    raise RuntimeError(f"the server did not start:\n{said}")
                yield url, found[1]
            finally:
                process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
