"""The two Grafana dashboards, written as Python and kept as JSON beside the rules.

python -m k8s.dashboards        # writes k8s/components/monitoring/dashboards/*.json
"""

from pathlib import Path

from k8s.dashboards.sampling import SAMPLING
from k8s.dashboards.training import TRAINING

FOLDER = Path(__file__).parents[1] / "components" / "monitoring" / "dashboards"

DASHBOARDS = {"sampling": SAMPLING, "training": TRAINING}
