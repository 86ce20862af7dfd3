"""The state that training changes and a checkpoint holds."""

import copy

import torch

from aigc import models
from aigc.config import TrainConfig
from aigc.config.schedule import Scheduled, value_at
from aigc.model import GenerativeModel
from aigc.rng import derive_seed
from aigc.training.optimizers import build, set_numbers


class TrainState:
    """Model, optimizers, moving average and counters of a run, initialised from its seed."""

    def __init__(self, config: TrainConfig, device: torch.device | str = "cpu") -> None:
        torch.manual_seed(derive_seed(f"{config.seed}/initial"))
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        model = models.build(config).to(device, dtype)
        self.model: GenerativeModel = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.phases = self.model.phases()
        self.optimizers = [build(phase.optimizer, phase.module) for phase in self.phases]
        self.run_samples = config.samples
        self.ema = copy.deepcopy(self.model.averaged()).requires_grad_(False)
        self.samples = 0
        self.batches = 0
        self.rate_scale = 1.0
        """Factor of all learning rates; a rollback lowers it."""

    def ema_model(self) -> GenerativeModel:
        """A copy of the model with the averaged weights in it, in eval mode."""
        model = copy.deepcopy(self.model)
        model.averaged().load_state_dict(self.ema.state_dict())
        return model.eval()

    def set_rates(self) -> None:
        """Give every optimizer the numbers of its next step."""
        for phase, optimizer in zip(self.phases, self.optimizers, strict=True):
            left = phase.rate_left(self.samples) * self.rate_scale
            set_numbers(optimizer, phase.optimizer, self.samples, self.run_samples, left)

    def update_ema(self, half_life: Scheduled, warmup: float, batch: int) -> None:
        """Exponential moving average of weights and buffers (Karras et al. 2018, section 4.1).

        The half-life is at most `warmup` times the samples seen (Karras et al. 2020, StyleGAN2).
        With a half-life of 0 the average equals the weights.
        """
        now = value_at(half_life, self.samples, self.run_samples)
        limit = min(now, self.samples * warmup)
        weight = 1 - 0.5 ** (batch / limit) if limit > 0 else 1.0
        source, target = self.model.averaged(), self.ema
        pairs = [
            *zip(target.parameters(), source.parameters(), strict=True),
            *zip(target.buffers(), source.buffers(), strict=True),
        ]
        floating = [(t, s) for t, s in pairs if t.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([t for t, _ in floating], [s for _, s in floating], weight)
            for t, s in pairs:
                if not t.is_floating_point():
                    t.copy_(s)
