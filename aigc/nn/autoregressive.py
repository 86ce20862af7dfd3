"""An autoregressive signature in torch, the reference that its exported graph is compared with."""

import torch
from torch import Tensor, nn

from aigc.artifact import Signature, autoregressive
from aigc.artifact.sampling_inputs import Arrays


class AutoregressiveModule(nn.Module):
    """The loop of artifact/autoregressive.py around a torch module.

    Its forward takes and returns the tensors of `signature` in order, that of `module` those of
    `step`.
    """

    def __init__(self, signature: Signature, step: Signature, module: nn.Module) -> None:
        super().__init__()
        self.signature, self.step, self.module = signature, step, module

    def forward(self, *inputs: Tensor) -> Tensor:
        """The signature's inputs in order -> (N, L) int64 on the CPU, which chooses the tokens."""
        names = [spec.name for spec in self.signature.inputs]
        arrays = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        outputs = autoregressive.generate(self.signature, self.step, self._run, arrays)
        return torch.from_numpy(outputs[self.signature.outputs[0].name])

    def _run(self, feeds: Arrays) -> Arrays:
        device = next(self.module.parameters()).device
        tensors = [torch.from_numpy(feeds[spec.name]).to(device) for spec in self.step.inputs]
        with torch.no_grad():
            outputs = self.module(*tensors)
        names = [spec.name for spec in self.step.outputs]
        return {name: x.cpu().numpy() for name, x in zip(names, outputs, strict=True)}
