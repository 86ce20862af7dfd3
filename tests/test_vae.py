"""The VAE family's flow: it draws samples and leaves the networks' training alone."""

from dataclasses import replace

import torch
from torch import Tensor

from aigc.models import conv_vae
from aigc.rng import BatchRNG

CONFIG = conv_vae.Config(shape=(1, 8, 8), latent=5, widths=(4, 8), hidden=8, num_classes=3)
X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
LABEL = torch.tensor([0, 1, 2, 0, 1, 2])
BATCH = {"image": X, "label": LABEL}


def model(couplings: int) -> conv_vae.Model:
    torch.manual_seed(0)
    return conv_vae.Model(replace(CONFIG, couplings=couplings, flow_width=8)).double()


def gradients(vae: conv_vae.Model, phase: str) -> dict[str, Tensor]:
    noise = BatchRNG(0, 0, 6, 0, 6, X)
    loss, _ = vae.loss(phase, BATCH, noise, vae.prepare(BATCH, noise, {phase}))
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in vae.named_parameters() if p.grad is not None}


def test_networks_and_flow_do_not_touch_each_other() -> None:
    plain, networks, flow = (
        gradients(model(couplings), phase)
        for couplings, phase in ((0, "elbo"), (2, "elbo"), (2, "flow"))
    )
    assert networks.keys() == plain.keys()
    assert all(torch.equal(networks[name], plain[name]) for name in plain)
    assert {name.partition(".")[0] for name in flow} == {"flow"}


def test_samples_are_decoded_from_what_the_flow_makes_of_the_noise() -> None:
    vae = model(2).eval()
    assert vae.flow is not None
    for parameter in vae.flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    noise = torch.randn(6, 5, dtype=torch.float64)
    classes = torch.nn.functional.one_hot(LABEL, 3).double()
    exports = vae.exports()
    with torch.no_grad():
        z = vae.flow.inverse(noise, classes)[0]
        sample = exports["sample"].module(noise, LABEL)
        assert torch.equal(sample, exports["decode"].module(z, LABEL))
        torch.testing.assert_close(vae.flow(z, classes)[0], noise)
    graphs = {name: export.signature.graph for name, export in exports.items()}
    assert graphs["sample"] != graphs["decode"]
    plain = model(0).exports()
    assert plain["sample"].signature.graph == plain["decode"].signature.graph
