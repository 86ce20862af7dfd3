"""Artifacts that are measured with: speed does not ask for training."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence


def untrained(*options: str) -> str:
    """Folder of a sealed `digits`: dcgan:digits, changed by options of `aigc train`."""
    return f"{untrained_store('digits', options=options)}/digits/1"


def untrained_texts() -> str:
    """Folder of a sealed `words`: text_vae:numbers, whose texts end at random."""
    return f"{untrained_store('words', preset='text_vae:numbers')}/words/1"


def untrained_store(*names: str, options: Sequence[str] = (), preset: str = "dcgan:digits") -> str:
    """A store with the same networks under all these names."""
    storage = tempfile.mkdtemp()
    command = [sys.executable, "-m", "aigc.cli"]
    train = ["train", preset, "--samples", "64", "--storage", storage, "--name", "run"]
    export = ["export", f"{storage}/run", "--out", f"{storage}/store", "--name"]
    for arguments in ([*train, *options], *([*export, name] for name in names)):
        subprocess.run([*command, *arguments], check=True, capture_output=True)
    return f"{storage}/store"
