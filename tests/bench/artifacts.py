"""Artifacts that are measured with: speed does not ask for training."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence


def untrained(*options: str) -> str:
    """Folder of a sealed `digits`: dcgan:digits, changed by options of `aigc train`."""
    return f"{untrained_store('digits', options=options)}/digits/1"


def untrained_store(*names: str, options: Sequence[str] = ()) -> str:
    """A store with the same networks under all these names."""
    storage = tempfile.mkdtemp()
    command = [sys.executable, "-m", "aigc.cli"]
    train = ["train", "dcgan:digits", "--samples", "64", "--storage", storage, "--name", "run"]
    export = ["export", f"{storage}/run", "--out", f"{storage}/store", "--name"]
    for arguments in ([*train, *options], *([*export, name] for name in names)):
        subprocess.run([*command, *arguments], check=True, capture_output=True)
    return f"{storage}/store"
