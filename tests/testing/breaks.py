"""Model files broken on purpose: each keeps the contract but for one check, which says how."""

import inspect
import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import pytest

GAN, VAE = "aigc.gan", "aigc.vae"
FC_GAN, DCGAN, FC_VAE = (f"aigc.models.{name}" for name in ("fc_gan", "dcgan", "fc_vae"))


@dataclass(frozen=True)
class Break:
    """Text of a model's file -> other text, the check that fails for it, and its sentence."""

    what: str
    check: str
    file: str
    edits: dict[str, str]
    says: str = ""
    """Regular expression; nothing for a change that is no fault."""
    preset: str = "fc_gan:ring"


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, edits: dict[str, str]) -> None:
    """Put a changed copy in the place of a module, until the test ends."""
    source = inspect.getsource(import_module(name))
    for old, new in edits.items():
        assert source.count(old) >= 1, f"{name} no longer says {old!r}: nothing would break"
        source = source.replace(old, new)
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, f"<changed {name}>", "exec"), module.__dict__)


def replace_model(monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    """Change a model, or the family that it inherits."""
    replace_module(monkeypatch, broken.file, broken.edits)
    model = f"aigc.models.{broken.preset.partition(':')[0]}"
    if broken.file != model:
        replace_module(monkeypatch, model, {})  # built anew on its broken base


DENSE = "condition(z, label, self.config.num_classes)"
OBJECTIVE = "loss = losses.OBJECTIVES[config.objective].discriminator(on_real, on_fake)"
STORED = "self.config: GANConfig = config"
SEED, IMAGES = "fc_gan:seed", "fc_gan:mlp"

OF_PRESETS = [
    Break("preset's name", "builds", FC_GAN, {'"fc_gan:ring"': '"fc_gan:seed"'}, "calls itself fc"),
    Break("no family", "builds", GAN, {'family = "gan"\n': "\n"}, "names no family"),
    Break("config lost", "builds", GAN, {STORED: "self.config = None"}, "does not keep its config"),
    Break(
        "no field",
        "builds",
        GAN,
        {'found["augmentation_ramp"]': 'found["augmentation_ram"]'},
        "names 'augmentation_ram', which is no field",
    ),
    Break("no model", "builds", FC_GAN, {"class Model(GAN)": "class Model(dict)"}, "TypeError"),
    Break(
        "a list",
        "config_survives_json",
        FC_GAN,
        {"generator_widths=(),": "generator_widths=[],"},
        r"model\.generator_widths is \[\] in the preset and \(\) after JSON",
        SEED,
    ),
    Break(
        "a module in two phases",
        "phases",
        GAN,
        {"module=self.generator,": "module=self.discriminator,"},
        "own the same parameter",
    ),
    Break(
        "parameters of no phase",
        "phases",
        GAN,
        {"module=self.generator,": "module=self.generator.layers[-1],"},
        "no phase owns the parameter generator",
    ),
    Break(
        "one name twice",
        "phases",
        GAN,
        {'name="generator"': 'name="discriminator"'},
        "names of the phases are not unique",
    ),
    Break(
        "classes of other data",
        "trains_on_its_data",
        FC_GAN,
        {"num_classes=10,": "num_classes=7,"},
        "data digits does not load for this model: num_classes is 7, data 'digits' has 10",
        IMAGES,
    ),
]
SUMS = """    def batch_sums(self, batch, noise, shared):
        real = batch[self.config.modality]
        return {"count": real.new_tensor(len(real)), "total": real.sum(0)}

    def update(self, sums):
        self.mean.lerp_(sums["total"] / sums["count"], 0.1)

    def collapsed"""
SUMMED = {
    STORED: f"{STORED}; self.register_buffer('mean', torch.zeros(config.shape))",
    "    def collapsed": SUMS,
}


def with_sums(old: str, new: str) -> dict[str, str]:
    return {**SUMMED, "    def collapsed": SUMS.replace(old, new)}


COUPLED = f"{OBJECTIVE} + on_real.exp().mean() * batch['sum/real'].sin().sum()"
LOSS_SUMS = """    def loss_sums(self, phase, batch, noise, shared):
        return {"real": self.discriminator(batch[self.config.modality], shared[1])[0].sum(0)}

    def collapsed"""
DRAWN = "label: Tensor | None, noise: BatchRNG"
SUMMED_LOSS = {
    "self.config.matches_features or type(self).loss_sums is not GAN.loss_sums": "True",
    "_discriminator_loss(real, fake.detach(), label, noise)": (
        "_discriminator_loss(real, fake.detach(), label, noise, batch)"
    ),
    f"{DRAWN}\n": f"{DRAWN}, batch: Batch\n",
    OBJECTIVE: COUPLED,
    "    def collapsed": LOSS_SUMS,
}


OF_EXPORTS = [
    Break("no sample", "signatures", GAN, {'{"sample": Export': '{"draw": Export'}, "no 'sample'"),
    Break(
        "a sample that needs a sample",
        "signatures",
        GAN,
        {"inputs = (latent_spec(self.config)": "inputs = (sample_spec(self.config)"},
        "cannot be drawn from a seed: it needs vector",
    ),
    Break(
        "range",
        "outputs_as_promised",
        FC_GAN,
        {"2 * raw.sigmoid() - 1": "2 * raw.sigmoid()"},
        r"range of output 'image' of sample is .*promises \[-1",
        IMAGES,
    ),
    Break(
        "not squashed",
        "outputs_as_promised",
        FC_GAN,
        {"2 * raw.sigmoid() - 1": "raw / 8"},
        "with weights 10 times as large",
        IMAGES,
    ),
    Break(
        "dtype",
        "outputs_as_promised",
        FC_GAN,
        {"config.shape)  #": "config.shape).double()  #"},
        "has the dtype torch.float64",
    ),
    Break(
        "shape",
        "outputs_as_promised",
        GAN,
        {"self.generator(latent, label)  #": "self.generator(latent, label)[:, :1]  #"},
        r"shape \(4, 1\) for 4 rows",
    ),
    Break(
        "sees its batch",
        "rows_apart",
        GAN,
        {"self.generator(latent, label)  #": "self.generator(latent - latent.mean(0), label)  #"},
        "a row of sample depends on the rest of its batch",
    ),
    Break(
        "an encoder that ignores its input",
        "rows_apart",
        VAE,
        {
            "return self.vae.encode(x, label)": "return self.vae.encode(0 * x, label if label is"
            " None else 0 * label)"
        },
        "encode ignores its input",
        "fc_vae:digits",
    ),
    Break(
        "one graph of two computations",
        "graphs_shared",
        VAE,
        {
            '"decode": Export(module=decode': '"decode": Export(module=_Negative(self)',
            "class _Encode": "class _Negative(_Decode):\n"
            "    def forward(self, *inputs):\n"
            "        return -super().forward(*inputs)\n\n\n"
            "class _Encode",
        },
        "sample and decode name one graph, decoder.onnx",
        "fc_vae:digits",
    ),
    Break(
        "noise of its own",
        "seeds_kept",
        GAN,
        {"self.generator(latent, label)  #": "self.generator(torch.randn_like(latent), label)  #"},
        "two samples of one seed differ in 'vector'",
    ),
    Break(
        "ignores its latent",
        "seeds_kept",
        GAN,
        {"self.generator(latent, label)  #": "self.generator(0 * latent, label)  #"},
        "sample does not use its latent",
    ),
    Break(
        "state outside state_dict",
        "state_is_whole",
        FC_GAN,
        {
            "self.config = config\n": "self.config = config; self.gain = float(torch.rand(()))\n",
            "else raw\n": "else self.gain * raw\n",
            "import math\n": "import math\nimport torch\n",
        },
        "register it as a parameter or a buffer",
    ),
    Break(
        "another function in the graph",
        "parity",
        GAN,
        {
            "self.generator(latent, label)  #": "self.generator(latent * (1 + 0.1 *"
            " torch.compiler.is_compiling()), label)  #"
        },
        "'sample' is not exported faithfully",
    ),
]

HONEST = [
    Break("nothing changed", "", GAN, {}),
    Break(
        "statistics of the batch, declared",
        "",
        GAN,
        {
            'family = "gan"\n': 'family = "gan"\n    batch_statistics = True\n',
            OBJECTIVE: f"{OBJECTIVE} + on_real.std()",
        },
    ),
    Break(
        "a number for the host, stated",
        "",
        GAN,
        {
            'family = "gan"\n': 'family = "gan"\n'
            '    host_reads = {"_discriminator_loss": "a test wants it"}\n',
            OBJECTIVE: f"{OBJECTIVE} * (1 + 0 * on_real.mean().item())",
        },
    ),
    Break(
        "dropout as a function",
        "",
        FC_GAN,
        {
            "self.verdict(self.layers(x), label)": "self.verdict(nn.functional.dropout("
            "self.layers(x), 0.5, self.training), label)"
        },
    ),
    Break(
        "a saved buffer that a loss updates",
        "",
        GAN,
        {
            STORED: f"{STORED}; self.register_buffer('seen', torch.zeros(()))",
            OBJECTIVE: f"{OBJECTIVE}; self.seen.add_(on_real.mean().detach())",
        },
    ),
    Break(
        "sample, encode and reconstruct",
        "",
        VAE,
        {'"decode": Export(module=decode, signature=signature("decoder.onnx", latent, x)),': ""},
        preset="fc_vae:digits",
    ),
    Break("sums over the batch", "", GAN, SUMMED),
    Break("sums in a loss", "", GAN, SUMMED_LOSS),
    Break("no histograms", "", GAN, {"def distributions": "def other_distributions"}),
]
"""Unusual, and no fault."""
