"""Tensor specs that the signatures of several models share."""

from dataclasses import replace
from typing import Literal

from aigc.artifact.manifest import TensorSpec
from aigc.config import ModelConfig


def latent_spec(config: ModelConfig) -> TensorSpec:
    """A latent drawn from the seed."""
    return TensorSpec(name="latent", kind="latent", dtype="float32", shape=(config.latent,))


def label_spec(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """The class index of a conditional model; nothing for the others.

    Class names are filled in from the data at export.
    """
    if not config.num_classes:
        return ()
    high = float(config.num_classes - 1)
    return (TensorSpec(name="label", kind="label", dtype="int64", shape=(), range=(0.0, high)),)


def sample_spec(config: ModelConfig) -> TensorSpec:
    """The generated samples, in [-1, 1]; vectors are unbounded.

    The sample rate of a sound is filled in from the data at export.
    """
    assert config.modality != "paired", "use part_spec"
    return TensorSpec(
        name=config.modality,
        kind=config.modality,
        dtype="float32",
        shape=config.shape,
        range=None if config.modality == "vector" else (-1.0, 1.0),
    )


def part_spec(config: ModelConfig, modality: Literal["image", "audio", "text"]) -> TensorSpec:
    """One input or output of a model of several modalities.

    Vocabulary and sample rate are filled in from the data at export.
    """
    text = modality == "text"
    return TensorSpec(
        name=modality,
        kind=modality,
        dtype="int64" if text else "float32",
        shape=config.shapes[modality],
        range=(0.0, config.num_tokens - 1.0) if text else (-1.0, 1.0),
    )


def optional_specs(spec: TensorSpec) -> tuple[TensorSpec, TensorSpec]:
    """An input that may be left out, and the flag that says for each row whether it is present."""
    flag = f"{spec.name}_given"
    given = TensorSpec(name=flag, kind="presence", dtype="float32", shape=(), range=(0.0, 1.0))
    return replace(spec, presence=flag), given


def text_spec(config: ModelConfig, name: str = "text") -> TensorSpec:
    """A text, (tokens,) ids; the vocabulary is filled in from the data at export."""
    high = float(config.num_tokens - 1)
    return TensorSpec(name=name, kind="text", dtype="int64", shape=config.shape, range=(0.0, high))


def token_spec(config: ModelConfig) -> TensorSpec:
    """One token of a text."""
    return replace(text_spec(config, "token"), kind="token", shape=())


def token_sampling_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Inputs of artifact/autoregressive.py: noise for every position, and sampling settings."""
    length, high = float(config.shape[0]), float(config.num_tokens - 1)
    return (
        TensorSpec(name="noise", kind="uniform", dtype="float32", shape=config.shape),
        setting_spec("temperature", (0.0, 100.0), 1.0),
        setting_spec("top_k", (0.0, high), 0.0, "int64"),
        setting_spec("max_tokens", (1.0, length), length, "int64"),
    )


def setting_spec(
    name: str,
    span: tuple[float, float],
    default: float,
    dtype: Literal["float32", "int64"] = "float32",
) -> TensorSpec:
    """A number in `span`, both ends included, that the caller may choose."""
    return TensorSpec(name=name, kind="setting", dtype=dtype, shape=(), range=span, default=default)


def vector_spec(name: str, size: int) -> TensorSpec:
    """A vector of unbounded numbers."""
    return TensorSpec(name=name, kind="vector", dtype="float32", shape=(size,))
