"""serveConfigV2, strictly."""

from copy import deepcopy
from typing import Any

import pytest

from tests.k8s.check.mutation import (
    GONE,
    WHOLE,
    AutoscalingConfig,
    Mutation,
    changed,
    copied,
    findings,
    one,
    set_at,
)

CONFIG = "spec.serveConfigV2"
OURS = f"{CONFIG}.applications[0]"
OTHER = f"{CONFIG}.applications[1].deployments[0]"


def mistake(rule: str, path: str, value: Any, says: str, found: str = "") -> Mutation:
    return Mutation(
        rule=f"serve_config/{rule}",
        object="RayService/sampling",
        path=path,
        value=value,
        says=says,
        found=found,
    )


MUTATIONS = [
    Mutation(
        rule="serve_config/import_path",
        object="RayService/sampling",
        path="spec.serveConfigV2.applications[0].import_path",
        value="serve.app:bild",
        says="serve.app of this project has no 'bild'; there are: ",
    ),
    Mutation(
        rule="serve_config/import_path",
        object="RayService/sampling",
        path="spec.serveConfigV2.applications[0].import_path",
        value="serve.apps:build",
        says="this project has no module serve.apps; there are: ",
    ),
    Mutation(
        rule="serve_config/import_path",
        object="RayService/sampling",
        path="spec.serveConfigV2.applications[1].import_path",
        value="sreve.app:build",
        says="is not this project's application; did you mean 'serve.app:build'?",
    ),
    mistake(
        "schema",
        f"{OTHER}.max_ongoing_request",
        5,
        "Ray 2.60.0 knows no 'max_ongoing_request' here and ignores it; there are: autoscaling",
    ),
    mistake("schema", f"{CONFIG}.http_option", {}, "did you mean 'http_options'?"),
    mistake("schema", f"{CONFIG}.http_options.prot", 80, "did you mean 'port'?"),
    mistake("schema", f"{CONFIG}.applications[1].argz", {}, "did you mean 'args'?"),
    mistake(
        "schema",
        f"{OTHER}.autoscaling_config.max_replica",
        9,
        "knows no 'max_replica' here and ignores it",
    ),
    mistake(
        "schema",
        f"{OTHER}.autoscaling_config.policy",
        {"policy_function": "no.such:policy", "policy_kwarg": {}},
        "did you mean 'policy_kwargs'?",
        f"{OTHER}.autoscaling_config.policy.policy_kwarg",
    ),
    mistake("schema", f"{OTHER}.ray_actor_options.num_cpu", 1, "did you mean 'num_cpus'?"),
    mistake("schema", f"{OTHER}.logging_config.log_levl", "INFO", "did you mean 'log_level'?"),
    mistake(
        "schema",
        f"{CONFIG}.applications[1].autoscaling_policy",
        {"policy_functon": "no.such:policy"},
        "did you mean 'policy_function'?",
        f"{CONFIG}.applications[1].autoscaling_policy.policy_functon",
    ),
    mistake(
        "schema",
        f"{OTHER}.deployment_actors",
        [{"name": "cache", "actor_klass": "no.such:Actor"}],
        "did you mean 'actor_class'?",
        f"{OTHER}.deployment_actors[0].actor_klass",
    ),
    mistake("schema", f"{OTHER}.max_ongoing_requests", "many", "should be a valid integer"),
    mistake(
        "schema",
        f"{OTHER}.autoscaling_config.upscale_delay_s",
        -1,
        "greater than or equal to 0",
    ),
    mistake(
        "schema",
        f"{OTHER}.num_replicas",
        2,
        "Manually setting num_replicas is not allowed",
        OTHER,
    ),
    mistake(
        "schema",
        f"{CONFIG}.applications[1].import_path",
        GONE,
        "Field required",
    ),
    mistake(
        "schema",
        f"{CONFIG}.applications[1].name",
        "aigc",
        'Found multiple configs for application "aigc"',
        f"{CONFIG}.applications",
    ),
    mistake("readable", CONFIG, "applications", "a mapping with applications is expected"),
    mistake(
        "runtime_env",
        f"{CONFIG}.applications[1].runtime_env.env_var",
        {},
        "Ray knows no 'env_var' here",
    ),
    mistake(
        "runtime_env",
        f"{OTHER}.ray_actor_options",
        {"runtime_env": {"pips": ["x"]}},
        "did you mean 'pip'?",
        f"{OTHER}.ray_actor_options.runtime_env.pips",
    ),
    mistake(
        "bounds",
        f"{OTHER}.autoscaling_config.target_ongoing_requests",
        101,
        "is 101, more than a replica takes at once (max_ongoing_requests 100)",
    ),
    mistake(
        "application",
        f"{OURS}.args.replica",
        2,
        "unknown option 'replica'",
        f"{OURS}.args",
    ),
    mistake(
        "application",
        f"{OURS}.args.limits",
        {"max_n": 0},
        "max_n must be at least 1, got 0",
        f"{OURS}.args",
    ),
    mistake(
        "application",
        f"{OURS}.deployments[2]",
        {"name": "larger"},
        "args have no pool 'larger'; there are: default, large; did you mean 'large'?",
        f"{OURS}.deployments[2].name",
    ),
    mistake(
        "application",
        f"{OURS}.deployments[0].user_config.artefacts",
        [],
        "unknown user_config 'artefacts'",
        f"{OURS}.deployments[0].user_config",
    ),
    mistake(
        "application",
        f"{OURS}.deployments[0].user_config.pools.huge",
        {"artifacts": ["/a"]},
        "args have no pool 'huge'",
    ),
    mistake(
        "application",
        f"{OURS}.deployments[1].user_config",
        GONE,
        "pool 'large' has no artifact",
        f"{OURS}.deployments",
    ),
]

