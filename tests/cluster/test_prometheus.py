"""Training metrics as a real Prometheus sees them, and as `aigc metrics` merges them."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aigc import data, models
from aigc.prometheus import exporter
from aigc.training.object_store import NullStore
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext, RunReport
from cluster.prometheus import Metrics
from tests.ports import free_port

pytestmark = pytest.mark.process

NAMES = {
    "samples": "aigc_training_samples",
    "samples_per_second": "aigc_training_samples_per_second",
    "discriminator/loss": 'aigc_training_loss{phase="discriminator"}',
    "generator/loss": 'aigc_training_loss{phase="generator"}',
    "discriminator/gradient_norm": 'aigc_training_gradient_norm{phase="discriminator"}',
    "generator/gradient_norm": 'aigc_training_gradient_norm{phase="generator"}',
    "discriminator/real": "aigc_training_discriminator_real_logit",
    "discriminator/fake": "aigc_training_discriminator_fake_logit",
    "workers": "aigc_training_workers",
    "restarts": "aigc_training_restarts",
    "rollbacks": "aigc_training_rollbacks",
    "work_lost_samples": "aigc_training_work_lost_samples",
    "rows_skipped": "aigc_training_rows_skipped",
    "checkpoint_failures": "aigc_training_checkpoint_failures",
    "data_wait": "aigc_training_data_wait_ratio",
    "cost": "aigc_training_cost",
}
"""Values that a GAN's run reports, and their queries."""


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus that scrapes `target` every second; gives its URL."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus here; apt-get install prometheus")
    url = f"127.0.0.1:{free_port()}"
    job = {"job_name": "aigc", "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [program, f"--config.file={folder / 'prometheus.yml'}", "--log.level=error"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={url}"]
    process = subprocess.Popen(command)
    try:
        yield f"http://{url}"
    finally:
        process.terminate()
        process.wait(30)


def query(url: str, expression: str) -> list[tuple[dict[str, str], float]]:
    """Labels and newest value of every series that an expression gives."""
    asked = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:  # it starts
        return []
    return [(series["metric"], float(series["value"][1])) for series in found]


def train(folder: Path, publish: Any) -> dict[str, float]:
    """A run in this process; returns the figures of its last report by name."""
    preset = models.preset("fc_gan:ring")
    config = replace(
        preset,
        samples=6400,
        report_interval=1600,
        checkpoint_interval=3200,
        grid_interval=0,
        price_per_worker_hour=2.5,
    )
    run = Run(folder)
    run.create(config)
    train_run(
        RunContext(store=NullStore(run.folder), on_report=publish),
        config,
        data.load(config.data, config.model),
    )
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    own = {name: last[name] for name in ("samples", "samples_per_second")}
    return {**own, **last["values"], **last["host"]}


def test_prometheus_scrapes_the_last_report(tmp_path: Path) -> None:
    metrics = Metrics("ring", 0)
    target = metrics.url.split("/")[2]
    with prometheus(tmp_path, target) as url:
        figures = train(tmp_path / "ring", metrics.observe)
        age_s = figures.pop("checkpoint_age_s")
        assert figures.keys() == NAMES.keys(), "every figure has a metric"
        deadline = time.monotonic() + 60
        while query(url, "aigc_training_samples") == [] or (
            query(url, "aigc_training_samples")[0][1] != figures["samples"]
        ):
            assert time.monotonic() < deadline, "Prometheus never saw the end of the run"
            time.sleep(0.2)
        for name, expression in NAMES.items():
            ((labels, value),) = query(url, expression)
            assert value == figures[name], name
            own = labels.keys() - {"__name__", "job", "instance"}
            assert own == ({"run", "phase"} if "phase" in expression else {"run"})
            assert labels["run"] == "ring"
        ((_, age),) = query(url, "time() - aigc_training_last_report_timestamp_seconds")
        assert 0 <= age < 120
        apart = "aigc_training_last_{}_timestamp_seconds".format
        ((_, age),) = query(url, f"{apart('report')} - {apart('checkpoint')}")
        assert age == pytest.approx(age_s, abs=1e-3)
    metrics.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(metrics.url)


