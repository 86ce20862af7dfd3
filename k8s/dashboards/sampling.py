"""Sampling: health, latency, throughput, queue, scaling, cost."""

from k8s.dashboards.grafana import GREEN, RED, YELLOW, Dashboard, Row, graph, stat
from k8s.dashboards.ray import OF_NAMESPACE, RAY, firing

OF_MODEL = 'namespace=~"$namespace",model=~"$model"'


def _quantile(quantile: float, metric: str) -> str:
    rate = f"rate({metric}_bucket{{{OF_MODEL}}}[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by (le) ({rate}))"


def _rate(metric: str, by: str = "", more: str = "", labels: str = OF_MODEL) -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{labels}{more}}}[$__rate_interval]))"


REQUESTS = _rate("aigc_requests_total")
ERRORS = _rate("aigc_requests_total", more=',code=~"5.."')

SAMPLING = Dashboard(
    uid="aigc-sampling",
    title="aigc / sampling",
    description="Requests, samples, queues, replicas and cost of what is served.",
    variables=(
        ("namespace", "label_values(aigc_replicas, namespace)"),
        ("model", f"label_values(aigc_samples_total{{{OF_NAMESPACE}}}, model)"),
    ),
    rows=(
        Row(
            title="Health",
            panels=(
                stat(
                    "Ready replicas",
                    "Replicas that replayed their references and take requests. Alert:"
                    " AigcNoReadyReplica.",
                    "short",
                    f"sum(aigc_ready{{{OF_NAMESPACE}}}) or vector(0)",
                    thresholds=((1, GREEN),),
                    falling=True,
                ),
                stat(
                    "Alerts firing",
                    "Alerts of sampling and of Ray; docs/operations.md says what each means.",
                    "short",
                    firing(
                        "Aigc(Error|Latency|NoReady|Saturated|Queue|Requests|References|Metrics"
                        "|Replicas|Keys|Gcs|Scrape).*"
                    ),
                    thresholds=((1, RED),),
                ),
                stat(
                    "Errors",
                    "Share of requests answered with 5xx. Alert above 2 %: AigcErrorRatioHigh.",
                    "percentunit",
                    f"({ERRORS} or 0 * {REQUESTS}) / ({REQUESTS} > 0)",
                    thresholds=((0.005, YELLOW), (0.02, RED)),
                ),
                stat(
                    "p95",
                    "95 % of the requests are answered within this. Alert above 2.5 s:"
                    " AigcLatencyHigh.",
                    "s",
                    _quantile(0.95, "aigc_request_duration_seconds"),
                    thresholds=((1, YELLOW), (2.5, RED)),
                ),
                stat(
                    "Requests",
                    "Requests answered per second.",
                    "reqps",
                    REQUESTS,
                ),
                stat(
                    "Samples",
                    "Samples per second that the graphs gave.",
                    "short",
                    _rate("aigc_samples_total"),
                ),
                stat(
                    "Queue",
                    "Samples that wait, of those that may. Alert above 80 %: AigcQueueFull.",
                    "percentunit",
                    f"sum(aigc_queue_samples{{{OF_NAMESPACE}}})"
                    f" / (sum(aigc_max_queue_samples{{{OF_NAMESPACE}}}) > 0)",
                    thresholds=((0.5, YELLOW), (0.8, RED)),
                ),
                stat(
                    "Cost of 1,000",
                    "What 1,000 samples cost, mean of an hour, in the unit of"
                    " --price-per-replica-hour.",
                    "short",
                    f"avg(namespace:aigc_cost_per_1000_samples:rate1h{{{OF_NAMESPACE}}})",
                ),
            ),
        ),
        Row(
            title="Latency",
            panels=(
                graph(
                    "Request duration",
                    "From a request's arrival in a replica to its whole answer.",
                    "s",
                    (_quantile(0.5, "aigc_request_duration_seconds"), "p50"),
                    (_quantile(0.95, "aigc_request_duration_seconds"), "p95"),
                    (_quantile(0.99, "aigc_request_duration_seconds"), "p99"),
                ),
                graph(
                    "Where the time goes, p95",
                    "In the queue, in the graph, and until the first sample of an answer.",
                    "s",
                    (_quantile(0.95, "aigc_queue_wait_seconds"), "in the queue"),
                    (_quantile(0.95, "aigc_inference_seconds"), "in the graph"),
                    (_quantile(0.95, "aigc_time_to_first_sample_seconds"), "to the first sample"),
                ),
                graph(
                    "p95 by model",
                    "As the alert AigcLatencyHigh sees it: over 5 minutes.",
                    "s",
                    (
                        f"namespace_model:aigc_request_duration_seconds:p95_5m{{{OF_MODEL}}}",
                        "{{model}}",
                    ),
                ),
            ),
        ),
        Row(
            title="Throughput",
            panels=(
                graph(
                    "Requests by status",
                    "Answers per second. 499: the client hung up; 503: refused for want of"
                    " capacity.",
                    "reqps",
                    (_rate("aigc_requests_total", "code"), "{{code}}"),
                    stacked=True,
                    colours=(("2..", GREEN), ("4..", YELLOW), ("5..", RED)),
                ),
                graph(
                    "Samples by model",
                    "Samples per second that the graphs gave.",
                    "short",
                    (_rate("aigc_samples_total", "model"), "{{model}}"),
                    stacked=True,
                ),
                graph(
                    "Samples per batch",
                    "Mean size of a run of a graph: it grows with load, which is how batching"
                    " works.",
                    "short",
                    (
                        f"{_rate('aigc_batch_samples_sum', 'model')}"
                        f" / ({_rate('aigc_batch_samples_count', 'model')} > 0)",
                        "{{model}}",
                    ),
                ),
            ),
        ),
        Row(
            title="Queue",
            panels=(
                graph(
                    "Samples waiting",
                    "Samples in the queues of all replicas, and how many may be. Alert:"
                    " AigcQueueFull.",
                    "short",
                    (f"sum(aigc_queue_samples{{{OF_NAMESPACE}}})", "waiting"),
                    (f"sum(aigc_max_queue_samples{{{OF_NAMESPACE}}})", "most"),
                    dashed=("most",),
                ),
                graph(
                    "Samples refused",
                    "Per second and reason: the queue was full, they would have come too late, a"
                    " key's budget was spent, the replica was going. Alert: AigcRequestsShed.",
                    "short",
                    (_rate("aigc_shed_samples_total", "reason"), "{{reason}}"),
                    stacked=True,
                ),
                graph(
                    "Requests in progress",
                    "Requests being answered now.",
                    "short",
                    (f"sum(aigc_requests_in_progress{{{OF_NAMESPACE}}})", "in progress"),
                ),
            ),
        ),
        Row(
            title="Scaling",
            panels=(
                graph(
                    "Replicas",
                    "Ready, wanted by the autoscaler, and the most that there may be.",
                    "short",
                    (f"sum(aigc_ready{{{OF_NAMESPACE}}})", "ready"),
                    (
                        f"sum(max by (deployment) (ray_serve_autoscaling_target_replicas"
                        f"{{{OF_NAMESPACE}}}))",
                        "wanted",
                    ),
                    (f"max(aigc_max_replicas{{{OF_NAMESPACE}}})", "most"),
                    dashed=("most",),
                ),
                graph(
                    "Busy",
                    "Share of the time for which ready replicas run a graph; the autoscaler aims"
                    " at 70 %. Alert above 90 % with no replica left to add: AigcSaturated.",
                    "percentunit",
                    (
                        f"{_rate('aigc_inference_seconds_sum', labels=OF_NAMESPACE)}"
                        f" / (sum(aigc_ready{{{OF_NAMESPACE}}}) > 0)",
                        "busy",
                    ),
                    most=1,
                ),
                graph(
                    "Starts and refusals",
                    "Replicas started, artifacts and keys files refused, per hour. Alerts:"
                    " AigcReplicasRestarting, AigcReferencesFailed, AigcKeysRefused,"
                    " AigcMetricsLost.",
                    "short",
                    (f"sum(increase(aigc_replica_starts_total{{{OF_NAMESPACE}}}[1h]))", "starts"),
                    (
                        f"sum(increase(aigc_refused_loads_total{{{OF_NAMESPACE}}}[1h]))",
                        "artifacts refused",
                    ),
                    (
                        f"sum(increase(aigc_refused_keys_total{{{OF_NAMESPACE}}}[1h]))",
                        "keys refused",
                    ),
                    (f"max(aigc_metrics_lost{{{OF_NAMESPACE}}})", "metrics lost"),
                ),
            ),
        ),
        Row(
            title="Cost and clients",
            panels=(
                graph(
                    "Cost per hour",
                    "In the unit of --price-per-replica-hour.",
                    "short",
                    (f"3600 * {_rate('aigc_cost_total', labels=OF_NAMESPACE)}", "per hour"),
                ),
                graph(
                    "Cost of 1,000 samples",
                    "Mean of an hour, in the same unit.",
                    "short",
                    (
                        f"avg(namespace:aigc_cost_per_1000_samples:rate1h{{{OF_NAMESPACE}}})",
                        "1,000 samples",
                    ),
                ),
                graph(
                    "Samples by key",
                    "The ten keys that draw most, by their names in the keys file; without keys"
                    " the name is empty.",
                    "short",
                    (
                        f"topk(10, {_rate('aigc_key_samples_total', 'key', labels=OF_NAMESPACE)})",
                        "{{key}}",
                    ),
                ),
            ),
        ),
        RAY,
    ),
)
