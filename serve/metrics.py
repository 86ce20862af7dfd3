"""Prometheus metrics of a replica (multiprocess mode), with children bound before the hot path.

Import this after PROMETHEUS_MULTIPROC_DIR is in the environment: prometheus_client chooses how it
stores values when it is imported. Labels are bounded: never a seed, a user, a path or a replica.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aigc.artifact import Manifest
from serve.access.keys import Keys
from serve.batching import Batch

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_LANE = ("model", "version", "signature")

Reason = Literal["overloaded", "deadline", "budget", "shutting_down"]
"""Why samples were refused: the queue was full, they would have come too late, the key's budget or
slots were used up, or the replica was going."""


class RequestMetrics:
    """What is counted for the requests of one signature of one model."""

    def __init__(self, metrics: "Metrics", labels: Mapping[str, str]) -> None:
        self.labels = dict(labels)
        self._metrics = metrics
        self._requests: dict[tuple[str, int], Counter] = {}
        self._dialects: dict[str, _Dialect] = {}

    def answered(
        self,
        api: str,
        code: int,
        seconds: float,
        *,
        first_s: float | None = None,
        num_bytes: int = 0,
    ) -> None:
        """A request was answered with an HTTP status code.

        `first_s`: seconds until its first sample, if it had one; `num_bytes`: sent of it.
        """
        request = self._requests.get((api, code))
        if request is None:
            labels = {**self.labels, "api": api, "code": str(code)}
            request = self._requests[api, code] = self._metrics.requests.labels(**labels)
        request.inc()
        dialect = self._dialects.get(api)
        if dialect is None:
            dialect = self._dialects[api] = _Dialect(self._metrics, api, self.labels)
        dialect.duration.observe(seconds)
        if first_s is not None:
            dialect.first.observe(first_s)
            dialect.sent.inc(num_bytes)


class _Dialect:
    """The children for the requests of one signature in one dialect."""

    def __init__(self, metrics: "Metrics", api: str, labels: Mapping[str, str]) -> None:
        self.duration = metrics.duration.labels(api=api, **labels)
        self.first = metrics.first.labels(api=api, **labels)
        self.sent = metrics.sent.labels(api=api)


class KeyMetrics:
    """What is counted for one name of the keys file, or "" where no key is asked for."""

    def __init__(self, metrics: "Metrics", name: str) -> None:
        self.samples = metrics.key_samples.labels(key=name)
        self.refused = metrics.key_refused.labels(key=name)


class LaneMetrics(RequestMetrics):
    """And for its samples; they are there, at zero, from the first scrape on."""

    def __init__(self, metrics: "Metrics", labels: Mapping[str, str]) -> None:
        super().__init__(metrics, labels)
        self._samples = metrics.samples.labels(**labels)
        self._shed = {
            reason: metrics.shed.labels(**labels, reason=reason) for reason in get_args(Reason)
        }
        self._batch = metrics.batch.labels(**labels)
        self._wait = metrics.wait.labels(**labels)
        self._inference = metrics.inference.labels(**labels)

    @cached_property
    def _steps(self) -> Counter:
        return self._metrics.steps.labels(**self.labels)

    def observe(self, batch: Batch) -> None:
        """A batch ran."""
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
        """A request for `n` samples was refused."""
        self._shed[reason].inc(n)


class Metrics:
    """All metrics of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.requests = counter(
            "aigc_requests_total",
            "Requests answered; model, version and signature are empty where none was found.",
            ("api", *_LANE, "code"),
        )
        self.duration = histogram(
            "aigc_request_duration_seconds",
            "From the request's arrival in the replica to its whole answer.",
            ("api", *_LANE),
        )
        self.first = histogram(
            "aigc_time_to_first_sample_seconds",
            "From the request's arrival in the replica to the first line of a stream, or the whole"
            " answer, made and not yet sent; errors are not counted.",
            ("api", *_LANE),
        )
        self.sent = counter(
            "aigc_response_bytes_total",
            "Bytes in the bodies of answers; errors are not counted.",
            ("api",),
        )
        self.samples = counter("aigc_samples_total", "Samples that a graph gave.", _LANE)
        self.steps = counter(
            "aigc_steps_total",
            "Steps that samples went, where they go by steps: the tokens of texts.",
            _LANE,
        )
        self.shed = counter(
            "aigc_shed_samples_total",
            "Samples refused: overloaded, deadline, budget or shutting_down.",
            (*_LANE, "reason"),
        )
        self.batch = histogram("aigc_batch_samples", "Samples per run of a graph.", _LANE, SAMPLES)
        self.wait = histogram(
            "aigc_queue_wait_seconds", "From a request's submission to its first batch.", _LANE
        )
        self.inference = histogram(
            "aigc_inference_seconds", "Drawing, running and rounding one batch.", _LANE
        )
        self.load = histogram(
            "aigc_model_load_seconds",
            "Opening an artifact and replaying its references.",
            ("model", "version"),
            LOAD_SECONDS,
        )
        self.key_samples = counter(
            "aigc_key_samples_total",
            "Samples drawn, by the key's name; empty where no key is asked for.",
            ("key",),
        )
        self.key_refused = counter(
            "aigc_key_refused_samples_total",
            "Samples refused with 429 because of a key's budget or slots, by the key's name.",
            ("key",),
        )
        self.cost = counter(
            "aigc_cost_total", "What the replicas cost so far, in the unit of their price."
        )
        self.refused_loads = counter(
            "aigc_refused_loads_total",
            "Times that artifacts were refused: the old ones stayed, or a replica did not start.",
        )
        self.refused_keys = counter(
            "aigc_refused_keys_total",
            "Times that a changed keys file was refused and the old keys stayed.",
        )
        self.starts = counter(
            "aigc_replica_starts_total",
            "Replicas started, those included that failed before they were ready.",
        )
        self.starts.inc()  # a process has its metrics once
        self.queued = gauge("aigc_queue_samples", "Samples waiting for a batch.")
        self.max_queued = gauge(
            "aigc_max_queue_samples",
            "Most samples that may wait, over the replicas alive.",
        )
        self.in_progress = gauge("aigc_requests_in_progress", "Requests that are being answered.")
        self.replicas = gauge("aigc_replicas", "Replicas alive, those that still load included.")
        self.ready = gauge(
            "aigc_ready", "Replicas that replayed their references and take requests."
        )
        self.max_replicas = Gauge(
            "aigc_max_replicas",
            "Most replicas that there may be, of all pools together.",
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self._model_replicas = gauge(
            "aigc_model_replicas", "Replicas that host this version.", ("model", "version")
        )
        self._model_info = Gauge(
            "aigc_model_info",
            "1 for each model that is hosted.",
            ("model", "version", "digest", "family"),
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self._models: set[tuple[str, str, str, str]] = set()
        self._lanes: dict[tuple[str, str, str], LaneMetrics] = {}
        self._keys: dict[str, KeyMetrics] = {}
        self.unknown = RequestMetrics(self, dict.fromkeys(_LANE, ""))
        """For requests that name no signature that there is."""

    def _counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """The sum over the processes that live."""
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

    def lane(self, manifest: Manifest, signature: str) -> LaneMetrics:
        """The metrics of a signature, from zero on the first scrape."""
        key = (manifest.name, manifest.version, signature)
        if key not in self._lanes:
            self._lanes[key] = LaneMetrics(self, dict(zip(_LANE, key, strict=True)))
        return self._lanes[key]

    def key(self, name: str) -> KeyMetrics:
        """The metrics of a name that stands in the keys file, or of ""."""
        found = self._keys.get(name)
        if found is None:
            found = self._keys[name] = KeyMetrics(self, name)
        return found

    def name_keys(self, keys: Keys | None) -> None:
        """Have a series for every key, from zero on the first scrape."""
        for name in [key.name for key in keys.all] if keys is not None else [""]:
            self.key(name)

    def loaded(self, manifest: Manifest, seconds: float) -> None:
        """An artifact was opened and proven."""
        self.load.labels(manifest.name, manifest.version).observe(seconds)

    def hosted(self, manifests: Iterable[Manifest]) -> None:
        """State which models there are; those that went are set to 0."""
        now = {(m.name, m.version, m.digest, m.family) for m in manifests}
        self._models |= now
        versions = {labels[:2] for labels in now}
        for labels in self._models:
            self._model_info.labels(*labels).set(labels in now)
            self._model_replicas.labels(*labels[:2]).set(labels[:2] in versions)
