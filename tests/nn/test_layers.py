"""Layers that compute what torch's own do, in another way."""

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aigc import models
from aigc.nn.layers import Upsampler
from aigc.nn.resize import ResizeConv2d
from aigc.sealing.onnx_export import to_onnx


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 2), (5, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("width", [3, 8])
def test_single_channel_convolution_equals_torchs(kernel: int, stride: int, width: int) -> None:
    torch.manual_seed(0)
    last = Upsampler(5, (1, 6 * stride, 4 * stride), (width,), (stride,), kernel, "relu", False)[-1]
    plain = nn.ConvTranspose2d(
        width, 1, kernel, stride, last.padding, last.output_padding, bias=True
    )
    plain.load_state_dict(last.state_dict())
    last, plain = last.double(), plain.double()
    assert type(last) is not type(plain)
    x = torch.randn(7, width, 6, 4, dtype=torch.float64, requires_grad=True)
    got, expected = last(x), plain(x)
    assert got.shape == (7, 1, 6 * stride, 4 * stride)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(got)
    mine = torch.autograd.grad((got * weights).sum(), [x, *last.parameters()])
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *plain.parameters()])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("kernel", "scale"), [(3, 2), (5, 2), (1, 2), (3, 3), (3, 1)])
def test_resize_convolution_repeats_pixels_and_convolves(kernel: int, scale: int) -> None:
    torch.manual_seed(0)
    layer = ResizeConv2d(4, 5, kernel, scale).double()
    x = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    repeated = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    mirrored = layer.weight.transpose(0, 1).flip((2, 3))
    expected = F.conv2d(repeated, mirrored, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.process
def test_exported_layer_is_a_convolution(tmp_path: Path) -> None:
    to_onnx(models.build(models.preset("conv_vae:digits")).exports()["decode"], tmp_path / "graph")
    kinds = [node.op_type for node in onnx.load(tmp_path / "graph").graph.node]
    assert kinds.count("ConvTranspose") == 2
    assert "Col2Im" not in kinds