REPORT = RunReport(
    640,
    123.5,
    9.0,
    {"elbo/loss": 3.5, "elbo/gradient_norm": 0.25, "quality/frechet": 17.5, "elbo/kl": 1.0},
    {"workers": 2.0},
    320,
)
EXPECTED = {
    ("aigc_training_samples", "digits", ""): 640.0,
    ("aigc_training_samples_per_second", "digits", ""): 123.5,
    ("aigc_training_loss", "digits", "elbo"): 3.5,
    ("aigc_training_gradient_norm", "digits", "elbo"): 0.25,
    ("aigc_training_frechet_distance", "digits", ""): 17.5,
    ("aigc_training_quality", "digits", ""): 17.5,
    ("aigc_training_quality_samples", "digits", ""): 320.0,
    ("aigc_training_workers", "digits", ""): 2.0,
}


def read(text: str) -> dict[tuple[str, str, str], float]:
    """Name, run and phase of every sample but the time of the report."""
    return {
        (sample.name, sample.labels.get("run", ""), sample.labels.get("phase", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("timestamp_seconds")
    }


def test_metrics_hold_only_reported_values_and_pass_promtool() -> None:
    metrics = Metrics("digits", 0)
    with urllib.request.urlopen(metrics.url) as answer:
        assert read(answer.read().decode()) == {}, "nothing is claimed before a report"
    metrics.observe(replace(REPORT, samples=1280))
    metrics.observe(REPORT)  # a rollback goes back
    with urllib.request.urlopen(metrics.url) as answer:
        text = answer.read().decode()
    metrics.close()
    assert read(text) == EXPECTED
    if shutil.which("promtool"):
        lint = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
        )
        assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")


def test_quality_by_a_metric_of_ones_own_is_one_series_of_a_run() -> None:
    metrics = Metrics("digits", 0)
    for name, value in (("off-line", 2.5), ("off-line", 1.5), ("other", 3.0), ('"}\n', 4.0)):
        metrics.observe(replace(REPORT, values={f"quality/{name}": value}))
    with urllib.request.urlopen(metrics.url) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    metrics.close()
    (quality,) = (family for family in families if family.name == "aigc_training_quality")
    (sample,) = quality.samples
    assert (sample.labels, sample.value) == ({"run": "digits", "metric": "off-line"}, 1.5)


def test_workers_metric_is_0_while_the_run_waits() -> None:
    metrics = Metrics("digits", 0)

    def workers() -> dict[str, float]:
        with urllib.request.urlopen(metrics.url) as answer:
            found = read(answer.read().decode())
        prefix, suffix = "aigc_training_", "workers"
        return {k[0].removeprefix(prefix): v for k, v in found.items() if k[0].endswith(suffix)}

    metrics.wanted(2, 8)
    with urllib.request.urlopen(metrics.url) as answer:
        assert b"last_report_timestamp_seconds{" in answer.read(), "its silence counts from here"
    assert workers() == {"min_workers": 2, "max_workers": 8, "workers": 0}
    metrics.working(3)
    assert workers()["workers"] == 3
    metrics.observe(REPORT)
    assert workers()["workers"] == 2
    metrics.working(0)
    assert workers() == {"min_workers": 2, "max_workers": 8, "workers": 0}
    metrics.close()


DRIVER = """
import json, sys
from aigc.training.run_context import RunReport
from cluster.prometheus import Metrics
metrics = Metrics("digits", None)
for line in sys.stdin:
    if line == "close\\n":
        metrics.close()
    else:
        metrics.observe(RunReport(**json.loads(line)))
    print("done", flush=True)
"""


def test_exporter_shows_a_driver_until_it_closes(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env={**os.environ, exporter.ENVIRONMENT: str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:

        def tell(line: str) -> None:
            assert driver.stdin is not None
            assert driver.stdout is not None
            driver.stdin.write(f"{line}\n")
            driver.stdin.flush()
            assert driver.stdout.readline() == "done\n"

        tell(json.dumps(replace(REPORT, samples=1280).__dict__))
        tell(json.dumps(REPORT.__dict__))
        lost = {("aigc_metrics_lost", "", ""): 0.0}
        assert read(exporter.render(tmp_path).decode()) == EXPECTED | lost
        tell("close")
        assert read(exporter.render(tmp_path).decode()) == {}
        assert driver.stdin is not None
        driver.stdin.close()
    assert driver.returncode == 0


def test_multiprocess_folder_set_too_late_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(exporter.ENVIRONMENT, str(tmp_path))
    with caplog.at_level(logging.WARNING):
        Metrics("digits", None).close()
    assert "set it before the process starts" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_metrics_name_a_taken_port() -> None:
    first = Metrics("a", 0)
    port = int(first.url.split(":")[2].partition("/")[0])
    with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}"):
        Metrics("b", port)
    first.close()
