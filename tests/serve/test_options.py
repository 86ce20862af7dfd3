"""`aigc serve --config FILE`: what it says arrives, and no typo goes unnoticed."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from aigc.artifact.gpu import Gpu
from aigc.artifact.providers import NAMES
from aigc.artifact.runtime import ort
from serve.autoscaling import Scaling
from serve.cli import command, prepare
from serve.hosting import pool_worker
from serve.local import server
from serve.options import ServeConfig, read_config
from serve.settings import DEFAULT, Limits, document, parse
from tests.ports import free_port
from tests.serve.probe import Probe

WHOLE = """
host: 127.0.0.1
port: {port}
metrics_port: 0
keys: keys.toml
cors: [https://example.org]
logs: json
grace: 3
pools:
  default:
    artifacts: [{store}/tiny@1]
    replicas: 1..2
    mode: latency
    linger_ms: 1.5
  large:
    artifacts: [{store}/other]
    replicas: 0..3
    cpus: 1.5
    provider: cuda
    gpus: 0.25
    gpu_memory: 2GiB
    memory: 512MiB
    limits: {{max_batch: 8}}
    scaling: {{target_busy: 0.5, downscale_delay_s: 5}}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "serve.yaml"
    file.write_text(text)
    return file


def test_config_file_reaches_the_options(store: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("")
    config = read_config(write(tmp_path, WHOLE.format(store=store, port=free_port())))
    assert (config.logs, config.grace, config.cors) == ("json", 3.0, ("https://example.org",))
    assert config.keys == str(tmp_path / "keys.toml")
    default, large = config.pools[DEFAULT], config.pools["large"]
    assert (default.replicas, default.num_threads, default.num_cpus) == ((1, 2), 2, 2.0)
    assert (large.replicas, large.num_threads, large.num_cpus) == ((0, 3), 1, 1.5)
    assert (large.provider, large.gpu_memory) == ("cuda", 2 << 30)
    assert (large.num_gpus, large.memory, large.limits) == (0.25, 512 << 20, Limits(max_batch=8))
    assert large.scaling == Scaling(target_busy=0.5, downscale_delay_s=5) or (
        large.scaling.target_busy,
        large.scaling.downscale_delay_s,
    ) == (0.5, 5)


def test_config_file_becomes_the_arguments_of_the_application(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*NAMES.values()])
    text = WHOLE.replace("keys: keys.toml\n", "").format(store=store, port=free_port())
    settings, manifests = prepare(read_config(write(tmp_path, text)))
    assert [manifest.id for manifest in manifests] == ["tiny@1", "other@1"]
    assert parse(document(settings)) == settings
    plain = settings.without_runtime_options()
    assert (plain.artifacts, plain.pools["large"].artifacts) == ((), ())
    # A Serve config may put the default pool among the others.
    pools = {DEFAULT: {"replicas": "1..2"}, "large": {"replicas": "0..3"}}
    assert parse({"pools": pools}).replicas == (1, 2)
    with pytest.raises(ValueError, match=r"'replicas' stands at the top and in pools\.default"):
        parse({"replicas": 1, "pools": pools})


def test_config_file_may_merge_an_anchor_into_several_pools(tmp_path: Path) -> None:
    text = """
base: &base {replicas: 1..2, mode: latency, limits: &limits {max_n: 8}}
pools:
  default: {<<: *base, artifacts: [a]}
  large: {<<: [{mode: throughput}, *base], artifacts: [b], limits: {<<: *limits, max_batch: 4}}
"""
    with pytest.raises(ValueError, match="unknown option 'base'"):
        read_config(write(tmp_path, text))
    inline = text.replace("base: &base {", "pools:\n  default: &base {artifacts: [a], ", 1)
    inline = inline.replace("pools:\n  default: {<<: *base, artifacts: [a]}\n", "")
    config = read_config(write(tmp_path, inline))
    default, large = config.pools[DEFAULT], config.pools["large"]
    assert (default.replicas, large.replicas) == ((1, 2), (1, 2))
    assert (default.limits, large.limits) == (Limits(max_n=8), Limits(max_n=8, max_batch=4))
    assert large.artifacts == (str(tmp_path / "b"),)


@pytest.mark.parametrize(
    ("value", "also"),
    [("no", "false"), ("On", "true"), ("010", "8"), ("1:30", "90"), ("1_000", "1000")],
)
def test_config_file_refuses_values_that_yaml_versions_read_differently(
    value: str, also: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"serve\.yaml: line 2: {value} is {also} to some"):
        read_config(write(tmp_path, f"port: 80\ngrace: {value}\n{pools()}"))
    with pytest.raises(ValueError, match="grace: Expected `float`, got `str`"):
        read_config(write(tmp_path, f"port: 80\ngrace: '{value}'\n{pools()}"))


@pytest.mark.parametrize("value", ["1e1", "10", "10.0", "+10", "1.e1", "!!float 10"])
def test_config_file_reads_every_spelling_of_a_number(value: str, tmp_path: Path) -> None:
    assert read_config(write(tmp_path, f"grace: {value}\n{pools()}")).grace == 10


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"host: \xe9\n", "byte 0xe9 in line 1 is not UTF-8; save it as UTF-8"),
        (b"a: &a [*a]\n", r"line 1: \*a stands within &a"),
        (b"a: " + b"[" * 5000, "line 1 is nested more than 100 deep"),
        (b"port: 80\n---\nport: 81\n", "one document is expected, and there are several"),
        (b"host: !!python/name:os.system\n", "the tag .* has no meaning"),
        (b"", "a file of options by name is expected"),
    ],
)
def test_bytes_that_are_no_options_are_refused_with_the_file_s_name(
    data: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message) as refused:
        read_config(file)
    assert str(refused.value).startswith(str(file))


