"""Prometheus metrics of a replica (multiprocess mode), with children bound before the hot path.

Import this after PROMETHEUS_MULTIPROC_DIR is set: prometheus_client chooses its value store when it
is imported. Labels are bounded: never a seed, a user, a path or a replica.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aigc.artifact import Manifest
from aigc.prometheus.values import LOST, LOST_HELP
from serve.access.api_keys import Keys
from serve.batching.jobs import BatchStats

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_SIGNATURE = ("model", "version", "signature")

Reason = Literal["overloaded", "deadline", "budget", "shutting_down"]
"""Reason for refusing samples: a full queue, a deadline that cannot be met, an exhausted budget or
slots of the key, or a replica that shuts down."""


class RequestMetrics:
    """Request metrics of one signature of one model."""

    def __init__(self, metrics: "Metrics", labels: Mapping[str, str]) -> None:
        self.labels = dict(labels)
        self._metrics = metrics
        self._requests: dict[tuple[str, int], Counter] = {}
        self._apis: dict[str, _ApiMetrics] = {}

    def answered(
        self,
        api: str,
        code: int,
        seconds: float,
        *,
        first_s: float | None = None,
        num_bytes: int = 0,
    ) -> None:
        """Count a request that was answered with an HTTP status code.

        `first_s`: seconds until its first sample, None if it had none. `num_bytes`: bytes sent.
        """
        request = self._requests.get((api, code))
        if request is None:
            labels = {**self.labels, "api": api, "code": str(code)}
            request = self._requests[api, code] = self._metrics.requests.labels(**labels)
        request.inc()
        children = self._apis.get(api)
        if children is None:
            children = self._apis[api] = _ApiMetrics(self._metrics, api, self.labels)
        children.duration.observe(seconds)
        if first_s is not None:
            children.first.observe(first_s)
            children.sent.inc(num_bytes)


class _ApiMetrics:
    """Request metrics of one signature in one API."""

    def __init__(self, metrics: "Metrics", api: str, labels: Mapping[str, str]) -> None:
        self.duration = metrics.duration.labels(api=api, **labels)
        self.first = metrics.first.labels(api=api, **labels)
        self.sent = metrics.sent.labels(api=api)


class KeyMetrics:
    """Metrics of one name in the keys file, or of "" where no key is needed."""

    def __init__(self, metrics: "Metrics", name: str) -> None:
        self.samples = metrics.key_samples.labels(key=name)
        self.refused = metrics.key_refused.labels(key=name)


class RunnerMetrics(RequestMetrics):
    """Request and sample metrics of one signature, at zero from the first scrape on."""

    def __init__(self, metrics: "Metrics", labels: Mapping[str, str]) -> None:
        super().__init__(metrics, labels)
        self._samples = metrics.samples.labels(**labels)
        self._shed = {
            reason: metrics.shed.labels(**labels, reason=reason) for reason in get_args(Reason)
        }
        self._batch = metrics.batch.labels(**labels)
        self._wait = metrics.wait.labels(**labels)
        self._inference = metrics.inference.labels(**labels)
        self.output_errors = metrics.output_errors.labels(**labels)
        self.runs_too_long = metrics.runs_too_long.labels(**labels)

    @cached_property
    def _steps(self) -> Counter:
        return self._metrics.steps.labels(**self.labels)

    def observe(self, batch: BatchStats) -> None:
        """Count a batch that ran."""
        ended = batch.size if batch.ended is None else batch.ended
        if ended:
            self._samples.inc(ended)
        if batch.ended is not None:
            self._steps.inc(batch.size)
        self._batch.observe(batch.size)
        self._inference.observe(batch.seconds)
        for wait_s in batch.waits_s:
            self._wait.observe(wait_s)

    def shed(self, n: int, reason: Reason) -> None:
        """Count a refused request for `n` samples."""
        self._shed[reason].inc(n)


class Metrics:
    """All metrics of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.requests = counter(
            "aigc_requests_total",
            "Requests answered; model, version and signature are empty for an unknown model.",
            ("api", *_SIGNATURE, "code"),
        )
        self.duration = histogram(
            "aigc_request_duration_seconds",
            "Time from a request's arrival in the replica to the end of its response.",
            ("api", *_SIGNATURE),
        )
        self.first = histogram(
            "aigc_time_to_first_sample_seconds",
            "Time from a request's arrival in the replica to the first line of a stream or the"
            " whole response, encoded and not yet sent; errors are not counted.",
            ("api", *_SIGNATURE),
        )
        self.sent = counter(
            "aigc_response_bytes_total",
            "Bytes in the bodies of responses; errors are not counted.",
            ("api",),
        )
        self.samples = counter("aigc_samples_total", "Samples generated.", _SIGNATURE)
        self.steps = counter(
            "aigc_steps_total",
            "Steps of autoregressive samples: the tokens of texts.",
            _SIGNATURE,
        )
        self.shed = counter(
            "aigc_shed_samples_total",
            "Samples refused: overloaded, deadline, budget or shutting_down.",
            (*_SIGNATURE, "reason"),
        )
        self.output_errors = counter(
            "aigc_model_output_errors_total",
            "Requests whose samples broke the manifest, answered with 500.",
            _SIGNATURE,
        )
        self.runs_too_long = counter(
            "aigc_runs_too_long_total",
            "Requests in a batch that did not end, answered with 504; their replica is replaced.",
            _SIGNATURE,
        )
        self.batch = histogram(
            "aigc_batch_samples", "Samples per run of a graph.", _SIGNATURE, SAMPLES
        )
        self.wait = histogram(
            "aigc_queue_wait_seconds",
            "Time from a request's submission to its first batch.",
            _SIGNATURE,
        )
        self.inference = histogram(
            "aigc_inference_seconds",
            "Time to draw, run and round one batch.",
            _SIGNATURE,
        )
        self.load = histogram(
            "aigc_model_load_seconds",
            "Time to open an artifact and replay its references.",
            ("model", "version"),
            LOAD_SECONDS,
        )
        self.key_samples = counter(
            "aigc_key_samples_total",
            "Samples generated, by the name of the key; empty where no key is needed.",
            ("key",),
        )
        self.key_refused = counter(
            "aigc_key_refused_samples_total",
            "Samples refused with 429 for a key's budget or slots, by the name of the key.",
            ("key",),
        )
        self.cost = counter(
            "aigc_cost_total", "Cost of the replicas so far, in the unit of their price."
        )
        self.refused_loads = counter(
            "aigc_refused_loads_total",
            "Refused artifacts: the old ones stayed, or a replica did not start.",
        )
        self.refused_keys = counter(
            "aigc_refused_keys_total",
            "Refused changes of the keys file: the old keys stayed.",
        )
        self.starts = counter(
            "aigc_replica_starts_total",
            "Replicas started, including those that failed before they were ready.",
        )
        self.starts.inc()  # one Metrics per process
        self.queued = gauge("aigc_queue_samples", "Samples waiting for a batch.")
        self.max_queued = gauge(
            "aigc_max_queue_samples",
            "Most samples that may wait, summed over live replicas.",
        )
        self.in_progress = gauge("aigc_requests_in_progress", "Requests in progress.")
        self.replicas = gauge("aigc_replicas", "Live replicas, including those that still load.")
        self.ready = gauge(
            "aigc_ready", "Replicas that have replayed their references and take requests."
        )
        self.max_replicas = Gauge(
            "aigc_max_replicas",
            "Most replicas allowed, of all pools together.",
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.lost = Gauge(LOST, LOST_HELP, multiprocess_mode="livemax", registry=self.registry)
        self._model_replicas = gauge(
            "aigc_model_replicas", "Replicas that host this version.", ("model", "version")
        )
        self._model_info = Gauge(
            "aigc_model_info",
            "1 for each hosted model.",
            ("model", "version", "digest", "family"),
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self._model_provider = gauge(
            "aigc_model_provider_replicas",
            "Replicas that run this version on an execution provider: cpu, cuda or tensorrt.",
            ("model", "version", "provider"),
        )
        self._models: set[tuple[str, str, str, str]] = set()
        self._on_providers: set[tuple[str, str, str]] = set()
        self._runners: dict[tuple[str, str, str], RunnerMetrics] = {}
        self._keys: dict[str, KeyMetrics] = {}
        self.unknown = RequestMetrics(self, dict.fromkeys(_SIGNATURE, ""))
        """Metrics of requests for an unknown signature."""

    def _counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge summed over live processes."""
        return Gauge(
            name, documentation, labels, multiprocess_mode="livesum", registry=self.registry
        )

    def _histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        buckets: Sequence[float] = SECONDS,
    ) -> Histogram:
        return Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)

    def runner(self, manifest: Manifest, signature: str) -> RunnerMetrics:
        """Metrics of a signature, at zero from the first scrape on."""
        key = (manifest.name, manifest.version, signature)
        if key not in self._runners:
            self._runners[key] = RunnerMetrics(self, dict(zip(_SIGNATURE, key, strict=True)))
        return self._runners[key]

    def key(self, name: str) -> KeyMetrics:
        """Metrics of a name in the keys file, or of ""."""
        metrics = self._keys.get(name)
        if metrics is None:
            metrics = self._keys[name] = KeyMetrics(self, name)
        return metrics

    def name_keys(self, keys: Keys | None) -> None:
        """Create the series of every key, at zero from the first scrape on."""
        for name in [key.name for key in keys.all] if keys is not None else [""]:
            self.key(name)

    def loaded(self, manifest: Manifest, seconds: float) -> None:
        """Record the load time of an artifact."""
        self.load.labels(manifest.name, manifest.version).observe(seconds)

    def hosted(self, manifests: Iterable[Manifest]) -> None:
        """Set which models are hosted; removed ones are set to 0."""
        now = {(m.name, m.version, m.digest, m.family) for m in manifests}
        self._models |= now
        versions = {labels[:2] for labels in now}
        for labels in self._models:
            self._model_info.labels(*labels).set(labels in now)
            self._model_replicas.labels(*labels[:2]).set(labels[:2] in versions)

    def providers(self, running: Iterable[tuple[Manifest, str]]) -> None:
        """Set which models this replica runs, and on which provider; removed ones are set to 0."""
        now = {(manifest.name, manifest.version, provider) for manifest, provider in running}
        self._on_providers |= now
        for labels in self._on_providers:
            self._model_provider.labels(*labels).set(labels in now)
