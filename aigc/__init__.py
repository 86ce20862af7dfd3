"""Generative models from data to endpoint: train, export, evaluate, serve and sample.

    import aigc

    run = aigc.train("fc_gan:mlp", samples=64_000)
    samples, loss = run.curves()["generator/loss"]
    artifact = aigc.export(run, name="digits")
    images = artifact.sample(seed=0, n=16)["image"]      # (16, 1, 28, 28) float32 in [-1, 1]
    with aigc.serve(artifact) as server:
        print(server.url)

Every name is loaded when it is first used: `import aigc` brings neither torch nor Ray nor numpy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc.api import evaluate as evaluate
    from aigc.api import export as export
    from aigc.artifact import Artifact as Artifact
    from aigc.config import TrainConfig as TrainConfig
    from aigc.models import preset as preset
    from aigc.sealing import seal as seal
    from aigc.training.run import Run as Run
    from cluster.api import train as train
    from serve.local.server_process import Server as Server
    from serve.local.server_process import serve as serve

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "Run",
    "Server",
    "TrainConfig",
    "evaluate",
    "export",
    "preset",
    "seal",
    "serve",
    "train",
]

_MODULES = {
    "Artifact": "aigc.artifact",
    "Run": "aigc.training.run",
    "TrainConfig": "aigc.config",
    "evaluate": "aigc.api",
    "export": "aigc.api",
    "preset": "aigc.models",
    "seal": "aigc.sealing",
}
"""Modules of the names in this package; those of the others are entry points (`aigc.api`)."""


def __getattr__(name: str) -> Any:
    """Load a name. Raises ImportError that says what to install if a package is missing."""
    if name not in __all__:
        raise AttributeError(f"module 'aigc' has no attribute {name!r}")
    from aigc.own_code.entry_point import load

    value = load("aigc.api", name, _MODULES.get(name, ""))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