def test_config_file_may_have_a_bom_utf16_and_crlf(store: Path, tmp_path: Path) -> None:
    text = WHOLE.format(store=store, port=free_port()).replace("\n", "\r\n")
    for encoding in ("utf-8-sig", "utf-16"):
        file = tmp_path / f"{encoding}.yaml"
        file.write_bytes(text.encode(encoding))
        assert read_config(file).pools["large"].memory == 512 << 20


def pools(**large: Any) -> str:
    options = "".join(f"    {name}: {value}\n" for name, value in large.items())
    return f"pools:\n  default: {{artifacts: [a]}}\n  large:\n    artifacts: [b]\n{options}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "hots: x\n" + pools(),
            "unknown option 'hots'; there are: pools, host,.*mean 'hos",
        ),
        ("port: '80'\n" + pools(), "port: Expected `int`, got `str`"),
        (
            "port: 80\nport: 81\n" + pools(),
            "key 'port' stands twice in the mapping at line 1, again in line 2",
        ),
        ("logs: yaml\n" + pools(), "logs: Invalid enum value 'yaml'"),
        ("port: 80\n", "pools must hold pools by name, one of them 'default'"),
        ("pools: {defualt: {artifacts: [a]}}", "pools must hold pools by name, one of them 'def"),
        ("- pools\n", "a file of options by name is expected"),
        ("pools: {", "no YAML: .* in line 2"),
        (pools(replica=2), "unknown option pools.large.'replica'; .*did you mean 'replicas'"),
        (pools(replicas="many"), "pools.large.replicas must be a number or MIN..MAX, got 'many'"),
        (pools(replicas="3..1"), "pools.large: replicas must be MIN..MAX"),
        (pools(mode="quick"), "pools.large.mode: Invalid enum value 'quick'"),
        (pools(memory="much"), "pools.large.memory must be bytes, or a size like 512MiB"),
        (pools(gpus=1.5), "pools.large: gpus must be a fraction up to 1"),
        (pools(provider="cuda", gpus=0), "gpus must be above 0 with provider cuda"),
        (pools(provider="cpu", gpus=1), "no effect with provider cpu"),
        (pools(provider="rocm"), "pools.large.provider: Invalid enum value 'rocm'"),
        (pools(provider="cuda", engine_cache="e"), "engine_cache is for provider tensorrt"),
        (pools(gpu_memory="much"), "pools.large.gpu_memory must be bytes, or a size like 512MiB"),
        (pools(linger_ms="soon"), "pools.large.linger_ms: Expected `float`, got `str`"),
        (pools(limits="{max_m: 1}"), "unknown option pools.large.limits.'max_m'; .*'max_n'"),
        (pools(limits="{max_n: x}"), "pools.large.limits.max_n: Expected `int`, got `str`"),
        (pools(limits="7"), "pools.large.limits must be options by name, got 7"),
        (pools(limits="{max_batch: 0}"), "pools.large.limits: max_batch must be at least 1"),
        (pools(scaling="{target: 1}"), "unknown option pools.large.scaling.'target'"),
        (pools(pinned="{b: 3}"), r"pools.large.pinned\[...\]: Expected `str`, got `int`"),
        (pools(artifacts="b"), "stands twice"),
        ("pools: {default: {replicas: 0..1}}", "pools.default.replicas must be at least 1"),
        ("pools: {default: {}, 'a b': {}}", "pools: a pool's name must be letters"),
        ("pools: {default: 7}", "pools.default must be options by name, got 7"),
    ],
)
def test_config_file_errors_name_the_path_of_the_field(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read_config(write(tmp_path, text))
    assert str(refused.value).startswith(str(tmp_path / "serve.yaml"))


def test_options_beside_a_file_go_before_it_but_not_those_of_a_pool(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[ServeConfig] = []
    monkeypatch.setattr("serve.cli.prepare", lambda config: (seen.append(config), None))
    monkeypatch.setattr("serve.local.server.serve", lambda *_: 0)
    default = {"default": {"artifacts": [f"{store}/tiny"]}}
    file = write(tmp_path, f"port: 8111\nlogs: json\npools: {default}")
    assert command(["--config", str(file), "--port", "8222"]) == 0
    assert (seen[0].port, seen[0].logs, seen[0].artifacts) == (8222, "json", ())
    for given in (["x"], ["--replicas", "2"], ["--threads", "2"]):
        assert "beside --config" in refused(["--config", str(file), *given], capsys)
    assert "or a --config FILE" in refused([], capsys)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Output of the command line: by itself, or through its parser."""
    with pytest.raises((ValueError, SystemExit)) as error:
        command(argv)
    return f"{error.value} {' '.join(capsys.readouterr().err.replace('│', '').split())}"


def test_one_version_in_two_pools_is_refused(store: Path, tmp_path: Path) -> None:
    twice = {"default": {"artifacts": [f"{store}/tiny"]}, "b": {"artifacts": [f"{store}/tiny@2"]}}
    with pytest.raises(
        ValueError, match="in the pools default and b have the same name and version, tiny@2"
    ):
        prepare(read_config(write(tmp_path, f"port: {free_port()}\npools: {twice}")))


def test_the_example_of_the_docs_is_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        config = read_config(write(Path(folder), example))
    assert config.pools["large"].replicas == (0, 2)
    assert config.pools["large"].memory == 4 << 30
    assert config.grpc_port == 9000


def test_a_gpu_is_kept_for_each_replica_that_asks_for_one() -> None:
    assert parse({"provider": "cuda"}).num_gpus == 1
    assert parse({"provider": "tensorrt", "gpus": 0.5}).num_gpus == 0.5
    assert (parse({}).num_gpus, parse({"provider": "cpu"}).num_gpus) == (0, 0)


def test_a_provider_that_is_not_here_ends_the_start(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    flags = {"port": free_port(), "metrics_port": 0, "artifacts": (f"{store}/tiny@1",)}
    with pytest.raises(ValueError, match=r"provider cuda was asked for, and onnxruntime .* only"):
        prepare(ServeConfig(**flags, provider="cuda"))
    settings, manifests = prepare(ServeConfig(**flags))
    config = ServeConfig(**flags)
    banner = server._banner("http://h", "http://m", config, settings, manifests)
    assert "1 replica, 1 thread each, provider cpu (auto)." in banner


def test_a_replica_is_told_its_share_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*NAMES.values()])
    gpu = Gpu(name="NVIDIA H200", capability="9.0", total_bytes=1000)
    monkeypatch.setattr(pool_worker.gpu, "first_gpu", lambda: gpu)
    options = {
        "provider": "tensorrt",
        "gpus": 0.25,
        "engine_cache": "/e",
        "limits": {"max_batch": 8},
    }
    told = pool_worker._provider_options(parse(options))
    assert (told.provider, told.gpu_memory, told.engine_cache) == ("tensorrt", 200, "/e")
    assert told.max_batch == 8
    assert pool_worker._provider_options(parse({**options, "gpu_memory": 7})).gpu_memory == 7
    assert pool_worker._provider_options(parse({"provider": "cpu"})).gpu_memory is None
    for provider, bound in (("cuda", 800), ("cpu", None)):
        settings = parse({"provider": provider, "metrics_dir": str(tmp_path / provider)})
        replica = pool_worker.ModelReplica(settings, "it")
        assert Probe(replica).memory.gpu_limit_bytes == bound
        replica.close()
