"""Prometheus metrics of a replica (multiprocess mode), with children bound before the hot path.

Import this after PROMETHEUS_MULTIPROC_DIR is in the environment: prometheus_client chooses how it
stores values when it is imported. Labels are bounded: never a seed, a user, a path or a replica.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aigc.artifact import Manifest
from serve.batching import Batch

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_LANE = ("model", "version", "signature")


class RequestMetrics:
    """What is counted for the requests of one signature of one model."""

    def __init__(self, metrics: "Metrics", labels: Mapping[str, str]) -> None:
        self._metrics = metrics
        self._labels = dict(labels)
        self._requests: dict[tuple[str, int], Counter] = {}
        self._durations: dict[str, Histogram] = {}

    def answered(self, api: str, code: int, seconds: float) -> None:
        """A request was answered with an HTTP status code."""
        request = self._requests.get((api, code))
        if request is None:
            labels = {**self._labels, "api": api, "code": str(code)}
            request = self._requests[api, code] = self._metrics.requests.labels(**labels)
        request.inc()
        duration = self._durations.get(api)
        if duration is None:
            labels = {**self._labels, "api": api}
            duration = self._durations[api] = self._metrics.duration.labels(**labels)
        duration.observe(seconds)


class LaneMetrics(RequestMetrics):
    """And for its samples; they are there, at zero, from the first scrape on."""

    def __init__(self, metrics: "Metrics", labels: Mapping[str, str]) -> None:
        super().__init__(metrics, labels)
        self._samples = metrics.samples.labels(**labels)
        self._shed = metrics.shed.labels(**labels)
        self._batch = metrics.batch.labels(**labels)
        self._wait = metrics.wait.labels(**labels)
        self._inference = metrics.inference.labels(**labels)

    def observe(self, batch: Batch) -> None:
        """A batch ran."""
        self._samples.inc(batch.size)
        self._batch.observe(batch.size)
        self._inference.observe(batch.seconds)
        for wait_s in batch.waits_s:
            self._wait.observe(wait_s)

    def shed(self, n: int) -> None:
        """A request for `n` samples was refused."""
        self._shed.inc(n)


class Metrics:
    """All metrics of this process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.requests = Counter(
            "aigc_requests_total",
            "Requests answered; model, version and signature are empty where none was found.",
            ("api", *_LANE, "code"),
            registry=registry,
        )
        self.duration = Histogram(
            "aigc_request_duration_seconds",
            "From the request's arrival in the replica to its whole answer.",
            ("api", *_LANE),
            buckets=SECONDS,
            registry=registry,
        )
        self.samples = Counter(
            "aigc_samples_total", "Samples that a graph gave.", _LANE, registry=registry
        )
        self.shed = Counter(
            "aigc_shed_samples_total",
            "Samples refused because the queue was full.",
            _LANE,
            registry=registry,
        )
        self.batch = Histogram(
            "aigc_batch_samples",
            "Samples per run of a graph.",
            _LANE,
            buckets=SAMPLES,
            registry=registry,
        )
        self.wait = Histogram(
            "aigc_queue_wait_seconds",
            "From a request's submission to its first batch.",
            _LANE,
            buckets=SECONDS,
            registry=registry,
        )
        self.inference = Histogram(
            "aigc_inference_seconds",
            "Drawing, running and rounding one batch.",
            _LANE,
            buckets=SECONDS,
            registry=registry,
        )
        self.queued = self._gauge("aigc_queue_samples", "Samples waiting for a batch.", registry)
        self.in_progress = self._gauge(
            "aigc_requests_in_progress", "Requests that are being answered.", registry
        )
        self.ready = self._gauge(
            "aigc_ready", "Replicas that replayed their references and take requests.", registry
        )
        self.refused_loads = Counter(
            "aigc_refused_loads_total",
            "Times that new artifacts were refused and the old ones stayed.",
            registry=registry,
        )
        self._model_info = Gauge(
            "aigc_model_info",
            "1 for each model that is hosted.",
            ("model", "version", "digest", "family"),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._models: set[tuple[str, str, str, str]] = set()
        self._lanes: dict[tuple[str, str, str], LaneMetrics] = {}
        self.unknown = RequestMetrics(self, dict.fromkeys(_LANE, ""))
        """For requests that name no signature that there is."""

    @staticmethod
    def _gauge(name: str, documentation: str, registry: CollectorRegistry) -> Gauge:
        return Gauge(name, documentation, multiprocess_mode="livesum", registry=registry)

    def lane(self, manifest: Manifest, signature: str) -> LaneMetrics:
        """The metrics of a signature, from zero on the first scrape."""
        key = (manifest.name, manifest.version, signature)
        if key not in self._lanes:
            self._lanes[key] = LaneMetrics(self, dict(zip(_LANE, key, strict=True)))
        return self._lanes[key]

    def hosted(self, manifests: Iterable[Manifest]) -> None:
        """State which models there are; those that went are set to 0."""
        now = {(m.name, m.version, m.digest, m.family) for m in manifests}
        for labels in self._models | now:
            self._model_info.labels(*labels).set(1 if labels in now else 0)
        self._models |= now
