"""Artifacts that are measured with: speed does not ask for training."""

import subprocess
import sys
import tempfile


def untrained(*options: str) -> str:
    """Folder of a sealed `digits`: dcgan:digits, changed by options of `aigc train`."""
    storage = tempfile.mkdtemp()
    command = [sys.executable, "-m", "aigc.cli"]
    train = ["train", "dcgan:digits", "--samples", "64", "--storage", storage, "--name", "run"]
    export = ["export", f"{storage}/run", "--name", "digits", "--out", f"{storage}/store"]
    for arguments in ([*train, *options], export):
        subprocess.run([*command, *arguments], check=True, capture_output=True)
    return f"{storage}/store/digits/1"
