"""`make demo-images`: an autoencoder, a generator, an upscaler and an inpainter of pictures.

The first ```bash block of docs/image-models.md that trains is the script. AIGC_DEMO_SAMPLES
shortens training.
"""

import os
import re
import sys

from tests.demo import ROOT, road, walk
from tests.demo_modalities import summary


def main() -> int:
    """Run the road. Exit status as tests.demo.walk() has it."""
    commands = road(ROOT / "docs" / "image-models.md")
    if samples := os.environ.get("AIGC_DEMO_SAMPLES"):
        commands = [
            f"{re.sub(r' --samples [0-9]+', '', command)} --samples {samples}"
            if command.startswith("aigc train")
            else command
            for command in commands
        ]
    return walk(commands, summary)


if __name__ == "__main__":
    sys.exit(main())
