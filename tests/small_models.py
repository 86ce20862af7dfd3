"""Presets made smaller for tests: the same networks, of a size for a core."""

from dataclasses import fields, replace
from typing import Any

from aigc.config import TrainConfig

AUDIO: dict[str, Any] = {
    "window": 64,
    "hop": 16,
    "decoder_widths": (16, 16, 16),
    "style": 8,
    "bands": 16,
    "ripple_bands": 4,
    "hidden": 32,
}
SMALLER: dict[str, dict[str, Any]] = {
    "audio_vae": AUDIO
    | {"shape": (1, 512), "encoder_widths": (16, 16), "couplings": 2, "prior_width": 16},
    "multimodal_vae": AUDIO
    | {"samples": 512, "audio_widths": (16, 16), "image_widths": (8, 16), "components": 10}
    | {"flow_layers": 2, "flow_width": 16},
    "wavegan": {"shape": (1, 256), "widths": (16, 8), "latent": 16},
    "autoencoder": {"shape": (3, 16, 16), "widths": (4, 8), "latent": 4},
    "autoencoder:kl4": {"widths": (8,)},
    "autoencoder:vq8": {"codes": 16},
    "resnet_gan": {
        "shape": (3, 16, 16),
        "generator_width": 4,
        "discriminator_width": 4,
        "widest": 8,
    }
    | {"latent": 4},
    "style_gan": {"shape": (3, 16, 16), "generator_width": 4, "discriminator_width": 4, "widest": 8}
    | {"latent": 4, "mapping_layers": 2},
    "autoencoder:kl8_gan": {"adversarial_weight": 0.5, "discriminator_widths": (4, 8)},
    "autoencoder:kl8_prior": {"prior_weight": 1.0, "prior_width": 8},
    "autoencoder:kl8_256": {"patch": 4, "blocks": 1, "largest": 32, "adversarial_weight": 0.5}
    | {"discriminator_widths": (4, 8)},
    "upscaler": {"shape": (3, 16, 16), "width": 8, "blocks": 1, "crop": 16, "largest": 24},
    "upscaler:x2_gan": {"adversarial_weight": 0.5, "discriminator_widths": (4, 8)},
    "denoiser": {"shape": (3, 16, 16), "width": 8, "blocks": 1, "crop": 8, "largest": 24},
    "inpainter": {"shape": (3, 16, 16), "width": 8, "blocks": 1, "crop": 16, "largest": 24}
    | {"far_windows": (3,), "windows": (3,), "diffusion_steps": 2},
    "vocoder": {
        "shape": (1, 1024),
        "window": 64,
        "hop": 16,
        "crop": 512,
        "mel_windows": (32, 64),
        "stft_windows": (64,),
        "bands": 8,
        "width": 8,
        "hidden": 16,
        "blocks": 2,
        "largest": 96,
        "period_widths": (4, 8),
        "resolutions": (64,),
        "resolution_width": 4,
    },
    "vocoder:speech8k_gan": {"adversarial_weight": 0.5},
    "dcgan:article": {"generator_widths": (32, 16, 8)},
    "dcgan:pictures64": {
        "shape": (3, 16, 16),
        "generator_widths": (16, 8),
        "generator_strides": (2, 2),
        "discriminator_widths": (8, 16),
    },
    "conv_vae:pictures64": {"shape": (3, 16, 16), "widths": (8, 16), "latent": 8},
    "classifier": {"shape": (1, 8, 8), "widths": (4, 8), "latent": 8},
}
"""Smaller sizes for models and presets whose graphs take long; the operators are the same."""


def smaller(config: TrainConfig) -> TrainConfig:
    """The preset with the sizes of SMALLER."""
    changes = SMALLER.get(config.model_name, {}) | SMALLER.get(config.preset, {})
    return replace(config, model=replace(config.model, **changes))


def narrow(config: TrainConfig, most: int = 16) -> TrainConfig:
    """The preset with layers of at most `most` channels, at the shape of its data."""
    changes = {
        field.name: tuple(min(width, most) for width in getattr(config.model, field.name))
        for field in fields(config.model)
        if field.name.endswith("widths")
    }
    return replace(config, model=replace(config.model, **changes))
