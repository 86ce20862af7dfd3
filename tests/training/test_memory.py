"""Estimated memory of a worker against what its process takes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aigc import data
from aigc.training.memory import TensorBytes, estimate_memory, rows_at_once
from tests.training.small_runs import small

MEASURE = """
import json, sys, threading, time
from dataclasses import replace
import torch
from aigc import data
from aigc.training.loop import TrainState, train
from aigc.training.malloc import keep_freed_memory
from tests.training.small_runs import small

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def watch() -> None:
    while not done.wait(0.002):
        sizes.append(resident())

torch.set_num_threads(1)
keep_freed_memory()
preset, rows = sys.argv[1], int(sys.argv[2])
config = small(preset, batch=2, samples=12)
source = data.load(config.data, config.model)
train(config, TrainState(config), source)  # libraries load
sizes, done = [resident()], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
config = replace(config, batch=rows, samples=2 * rows)
train(config, TrainState(config), source)
done.set()
thread.join()
print(json.dumps([sizes[0], max(sizes)]))
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to measure memory")
@pytest.mark.parametrize(
    ("preset", "rows"),
    [("dcgan:digits", 384), ("conv_vae:digits", 1024), ("fc_gan:mlp", 4096)],
)
def test_estimated_memory_is_within_a_fifth_of_what_is_measured(preset: str, rows: int) -> None:
    config = replace(small(preset), batch=rows)
    estimate = estimate_memory(config, data.load(config.data, config.model), rows)
    run = [sys.executable, "-c", MEASURE, preset, str(rows)]
    answer = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
    before, measured = json.loads(answer.stdout.splitlines()[-1])
    assert 0.8 * measured < before + estimate.peak_bytes < 1.2 * measured
    assert measured > 1.2 * before  # the batch is seen
    assert 0 < estimate.state_bytes < estimate.peak_bytes


def test_counted_bytes_are_those_of_living_storages() -> None:
    with TensorBytes() as tensors:
        x = torch.zeros(256)
        view = x.view(16, 16)
        assert tensors.now == 1024
        product = view @ view
        assert tensors.now == 2048
        del x
        assert tensors.now == 2048  # the view holds it
        del view, product
    assert tensors.now == 0
    assert tensors.peak == 2048


def test_rows_at_once_are_a_worker_s_share_or_its_parts() -> None:
    config = small("dcgan:digits", batch=15)
    assert rows_at_once(config) == 15
    assert rows_at_once(config, workers=2) == 8
    assert rows_at_once(replace(config, micro_batch=5)) == 5
    assert rows_at_once(replace(config, micro_batch=99)) == 15
