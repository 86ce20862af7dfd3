"""Write the JSON of both dashboards."""

from k8s.dashboards import DASHBOARDS, FOLDER
from k8s.dashboards.grafana import text

for name, dashboard in DASHBOARDS.items():
    (FOLDER / f"{name}.json").write_text(text(dashboard))
