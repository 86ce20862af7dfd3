"""The reports of a run as Prometheus metrics of its driver.

    metrics = Metrics("digits", port=9465)      # http://127.0.0.1:9465/metrics
    metrics.wanted(2, 8)
    fit(..., show=metrics.observe, working=metrics.working)
    metrics.close()

All of them are gauges, also what only grows: a report states what the run has come to over all its
restarts, a rollback takes samples back, and counters of a driver that ended would be added to those
of the next one.
"""

import logging
import os
import threading
import time
from pathlib import Path
from typing import IO
from wsgiref.simple_server import WSGIServer

import prometheus_client.values
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from aigc import exporter
from aigc.run import Report

_VALUES = {
    "discriminator/real": (
        "aigc_training_discriminator_real_logit",
        "Mean output of the discriminator on real samples.",
    ),
    "discriminator/fake": (
        "aigc_training_discriminator_fake_logit",
        "Mean output of the discriminator on generated samples.",
    ),
    "quality/frechet": (
        "aigc_training_frechet_distance",
        "Frechet distance of generated to real samples when it was last measured.",
    ),
}
"""Of Report.values, by name."""

_PHASE_VALUES = {
    "loss": ("aigc_training_loss", "Mean loss of a phase since the report before."),
    "gradient_norm": (
        "aigc_training_gradient_norm",
        "Mean norm of a phase's gradients since the report before.",
    ),
}
"""Of Report.values, by what follows the phase."""

_HOST = {
    "restarts": ("aigc_training_restarts", "Starts of the workers after the first."),
    "rollbacks": ("aigc_training_rollbacks", "Times that a diverged run went back."),
    "work_lost_samples": (
        "aigc_training_work_lost_samples",
        "Samples that were trained again because of restarts.",
    ),
    "rows_skipped": (
        "aigc_training_rows_skipped",
        "Rows that could not be read, since the workers' start.",
    ),
    "checkpoint_failures": (
        "aigc_training_checkpoint_failures",
        "Failed attempts to write a checkpoint, since the workers' start.",
    ),
    "data_wait": ("aigc_training_data_wait_ratio", "Share of the time that waited for data."),
    "cost": ("aigc_training_cost", "What the run has cost, in the currency of its price."),
}
"""Of Report.host, by name."""

log = logging.getLogger(__name__)


class Metrics:
    """What the last report of one run said.

    HTTP is served if a port is given; 0 takes a free one. With PROMETHEUS_MULTIPROC_DIR in the
    environment from the start of the process, `aigc metrics` shows the values too, until close().
    Raises ValueError if the port is taken.
    """

    def __init__(self, run: str, port: int | None, host: str = "127.0.0.1") -> None:
        self._run = run
        self._alive = _announced()
        self._registry = CollectorRegistry()
        self._samples = self._gauge(
            "aigc_training_samples", "Samples that the weights have seen; a rollback takes back."
        )
        self._speed = self._gauge(
            "aigc_training_samples_per_second", "Mean speed since the report before."
        )
        self._reported = self._gauge(
            "aigc_training_last_report_timestamp_seconds",
            "When the last report came, before the first the start; Unix time.",
        )
        self._saved = self._gauge(
            "aigc_training_last_checkpoint_timestamp_seconds",
            "When the newest checkpoint was whole, Unix time, as of the last report.",
        )
        self._workers = self._gauge(
            "aigc_training_workers", "Workers that train; 0 while the run waits for some."
        )
        self._fewest = self._gauge(
            "aigc_training_min_workers", "Fewest workers that the run goes on with."
        )
        self._most = self._gauge("aigc_training_max_workers", "Most workers that the run takes.")
        self._values = {key: self._gauge(*named) for key, named in _VALUES.items()}
        self._host = {key: self._gauge(*named) for key, named in _HOST.items()}
        self._phases = {key: self._gauge(*named, "phase") for key, named in _PHASE_VALUES.items()}
        self.url = ""
        """Where Prometheus may scrape; empty without a port."""
        self._server: tuple[WSGIServer, threading.Thread] | None = None
        if port is not None:
            try:
                self._server = start_http_server(port, host, self._registry)
            except OSError as error:
                self.close()
                raise ValueError(f"cannot listen on {host}:{port}: {error}") from error
            self.url = f"http://{host}:{self._server[0].server_port}/metrics"

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(
            name,
            documentation,
            ("run", *labels),
            multiprocess_mode="livemostrecent",
            registry=self._registry,
        )

    def wanted(self, fewest: int, most: int) -> None:
        """The run is about to start and wants so many workers; it has none yet."""
        self._fewest.labels(self._run).set(fewest)
        self._most.labels(self._run).set(most)
        self._reported.labels(self._run).set(time.time())  # a run that never reports has stalled
        self.working(0)

    def working(self, workers: int) -> None:
        """So many workers begin, or 0: those that there were are gone."""
        self._workers.labels(self._run).set(workers)

    def observe(self, report: Report) -> None:
        """Take in a report; what it does not mention keeps its value."""
        now_s = time.time()
        self._samples.labels(self._run).set(report.samples)
        self._speed.labels(self._run).set(report.samples_per_second)
        self._reported.labels(self._run).set(now_s)
        if "workers" in report.host:
            self.working(int(report.host["workers"]))
        if "checkpoint_age_s" in report.host:
            self._saved.labels(self._run).set(now_s - report.host["checkpoint_age_s"])
        for name, value in report.host.items():
            if name in self._host:
                self._host[name].labels(self._run).set(value)
        for name, value in report.values.items():
            phase, _, kind = name.partition("/")
            if name in self._values:
                self._values[name].labels(self._run).set(value)
            elif kind in self._phases:
                self._phases[kind].labels(self._run, phase).set(value)

    def close(self) -> None:
        """Serve no more, and take the values out of what `aigc metrics` shows."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None
        if self._alive is not None:
            self._alive.close()
            self._alive = None


def _announced() -> IO[str] | None:
    directory = os.environ.get(exporter.ENVIRONMENT)
    if not directory:
        return None
    if prometheus_client.values.ValueClass is prometheus_client.values.MutexValue:
        # The library chooses where values go when it is imported.
        log.warning(
            "%s was set after prometheus_client was imported, so it has no effect;"
            " set it before the process starts",
            exporter.ENVIRONMENT,
        )
        return None
    return exporter.announce(Path(directory))
