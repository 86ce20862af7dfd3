"""The policy in Ray's own autoscaling state, and in a process that has no `serve`."""

import subprocess
import sys
import warnings
from dataclasses import asdict

import pytest

from serve.autoscaling import Scaling
from tests.serve.batching.queueing import Pool, by_work, phases
from tests.serve.ray_state import by_requests, through_ray

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve.app import autoscaling, build

SCALING = Scaling(downscale_delay_s=20.0)
MIX: tuple[tuple[float, dict[int, float]], ...] = (
    (30, {1: 20}),
    (60, {1: 40, 256: 5}),
    (90, {1: 20}),
    (30, {256: 3}),
    (60, {}),
)


@pytest.mark.parametrize("low", [0, 1])
def test_ray_decides_as_the_policy_does(low: int) -> None:
    """Its delays, factors, averages and bounds change nothing, its cold start adds a replica."""
    config = autoscaling(SCALING, low, 6)
    inside = Pool(through_ray(config), low=low, high=6).run(phases(*MIX))
    alone = Pool(by_work(SCALING), low=low, high=6).run(phases(*MIX))
    assert inside.targets == alone.targets
    assert max(target for _, target in alone.targets) > 2
    assert alone.target == low


def test_the_request_count_does_not_see_the_size_of_requests() -> None:
    """Why this policy is there: to Ray's own, requests for 1 and for 256 samples weigh the same."""
    request_count = by_requests(16, upscale_delay_s=1.0, downscale_delay_s=20.0)
    counted = Pool(request_count).run(phases((60, {256: 3})))
    worked = Pool(by_work(SCALING)).run(phases((60, {256: 3})))
    assert worked.p(0.5, 256) < counted.p(0.5, 256)


def test_options_reach_the_policy_and_not_the_replicas() -> None:
    args = {"artifacts": ["store/tiny"], "replicas": "1..4"}
    plain = build(args)._bound_deployment
    other = build({**args, "scaling": {"target_busy": 0.5}})._bound_deployment
    config = other._deployment_config.autoscaling_config
    assert config.policy.policy_kwargs == asdict(Scaling(target_busy=0.5))
    assert config.metrics_interval_s <= 1.0
    # A replica is not made anew because the pool is to scale otherwise.
    assert plain.init_args == other.init_args


ELSEWHERE = """
import pickle, sys
from types import SimpleNamespace
sys.modules["serve"] = None
policy = pickle.load(sys.stdin.buffer)(target_busy=0.5)
context = SimpleNamespace(
    policy_state={}, current_time=1.0, target_num_replicas=2, capacity_adjusted_min_replicas=1,
    capacity_adjusted_max_replicas=4, running_replicas=["a"], raw_metrics={})
print(policy(context)[0])
assert not any(name.split(".")[0] in ("serve", "aigc") for name in sys.modules if name != "serve")
"""


def test_the_controller_needs_neither_serve_nor_what_it_imports() -> None:
    build({"artifacts": ["store/tiny"], "replicas": "1..4", "scaling": {"stale_s": 9.0}})
    pickled = autoscaling(Scaling(), 1, 4).policy.get_serialized_policy_def()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE], input=pickled, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"2\n"
