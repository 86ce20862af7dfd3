"""Where the weights of a new run come from: another run, or an artifact that carries them."""

import fsspec
from safetensors.torch import load
from torch import Tensor

from aigc.artifact import Artifact
from aigc.config import require
from aigc.state import TrainState

WEIGHTS = "weights.safetensors"
"""File of an artifact exported with --weights: the whole model, the averaged part averaged."""


def start_from(state: TrainState, reference: str) -> None:
    """Overwrite model and average; optimizers and counters stay new.

    `reference` is a run (folder or URI) or an artifact (folder, STORE/NAME, STORE/NAME@VERSION).
    Raises ValueError if it holds no weights, or those of another model.
    """
    fs, path = fsspec.core.url_to_fs(reference)
    named = _of_run(reference) if fs.exists(f"{path}/config.json") else _of(reference)
    own = state.model.state_dict()
    odd = [name for name in own if name not in named or named[name].shape != own[name].shape]
    odd += [name for name in named if name not in own]
    require(
        not odd,
        f"{reference} is of another model than this run: {odd[0] if odd else ''} differs;"
        " give the model the same sizes",
    )
    state.model.load_state_dict(named)
    state.average.load_state_dict(state.model.averaged().state_dict())


def _of_run(reference: str) -> dict[str, Tensor]:
    from aigc.run import Run

    return dict(Run.open(reference).trained().served().state_dict())


def _of(reference: str) -> dict[str, Tensor]:
    artifact = Artifact.open(reference, verify=False)
    require(
        WEIGHTS in artifact.manifest.files,
        f"{artifact.id} carries no weights to train on; export it with --weights,"
        " or start from its run",
    )
    return load(artifact.read(WEIGHTS))
