"""`aigc bench train`: shares of the real loop, FLOPs against a hand count, and what it prints."""

import re
from dataclasses import replace

import pytest
import torch

from aigc import data, models
from aigc.commands import bench
from aigc.config import TrainConfig
from aigc.training import checkpoint
from aigc.training.loop import train
from aigc.training.state import TrainState

pytestmark = pytest.mark.process

CPU = torch.device("cpu")


def measured(config: TrainConfig, batches: int = 4, warmup: int = 2) -> bench.Measurement:
    return bench.measure(config, data.load(config.data, config.model), CPU, batches, warmup)


@pytest.mark.parametrize(
    ("preset", "phases"),
    [
        ("fc_gan:ring", ["discriminator", "generator"]),
        ("conv_vae:digits", ["elbo"]),
        ("dcgan:wgan_gp", ["discriminator", "generator"]),
    ],
)
def test_shares_of_the_stages_sum_to_1(preset: str, phases: list[str]) -> None:
    config = replace(models.preset(preset), batch=32)
    found = measured(config, batches=5)
    assert list(found.shares) == ["data", "prepare", *phases, "optimizer", "figures", "average"]
    assert sum(found.shares.values()) == pytest.approx(1, abs=0.05)
    assert all(share > 0 for share in found.shares.values())
    assert found.samples_per_second == pytest.approx(32 / found.seconds_per_batch)
    assert found.mfu > 0
    assert found.peak_memory_bytes > 10 * 2**20


def test_micro_batches_have_the_same_stages() -> None:
    config = replace(models.preset("fc_gan:ring"), batch=32, micro_batch=8)
    assert sum(measured(config).shares.values()) == pytest.approx(1, abs=0.05)


def test_time_belongs_to_the_stage_entered_last(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(moments))
    watch = bench.Stopwatch(CPU)
    for stage in ("a", "b", "a", "c", "d"):
        watch.enter(stage)
    assert watch.seconds() == {"a": 1.0 + 3.0, "b": 2.0, "c": 4.0}
    assert watch.total_seconds() == 10.0


def test_flops_of_one_layer_each_are_those_counted_by_hand() -> None:
    config = models.preset("fc_gan:seed")
    latent, features, n = 100, 28 * 28, config.batch
    # Generator's layer: forward, and its weight's gradient in the generator's phase.
    product = 2 * n * latent * features
    # Discriminator's layer on n samples: forward, or one of its gradients.
    verdict = 2 * n * features
    discriminator = 2 * verdict + 2 * verdict  # 2 n samples: forward, the weight's gradient
    generator = verdict + verdict  # n samples: forward, the gradient of its input
    counted = bench.flops_per_batch(config, data.load(config.data, config.model), CPU)
    assert counted == product + discriminator + generator + product


def test_a_phase_that_is_due_now_and_then_counts_in_proportion() -> None:
    config = models.preset("fc_gan:seed")
    source = data.load(config.data, config.model)
    rare = replace(config, model=replace(config.model, discriminator_steps=4))
    n, latent, features = config.batch, 100, 28 * 28
    of_generator = 2 * n * latent * features + 2 * (2 * n * features)
    every = bench.flops_per_batch(config, source, CPU)
    assert bench.flops_per_batch(rare, source, CPU) == every - 3 / 4 * of_generator


def test_stopwatch_leaves_training_bit_equal() -> None:
    config = replace(models.preset("fc_gan:ring"), samples=64 * 5)
    source = data.load(config.data, config.model)
    states = [TrainState(config), TrainState(config)]
    heard: list[int] = []
    bench.watch_stages(states[1], bench.Stopwatch(CPU), heard.append)
    plain, watched = ((train(config, s, source), checkpoint.tensors(s))[1] for s in states)
    assert heard == [1, 2, 3, 4, 5]
    assert [name for name in plain if not torch.equal(plain[name], watched[name])] == []


def test_bench_command_names_flags_without_effect(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    flags = ["--batches", "3", "--warmup", "1", "--threads", "1", "--batch", "16"]
    assert bench.command(["train", "fc_gan:ring", *flags, "--samples", "9"]) == 0
    torch.set_num_threads(threads)
    said, warned = capsys.readouterr()
    assert "fc_gan:ring on CPU, 1 thread: float32, batch 16, 3 batches after 1" in said
    for line in (
        *(r"[\d,]+  samples/s", r"[\d.%]+  data", r"[\d.%]+  discriminator", r"[\d.%]+  average"),
        r"[\d.%]+  MFU: [\d.e-]+ GFLOP per batch are .* GFLOP/s; a 1024 x 1024 matmul reaches",
        r"[\d,]+  MiB held by the process",
    ):
        assert re.search(rf"^ +{line}", said, re.MULTILINE), line
    assert "without effect here: samples" in warned


@pytest.mark.parametrize(("argv", "status"), [([], 2), (["serve"], 2), (["train", "--help"], 0)])
def test_bench_prints_its_usage(
    argv: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.command(argv) == status
    assert "usage: aigc bench train MODEL" in "".join(capsys.readouterr())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_bench_refuses_a_missing_gpu() -> None:
    with pytest.raises(ValueError, match="device cuda needs a GPU, and torch finds none here"):
        bench.Options(config=models.preset("fc_gan:ring"), device="cuda")
