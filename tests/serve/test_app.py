"""`serve.app:build` as a Serve config calls it. Starts no Ray."""

import warnings
from typing import Any

import pytest

from serve.settings import Limits, Settings, parse

with warnings.catch_warnings():
    # Ray 2.60 declares its schemas with arguments that pydantic has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve.app import build


def pool(**args: Any) -> Any:
    return build({"artifacts": ["store/tiny"], **args})._bound_deployment


def test_artifacts_travel_in_user_config_so_that_a_change_restarts_nothing() -> None:
    one, other = pool(), build({"artifacts": ["store/other"]})._bound_deployment
    assert one.user_config == {"artifacts": ["store/tiny"], "pinned": {}}
    assert one.init_args == other.init_args
    assert parse(one.init_args[0]) == Settings()


def test_replicas_are_fixed_or_scaled() -> None:
    assert pool().num_replicas == 1
    assert pool(replicas=3).num_replicas == 3
    scaling = pool(replicas="1..4")._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
    assert pool().max_ongoing_requests >= 1000
    assert pool().ray_actor_options["num_cpus"] == 1


def test_replicas_find_the_metrics_folder_before_their_first_import() -> None:
    environment = pool(metrics_dir="/metrics").ray_actor_options["runtime_env"]["env_vars"]
    assert environment == {"PROMETHEUS_MULTIPROC_DIR": "/metrics"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"artefacts": []}, "unknown option 'artefacts'; there are: artifacts"),
        ({"limits": {"max_m": 1}}, "unknown option limits.'max_m'"),
        ({"scaling": {"target": 1}}, "unknown option scaling.'target'; there are: target_busy"),
        ({"scaling": {"target_busy": 0.0}}, "scaling.target_busy must be in .0, 1."),
        ({"replicas": "4..1"}, "0 <= MIN <= MAX and 1 <= MAX, got 4..1"),
        ({"replicas": "many"}, "a number or MIN..MAX, got 'many'"),
        ({"threads": 0}, r"threads must be in \[1, 1024\], got 0"),
        ({"threads": 100_000}, r"threads must be in \[1, 1024\], got 100000"),
        ({"threads": "two"}, "threads"),
        ({"limits": {"max_n": 9, "max_queue": 8}}, "max_n .9. must not exceed max_queue .8."),
        ({"limits": {"max_batch": 0}}, "max_batch must be at least 1"),
    ],
)
def test_wrong_options_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool(**args)


def test_limits_reach_the_replicas() -> None:
    assert parse({"limits": {"max_n": 5}}).limits == Limits(max_n=5)
