"""`aigc.train`: the command of that name as a function."""

from pathlib import Path
from typing import Any, Literal

import torch

from aigc import models, recipe
from aigc.config import TrainConfig
from aigc.training.run import Run
from cluster.train import Options, check_options, run_with


def train(
    config: TrainConfig | Run | str | Path,
    *,
    workers: int | str = 0,
    name: str = "",
    storage: str | Path = "runs",
    resume: bool = False,
    code: Literal["same", "new"] = "same",
    address: str = "",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    resize_interval_s: float = 60.0,
    metrics_port: int | None = None,
    **changes: Any,
) -> Run:
    """Train a model in this process, or on Ray with workers; returns the run.

        run = aigc.train("dcgan", data={"path": "pictures/"}, samples=200_000)

    config: MODEL[:PRESET], also of your own (`./resgan.py:small`); a YAML file (.yaml, .yml) as
    `aigc train --save` writes it; a TrainConfig; or a Run, which continues with resume and else
    gives its config to a new one. workers: Ray Train workers, a number or "MIN..MAX"; 0 trains in
    this process. name: of the run, MODEL-PRESET by default. storage: folder or object store of the
    runs. resume: continue the run of that name. changes: fields of TrainConfig by name; those of
    model and data as mappings of their fields. The rest is as in `aigc train --help`. Shape,
    classes and vocabulary of data other than the preset's follow from the data, unless they are
    given.

    Ctrl-C ends the run after its batch, with a checkpoint, and the call returns. Raises ValueError
    for a config or data that do not fit, or if the run exists and resume is not set; Diverged.
    """
    folder = config.folder if isinstance(config, Run) else None
    base = _config_of(config)
    options = Options(
        config=recipe.changed(base, changes),
        workers=str(workers),
        name=name or (folder.name if folder and resume else models.run_name(base)),
        storage=str(folder.parent if folder and resume else storage),
        resume=resume,
        code=code,
        address=address,
        device=device,
        resize_interval_s=resize_interval_s,
        metrics_port=metrics_port,
    )
    given = {f"{part}.{key}" for part in ("model", "data") for key in changes.get(part, ())}
    threads = torch.get_num_threads()
    try:
        return run_with(check_options(options, base.preset), base.data, given)[0]
    finally:
        torch.set_num_threads(threads)


def _config_of(config: TrainConfig | Run | str | Path) -> TrainConfig:
    if isinstance(config, Run):
        return config.config()
    if isinstance(config, TrainConfig):
        return config
    if str(config).endswith((".yaml", ".yml")):
        return recipe.read(Path(config))
    return models.preset(str(config))
