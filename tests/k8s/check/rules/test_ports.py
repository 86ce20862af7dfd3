"""Ports that go by a name which nothing declares."""

from copy import deepcopy

from tests.k8s.check.mutation import WHOLE, Mutation, findings, one

MUTATIONS = [
    Mutation(
        rule="ports/pod_monitors",
        object="PodMonitor/ray",
        path="spec.podMetricsEndpoints[1].port",
        value="as-metric",
        says="no container of its pods declares a port 'as-metric'; there are: as-metrics, metrics,"
        " serve; did you mean 'as-metrics'?",
    ),
    Mutation(
        rule="ports/service_monitors",
        object="ServiceMonitor/web",
        path="spec.endpoints[0].port",
        value="metrics",
        says="no Service that it selects has a port 'metrics'; there are: http",
    ),
    Mutation(
        rule="ports/services",
        object="Service/web",
        path="spec.ports[0].targetPort",
        value="https",
        says="declares a port 'https'; there are: http; did you mean 'http'?",
    ),
    Mutation(
        rule="ports/backends",
        object="Ingress/web",
        path="spec.rules[0].http.paths[0].backend.service.port.name",
        value="web",
        says="Service web has no port 'web'; there are: http=80",
    ),
    Mutation(
        rule="ports/backends",
        object="Ingress/web",
        path="spec.rules[0].http.paths[1].backend.service.port.number",
        value=8265,
        says="Service sampling-serve-svc has no port 8265; there are: serve=8000",
    ),
    Mutation(
        rule="ports/network_policies",
        object="NetworkPolicy/redis",
        path="spec.ingress[0].ports[0].port",
        value="rediss",
        says="declares a port 'rediss'; there are: redis",
    ),
    Mutation(
        rule="ports/network_policies",
        object="NetworkPolicy/redis",
        path="spec.egress",
        value=[
            {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "web"}]}
        ],
        found="spec.egress[0].ports[0].port",
        says="declares a port 'web'; there are: http",
    ),
    Mutation(
        rule="ports/probes",
        object="Deployment/web",
        path="spec.template.spec.containers[0].readinessProbe.httpGet.port",
        value="health",
        says="the container declares no port 'health'; there are: http",
    ),
]


def test_kuberay_service_ports_are_known() -> None:
    documents = deepcopy(WHOLE)
    backend = one(documents, "Ingress/web")["spec"]["rules"][0]["http"]["paths"][1]["backend"]
    backend["service"] = {"name": "sampling-head-svc", "port": {"name": "metrics"}}
    assert findings(documents) == []
    backend["service"]["port"] = {"name": "dashboard"}  # its head declares serve and as-metrics
    assert [each.rule for each in findings(documents)] == ["ports/backends"]
    head = one(documents, "RayService/sampling")["spec"]["rayClusterConfig"]["headGroupSpec"]
    del head["template"]["spec"]["containers"][0]["ports"]  # then KubeRay's own are there
    assert [each.rule for each in findings(documents)] == ["ports/pod_monitors"]


def test_probe_may_use_kuberay_ports_or_numbers() -> None:
    documents = deepcopy(WHOLE)
    head = one(documents, "RayService/sampling")["spec"]["rayClusterConfig"]["headGroupSpec"]
    container = head["template"]["spec"]["containers"][0]
    for port in ("metrics", "8265", 8265):
        container["livenessProbe"] = {"tcpSocket": {"port": port}}
        assert findings(documents) == []
    container["livenessProbe"] = {"tcpSocket": {"port": "metric"}}
    assert [each.rule for each in findings(documents)] == ["ports/probes"]


def test_prometheus_operator_services_are_known() -> None:
    documents = deepcopy(WHOLE)
    group = "monitoring.coreos.com/v1"
    metadata = {"name": "k8s", "namespace": "prod"}
    documents.append({"apiVersion": group, "kind": "Prometheus", "metadata": metadata, "spec": {}})
    monitor = one(documents, "ServiceMonitor/web")["spec"]
    monitor["selector"] = {"matchLabels": {"operated-prometheus": "true"}}
    monitor["endpoints"] = [{"port": "web"}]
    assert findings(documents) == []
    monitor["endpoints"] = [{"port": "http"}]
    assert [each.rule for each in findings(documents)] == ["ports/service_monitors"]


def test_gateway_api_routes_are_followed() -> None:
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "prod"},
        "spec": {"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
    }
    assert findings([*WHOLE, route]) == []
    route["spec"] = {"rules": [{"backendRefs": [{"name": "web", "port": 8080}]}]}
    (found,) = findings([*WHOLE, route])
    assert (found.path, found.kind) == ("spec.rules[0].backendRefs[0].port", "HTTPRoute")
