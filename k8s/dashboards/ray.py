"""Panels about the Ray cluster, shared by both dashboards."""

from k8s.dashboards.grafana import Row, graph

OF_NAMESPACE = 'namespace=~"$namespace"'


def firing(names: str) -> str:
    alerts = f'ALERTS{{alertname=~"{names}",alertstate="firing",{OF_NAMESPACE}}}'
    return f"count({alerts}) or vector(0)"


RAY = Row(
    title="Ray",
    panels=(
        graph(
            "Nodes",
            "Nodes of the Ray cluster, and those that its autoscaler has asked for.",
            "short",
            (f"sum(autoscaler_active_nodes{{{OF_NAMESPACE}}})", "active"),
            (f"sum(autoscaler_pending_nodes{{{OF_NAMESPACE}}})", "pending"),
        ),
        graph(
            "CPU per node",
            "Share of each node's processors in use. Alert on the cluster's head: AigcGcsDown.",
            "percentunit",
            (f"max(ray_node_cpu_utilization{{{OF_NAMESPACE}}}) / 100", "busiest"),
            (f"avg(ray_node_cpu_utilization{{{OF_NAMESPACE}}}) / 100", "mean"),
            most=1,
        ),
        graph(
            "Memory per node",
            "Share of each node's memory in use; Ray kills workers above 95 %.",
            "percentunit",
            (
                f"max(ray_node_mem_used{{{OF_NAMESPACE}}} / ray_node_mem_total{{{OF_NAMESPACE}}})",
                "fullest",
            ),
            most=1,
        ),
    ),
)
