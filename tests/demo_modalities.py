"""`make demo-modalities`: text, sound and one from another, by the commands of docs/models.md.

The first ```bash block of docs/models.md that trains is the script. What it leaves lies below
samples/: texts, WAVs that say what spoke them, and pictures. AIGC_DEMO_SAMPLES shortens training.
"""

import json
import os
import re
import sys
from pathlib import Path

from tests.demo import ROOT, SAMPLES, road, walk

ARTIFACTS = Path("artifacts")
SHOWN = (".txt", ".wav", ".png")


def main() -> int:
    """Run the road. Exit status as tests.demo.walk() has it."""
    commands = road(ROOT / "docs" / "models.md")
    if samples := os.environ.get("AIGC_DEMO_SAMPLES"):
        trained = [re.sub(r" --samples \d+", "", command) for command in commands]
        commands = [
            f"{command} --samples {samples}" if command.startswith("aigc train") else command
            for command in trained
        ]
    return walk(commands, summary)


def summary(port: int, took: float) -> str:
    """Figures of each model beside those of real data, and the place of its samples."""
    lines = [""]
    for folder in sorted(path for path in ARTIFACTS.iterdir() if path.is_dir()):
        versions = [path for path in folder.iterdir() if path.name.isdigit()]
        newest = max(versions, key=lambda path: int(path.name))
        manifest = json.loads((newest / "manifest.json").read_text())
        metrics = manifest["metrics"]
        trained = f"{manifest['training']['samples']:,} samples"
        lines.append(f"{newest}  ({manifest['model']}, {trained})")
        lines += [
            f"  {name:<36} {metrics[name]:.4g}"
            + (f"  (real data {metrics[f'{name}/real']:.4g})" if f"{name}/real" in metrics else "")
            for name in metrics
            if not name.endswith(("/real", "/low", "/high"))
        ]
    files = sorted(path for path in SAMPLES.rglob("*") if path.suffix in SHOWN)
    lines += ["", f"{len(files)} texts, sounds and pictures below {SAMPLES}/", f"took {took:.0f} s"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
