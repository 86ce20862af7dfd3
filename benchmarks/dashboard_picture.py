"""docs/sampling-dashboard.svg: a dashboard over a real Prometheus, drawn without Grafana.

    python -m benchmarks.dashboard_picture       # six minutes of load on a Ray of its own

Grafana comes from none of the package registries that this project uses, so its panels are drawn
here: same places, same queries, same units.
"""

import asyncio
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import tyro

from benchmarks.dashboard_svg import Points, draw
from k8s import monitor
from k8s.dashboards import DASHBOARDS
from k8s.dashboards.grafana import as_json
from serve.access.api_keys import CreateKey, key_entry
from tests.k8s.local_ray import local_ray, running
from tests.ports import free_port

STEP_S = 3
VARIABLES = {"$namespace": ".*", "$model": ".*", "$__rate_interval": "20s"}
WARM_UP = ((25, 0.25),)
"""Not shown: rates want a past."""
PHASES = ((45, 0.25), (60, 0.7), (80, 1.5), (60, 0.9), (60, 0.3), (55, 0.75))
"""Seconds and load, in what one replica can do times the replicas that there may be."""
SIZES = (1, 4, 16, 64)
USERS = {"web": ("aigc_secret_web", 0.5), "batch": ("aigc_secret_batch", 0.4)}
"""Name of a key -> its secret and its share; the rest asks with a key of a small budget."""
TRIAL = "aigc_secret_trial"


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """Draw docs/sampling-dashboard.svg."""

    samples_per_s: float = 1000.0
    """Traffic of load 1."""
    replicas: int = 3
    scale: float = 1.0
    """Factor on all times: less for a first look."""
    out: Path = Path("docs/sampling-dashboard.svg")


def main() -> int:
    config = tyro.cli(PictureConfig)
    folder = Path(tempfile.mkdtemp())
    artifact = _heavy(folder)
    keys = folder / "keys.toml"
    keys.write_text(
        "\n".join(
            [
                *(
                    key_entry(CreateKey(action="new", name=n), secret)
                    for n, (secret, _) in USERS.items()
                ),
                key_entry(
                    CreateKey(action="new", name="trial", samples_per_s=20.0, burst=100), TRIAL
                ),
            ]
        )
    )
    args = {
        "replicas": f"1..{config.replicas}",
        "price_per_replica_hour": 0.4,
        "keys": str(keys),
        "limits": {"max_queue": 1024, "max_wait_s": 4},
        "scaling": {"downscale_delay_s": 25},
    }
    exporter = ("aigc.prometheus.exporter", "--port")
    with local_ray(num_cpus=config.replicas + 1) as head:
        told = ("--dir", str(head.metrics_dir))
        with (
            running(head, *exporter, str(head.ports["exporter"]), *told),
            monitor.prometheus(
                folder, head.targets(training=False), port=free_port(), interval_s=2
            ) as url,
        ):
            head.deploy(args, [artifact])
            asyncio.run(_send(head.address("serve"), config, WARM_UP))
            begun = time.time()
            asyncio.run(_send(head.address("serve"), config, PHASES))
            ended = time.time()
            picture = draw(
                as_json(DASHBOARDS["sampling"]),
                lambda expression: _range(url, expression, begun, ended),
                start_s=begun,
                end_s=ended,
                subtitle=f"A DCGAN, 1 to {config.replicas} replicas of one thread, a growing"
                " and falling load; drawn from the panels' queries",
            )
    config.out.write_text(picture)
    print(config.out)
    return 0


def _heavy(folder: Path) -> str:
    """An untrained model that is worth a processor: four times as wide as dcgan:digits."""
    wide = ("--model.generator-widths", "256", "128")
    train = ("train", "dcgan:digits", "--samples", "64", *wide, "--name", "run")
    export = ("export", f"{folder}/run", "--name", "digits", "--out", f"{folder}/store")
    for arguments in ((*train, "--storage", str(folder)), export):
        subprocess.run([sys.executable, "-m", "aigc.cli", *arguments], check=True)
    return f"{folder}/store/digits"


async def _send(address: str, config: PictureConfig, phases: Sequence[tuple[float, float]]) -> None:
    """Send when it is time to, however slow the answers are."""
    url = f"http://{address}/v1/samples"
    mean = sum(SIZES) / len(SIZES)
    sent = set()
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=400)) as client:
        for seconds, load in phases:
            due_s = time.monotonic()
            until_s = due_s + seconds * config.scale
            while due_s < until_s:
                due_s += random.expovariate(load * config.samples_per_s / mean)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                task = asyncio.create_task(_ask(client, url))
                sent.add(task)
                task.add_done_callback(sent.discard)
        for task in sent:
            task.cancel()


async def _ask(client: httpx.AsyncClient, url: str) -> None:
    body: dict[str, Any] = {"model": "digits", "n": random.choice(SIZES), "format": "npy"}
    drawn = random.random()
    secret = TRIAL
    for candidate, share in USERS.values():
        if drawn < share:
            secret = candidate
            break
        drawn -= share
    if random.random() < 0.01:
        body["label"] = 99
    try:
        await client.post(url, json=body, headers={"authorization": f"Bearer {secret}"})
    except httpx.HTTPError:
        return


def _range(
    url: str, expression: str, start_s: float, end_s: float
) -> Sequence[tuple[dict[str, str], Points]]:
    for name, filled in VARIABLES.items():
        expression = expression.replace(name, filled)
    asked = {"query": expression, "start": start_s, "end": end_s, "step": STEP_S}
    answer = httpx.get(f"{url}/api/v1/query_range", params=asked, timeout=30).json()
    assert answer["status"] == "success", answer
    found = []
    for series in answer["data"]["result"]:
        points = [(float(t), float(value)) for t, value in series["values"]]
        found.append((series["metric"], [p for p in points if math.isfinite(p[1])]))
    return found


if __name__ == "__main__":
    sys.exit(main())
