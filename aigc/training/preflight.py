"""Trial of a new training on two rows, before it starts.

    for warning in rehearse(config, source): ...

Tries the losses of every phase, the snapshot of a checkpoint, samples as grids and `aigc sample`
write them, every exported signature, and the test data of evaluation. It uses a model of its own
and restores the random generator, so training is not affected.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from aigc import data, models
from aigc.artifact import image_files
from aigc.artifact.sampling_inputs import is_picture
from aigc.config import TrainConfig
from aigc.data import PATHLESS, Source
from aigc.metrics import distance_to, evaluator_of
from aigc.metrics.degradation import restores
from aigc.model import GenerativeModel
from aigc.own_code import code_files
from aigc.rng import BatchRNG
from aigc.training import checkpoint, stopping
from aigc.training.dataloader import batch_of
from aigc.training.loop import TrainState
from aigc.training.pictures import picture
from aigc.training.quality import generate, main_export, metric_name
from aigc.training.run import load_initial_weights

ROWS = 2


def rehearse(config: TrainConfig, source: Source) -> list[str]:
    """Warnings about features that will not work although training does.

    Raises ValueError if the run would be useless: the model cannot take the data or the initial
    weights, or its samples cannot be written to files. Raises CorruptRow.
    """
    with torch.random.fork_rng(devices=[]), _one_thread():
        state = TrainState(config, "cpu")
        if config.init_from:
            load_initial_weights(state, config.init_from)
        with _prefix_errors("no batch of this data can be trained on"):
            _losses(config, state, source)
        with _prefix_errors("no checkpoint can be made of this model"):
            checkpoint.snapshot(state, {})
        model = state.ema_model()
        with _prefix_errors("no samples can be drawn from this model"):
            _draw_samples(model, source)
    return [
        *effect_warnings(config),
        *_channel_warnings(config),
        *_quality_warnings(config, model),
        *_evaluation_warnings(config, source),
    ]


def check_rules(config: TrainConfig, source: Source) -> None:
    """Raise ValueError if --until or --patience can never end this run."""
    if not config.until and not config.patience:
        return
    stopping.check(config, measured_metric(config, source))


def measured_metric(config: TrainConfig, source: Source) -> str:
    """Name of the quality that is measured during training; empty if nothing measures it."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        model = TrainState(config, "cpu").ema_model()
    nothing = [*_quality_warnings(replace(config, evaluate_interval=1), model)]
    return "" if nothing else metric_name(config, model, source.classes)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one torch thread: two rows take less time than starting several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _prefix_errors(what: str) -> Iterator[None]:
    """Turn any error into a ValueError that begins with `what`."""
    try:
        yield
    except data.CorruptRow:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        where = f" ({place})" if (place := code_files.place(error)) else ""
        raise ValueError(f"{what}: {kind}{message[:500]}{where}") from error


def _losses(config: TrainConfig, state: TrainState, source: Source) -> None:
    """Compute the loss and the gradients of every phase on the first rows."""
    like = next(state.model.parameters())
    rows = [row % len(source) for row in range(ROWS)]
    batch = batch_of(source, rows, config.model.modality, like, config.data.on_error)
    noise = BatchRNG(config.seed, 0, ROWS, 0, ROWS, like, config.samples)
    shared = state.model.prepare(batch, noise, {phase.name for phase in state.phases})
    for phase in state.phases:
        loss, _ = state.model.whole_loss(phase.name, batch, noise, shared)
        parameters = list(phase.module.parameters())
        torch.autograd.grad(loss, parameters, retain_graph=True)
    with torch.no_grad():
        sums = state.model.batch_sums(batch, noise, shared)
        if sums:
            state.model.update(sums)


def _draw_samples(model: GenerativeModel, source: Source) -> None:
    """Draw samples, and encode images as PNG, alone and as a grid; make images of images."""
    signature = main_export(model)[1].signature
    if not signature.drawable:
        if restores(signature):
            rows, _ = data.gather(source, range(min(ROWS, len(source))), "skip")
            picture(model, lambda n: data.scaled(rows)[:n])
        return
    samples = generate(model, range(ROWS), torch.arange(ROWS))
    for spec in signature.outputs:
        if is_picture(spec):
            low, high = spec.range or (-1.0, 1.0)
            images = image_files.to_uint8(samples[spec.name], low, high)
            image_files.png(images[0])
            image_files.png(image_files.grid(images))


def effect_warnings(config: TrainConfig) -> Iterator[str]:
    """Warnings about fields that differ from the preset's and do nothing."""
    try:
        preset = models.preset(config.preset).model
    except ValueError:  # a config of no preset: nothing says which fields were set
        return
    for name, reason in config.model.without_effect().items():
        if getattr(config.model, name, None) != getattr(preset, name, None):
            yield f"--model.{name.replace('_', '-')} has no effect: {reason}"


def _channel_warnings(config: TrainConfig) -> Iterator[str]:
    for key, shape in config.model.shapes.items():
        if key == "image" and not image_files.fits_png(shape[0]):
            yield (
                f"images of {shape[0]} channels are not pictures (grey, grey and alpha, RGB and"
                " RGBA are): samples will be arrays of numbers, and grids and `--picture` are left"
                " out"
            )


def _quality_warnings(config: TrainConfig, model: GenerativeModel) -> Iterator[str]:
    modality, signature = config.model.modality, main_export(model)[1].signature
    if config.quality and not config.evaluate_interval:
        yield "--quality has no effect without --evaluate-interval"
    if not config.evaluate_interval:
        return
    if not signature.drawable:
        if not restores(signature):
            yield (
                "--evaluate-interval has no effect: no signature is drawn from a seed or makes"
                " images of images"
            )
    elif distance_to(modality, config.quality) is None:
        yield f"--evaluate-interval has no effect: nothing measures the quality of {modality}"


def _evaluation_warnings(config: TrainConfig, source: Source) -> Iterator[str]:
    """Warnings about missing test rows, which `aigc evaluate` compares with."""
    if evaluator_of(config.model.modality) is None or config.data.source in PATHLESS:
        return
    survey = getattr(getattr(source, "origin", None) or source, "survey", None)
    if survey is not None and survey.splits:
        lacks = sum(rows > 0 for rows in survey.splits.values()) < 2
    else:
        try:
            lacks = not len(data.load(replace(config.data, memory_mb=0), config.model, "test"))
        except Exception as error:  # any error of the test data; training does not need them
            message = " ".join(str(error).split()) or type(error).__name__
            yield f"`aigc evaluate` will not work on this data; its test rows: {message}"
            return
    if lacks:
        yield (
            f"`aigc evaluate` will have nothing to compare with: data {source.name!r} has no test"
            " rows; training is not affected"
        )
