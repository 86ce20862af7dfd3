"""A signature that is written token by token, in torch: what its step graph is proven against."""

import torch
from torch import Tensor, nn

from aigc.artifact import Signature, steps
from aigc.artifact.contract import Arrays


class Stepped(nn.Module):
    """The loop of artifact/steps.py round a torch module: takes and gives `signature`'s tensors.

    The module's forward takes and gives the tensors of `step` in order.
    """

    def __init__(self, signature: Signature, step: Signature, module: nn.Module) -> None:
        super().__init__()
        self.signature, self.step, self.module = signature, step, module

    def forward(self, *inputs: Tensor) -> Tensor:
        """The signature's inputs in order -> (N, L) int64."""
        names = [spec.name for spec in self.signature.inputs]
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        found = steps.whole(self.signature, self.step, self._run, arrays)
        return torch.from_numpy(found[self.signature.outputs[0].name])

    def _run(self, feeds: Arrays) -> Arrays:
        tensors = [torch.from_numpy(feeds[spec.name]) for spec in self.step.inputs]
        with torch.no_grad():
            outputs = self.module(*tensors)
        names = [spec.name for spec in self.step.outputs]
        return {name: x.numpy() for name, x in zip(names, outputs, strict=True)}
