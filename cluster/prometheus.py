"""Prometheus metrics of a run's driver, taken from the run's reports.

    metrics = Metrics("digits", port=9465)      # http://127.0.0.1:9465/metrics
    metrics.wanted(2, 8)
    fit(RunContext(store=store, on_report=metrics.observe, on_workers=metrics.working), ...)
    metrics.close()

All are gauges, including totals: a report states totals over all restarts of the run, a rollback
decreases them, and counters of an ended driver would be added to those of the next one.
"""

import logging
import os
import re
import threading
import time
from pathlib import Path

import prometheus_client.values
from prometheus_client import CollectorRegistry, Gauge

from aigc.display import netloc
from aigc.prometheus import exporter, scrape
from aigc.prometheus.values import LOST, LOST_HELP, LiveProcess, register_process
from aigc.training.run_context import RunReport

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
"""Metrics of RunReport.values, by name."""

_PHASE_VALUES = {
    "loss": ("aigc_training_loss", "Mean loss of a phase since the report before."),
    "gradient_norm": (
        "aigc_training_gradient_norm",
        "Mean norm of a phase's gradients since the report before.",
    ),
}
"""Metrics of RunReport.values, by the part after the phase."""

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
"""Metrics of RunReport.host, by name."""

_QUALITY = re.compile(r"quality/[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
"""Quality in RunReport.values by the name of its metric, which may be a file's or a module's."""

log = logging.getLogger(__name__)


class Metrics:
    """Values of the last report of a run.

    They are served over HTTP if a port is given; 0 takes a free one. With PROMETHEUS_MULTIPROC_DIR
    set from the start of the process, `aigc metrics` shows the values too, until close().
    Raises ValueError if the port is taken.
    """

    def __init__(self, run: str, port: int | None, host: str = "127.0.0.1") -> None:
        self._run = run
        self._alive = _register()
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
        self._measured = self._gauge(
            "aigc_training_quality_samples",
            "Samples that the weights had seen when their quality was last measured.",
        )
        self._quality = self._gauge(
            "aigc_training_quality",
            "Quality by its metric when it was last measured: less is better.",
            "metric",
        )
        self._metric = ""
        """Name of the metric of quality; a run has one."""
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
        self._lost: Gauge | None = None
        if self._alive is not None:
            self._lost = Gauge(
                LOST, LOST_HELP, multiprocess_mode="livemax", registry=self._registry
            )
        self.url = ""
        """URL for Prometheus to scrape; empty without a port."""
        self._server: tuple[scrape.Server, threading.Thread] | None = None
        if port is not None:
            try:
                server = scrape.listen(host, port, lambda encode: encode(self._registry))
            except OSError as error:
                self.close()
                raise ValueError(f"cannot listen on {netloc(host, port)}: {error}") from error
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            self._server = server, thread
            self.url = server.url

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(
            name,
            documentation,
            ("run", *labels),
            multiprocess_mode="livemostrecent",
            registry=self._registry,
        )

    def wanted(self, fewest: int, most: int) -> None:
        """Note the least and largest number of workers of a run that is about to start."""
        self._fewest.labels(self._run).set(fewest)
        self._most.labels(self._run).set(most)
        self._reported.labels(self._run).set(
            time.time()
        )  # so that a run without any report counts as stalled
        self.working(0)

    def working(self, workers: int) -> None:
        """Note the number of workers that begin; 0 if none is left."""
        self._workers.labels(self._run).set(workers)

    def observe(self, report: RunReport) -> None:
        """Take over the values of a report; others keep their value."""
        now_s = time.time()
        if self._alive is not None and self._lost is not None:
            self._lost.set(self._alive.tend())
        self._samples.labels(self._run).set(report.samples)
        self._speed.labels(self._run).set(report.samples_per_second)
        self._reported.labels(self._run).set(now_s)
        if report.quality_samples is not None:
            self._measured.labels(self._run).set(report.quality_samples)
        if "workers" in report.host:
            self.working(int(report.host["workers"]))
        if "checkpoint_age_s" in report.host:
            self._saved.labels(self._run).set(now_s - report.host["checkpoint_age_s"])
        for name, value in report.host.items():
            if name in self._host:
                self._host[name].labels(self._run).set(value)
        for name, value in report.values.items():
            phase, _, kind = name.partition("/")
            quality = _QUALITY.fullmatch(name)
            if quality and self._metric in ("", kind):
                self._metric = kind
                self._quality.labels(self._run, kind).set(value)
            if name in self._values:
                self._values[name].labels(self._run).set(value)
            elif kind in self._phases and not quality:
                self._phases[kind].labels(self._run, phase).set(value)

    def close(self) -> None:
        """Stop serving, and remove the values from `aigc metrics`."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None
        if self._alive is not None:
            self._alive.close()
            self._alive = None


def _register() -> LiveProcess | None:
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
    return register_process(Path(directory))