CROSSED = [
    ("min_replicas", 5, "max_replicas", "is 4, below min_replicas 5"),
    ("initial_replicas", 9, "initial_replicas", "is 9, outside of 1 (min_replicas) to 4 (max_"),
    ("initial_replicas", 0, "initial_replicas", "is 0, outside of 1"),
]


@pytest.mark.parametrize(("key", "value", "at", "says"), CROSSED)
def test_crossing_bounds_are_found_as_ray_does(key: str, value: int, at: str, says: str) -> None:
    documents = changed(("RayService/sampling", f"{OTHER}.autoscaling_config.{key}", value))
    (found,) = findings(documents)
    assert found.rule == "serve_config/bounds"
    assert found.path == f"{OTHER}.autoscaling_config.{at}"
    assert says in found.message
    with pytest.raises(ValueError, match="must be"):
        AutoscalingConfig(**{"max_replicas": 4, key: value})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("applications: [\n", "no YAML"),
        ("applications: []\napplications: []\n", "key 'applications' stands twice"),
        ("just a text", "a mapping with applications is expected"),
        ("", "a mapping with applications is expected"),
    ],
)
def test_unreadable_config_is_found(text: str, says: str) -> None:
    documents = deepcopy(WHOLE)
    one(documents, "RayService/sampling")["spec"]["serveConfigV2"] = text
    found = [each for each in findings(documents) if each.rule.startswith("serve_config/")]
    assert [(each.rule, each.path) for each in found] == [("serve_config/readable", CONFIG)]
    assert says in found[0].message


@pytest.mark.parametrize(
    ("text", "rule", "says"),
    [
        ("- env_vars\n", "readable", "a mapping is expected"),
        ("a: [", "readable", "no YAML"),
        ("env_vars: {}\nworking_dirs: x\n", "runtime_env", "did you mean 'working_dir'?"),
    ],
)
def test_job_runtime_env_is_read(text: str, rule: str, says: str) -> None:
    documents = deepcopy(WHOLE)
    one(documents, "RayJob/training")["spec"]["runtimeEnvYAML"] = text
    (found,) = findings(documents)
    assert (found.rule, found.name) == (f"serve_config/{rule}", "training")
    assert found.path.startswith("spec.runtimeEnvYAML")
    assert says in found.message


def test_named_imports_are_not_executed() -> None:
    documents, service = copied("RayService/sampling")
    set_at(
        service,
        f"{OTHER}.autoscaling_config.policy",
        {"policy_function": "no.such.module:policy", "policy_kwargs": {}},
    )
    set_at(service, f"{OTHER}.request_router_config", {"request_router_class": "no.such:Router"})
    assert findings(documents) == []


def test_unset_bounds_do_not_cross() -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, f"{OTHER}.max_ongoing_requests", GONE)  # the code may have one
    assert findings(documents) == []
    set_at(service, f"{OTHER}.max_ongoing_requests", 1)
    set_at(service, f"{OTHER}.autoscaling_config.target_ongoing_requests", GONE)
    (found,) = findings(documents)
    assert "is 2 (the default), more than a replica takes at once" in found.message
    set_at(service, f"{OTHER}.autoscaling_config.policy", {"policy_function": "a:b"})
    assert findings(documents) == []
    set_at(service, f"{OTHER}.autoscaling_config.max_replicas", GONE)
    set_at(service, f"{OTHER}.autoscaling_config.min_replicas", 2)
    (found,) = findings(documents)
    assert "is 1 (the default), below min_replicas 2" in found.message
    set_at(service, f"{OTHER}.num_replicas", "auto")
    assert findings(documents) == []


def test_union_type_gives_one_finding() -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, f"{CONFIG}.applications[1].deployments", [{"name": "Other"}])
    set_at(service, f"{OTHER}.num_replicas", -1)
    (found,) = [each for each in findings(documents) if each.rule == "serve_config/schema"]
    assert found.path == f"{OTHER}.num_replicas"
    assert found.message == "Input should be greater than 0, or: Input should be a valid string"


@pytest.mark.parametrize(
    "path",
    ["serve.app:build", "serve.app.build", "serve:app", "other.app:build", "app:app", "serve"],
)
def test_our_and_foreign_options_are_accepted(path: str) -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, "spec.serveConfigV2.applications[1].import_path", path)
    assert [each for each in findings(documents) if each.rule == "serve_config/import_path"] == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("serve.app:bild", "did you mean 'build'?"),
        ("serve.app.bild", "did you mean 'build'?"),
        ("serve.ap:build", "did you mean 'app'?"),
        ("serve.access.charges:Charge", "did you mean 'charge'?"),
        ("serve.app.build:x", "no module serve.app.build"),
        ("aigc.prometheus.exporter:cmmand", "did you mean 'command'?"),
        ("serve.app:", "has no 'attribute'"),
        ("serve/app:build", "did you mean 'serve.app:build'?"),
    ],
)
def test_closest_name_is_suggested(path: str, says: str) -> None:
    documents, service = copied("RayService/sampling")
    set_at(service, "spec.serveConfigV2.applications[1].import_path", path)
    (found,) = [each for each in findings(documents) if each.rule == "serve_config/import_path"]
    assert says in found.message
    brought = {"working_dir": "https://example.com/code.zip"}
    set_at(service, "spec.serveConfigV2.applications[1].runtime_env", brought)
    assert [each for each in findings(documents) if each.rule == "serve_config/import_path"] == []
