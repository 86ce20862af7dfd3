"""Execution providers: what is asked for is taken or refused, and what each is told."""

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc.artifact import Artifact, ArtifactError, graph_session, providers, tensorrt
from aigc.artifact.gpu import Gpu, first_gpu
from aigc.artifact.providers import ProviderError, ProviderOptions
from aigc.artifact.runtime import ort
from tests.artifact.hostile import model, write, zeros_graph
from tests.free_sizes import SIGNATURES

H200 = Gpu(name="NVIDIA H200", capability="9.0", total_bytes=140 << 30)
CpuSession = ort.InferenceSession
ALL = [providers.NAMES[one] for one in ("tensorrt", "cuda", "cpu")]


class Opened:
    """onnxruntime with GPU providers, of which some load: sessions run on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loads: list[str]) -> None:
        self.calls: list[dict[str, Any]] = []
        opened = self

        class Session(CpuSession):  # type: ignore[misc]
            def __init__(self, graph: bytes, options: Any, **more: Any) -> None:
                opened.calls.append(more)
                super().__init__(graph, options, providers=["CPUExecutionProvider"])
                self.named = [name for name, _ in more["providers"] if name in loads]

            def get_providers(self) -> list[str]:
                return self.named

            @property
            def falls_back(self) -> bool:
                return bool(self._enable_fallback)

        monkeypatch.setattr(ort, "get_available_providers", lambda: list(ALL))
        monkeypatch.setattr(ort, "InferenceSession", Session)
        monkeypatch.setattr(graph_session.gpu, "first_gpu", lambda: H200)
        monkeypatch.setattr(graph_session.tensorrt, "version", lambda: "10.13.3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("providers") / "zeros", model(zeros_graph()))


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Opened]:
    return lambda loads=ALL: Opened(monkeypatch, loads)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_onnxruntime_lacks_is_refused_with_what_to_install(
    provider: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    message = rf"provider {provider} was asked for, .* here has cpu only; install onnxruntime-gpu"
    with pytest.raises(ProviderError, match=message):
        Artifact.open(folder, provider=provider)


def test_auto_and_cpu_run_on_the_cpu_where_there_is_nothing_else(folder: Path) -> None:
    for provider in providers.Provider.__args__[:2]:  # type: ignore[attr-defined]
        opened = Artifact.open(folder, provider=provider)
        assert opened.provider == "cpu"


@pytest.mark.parametrize(
    ("provider", "loads", "found"), [("cuda", ALL[2:], "cpu"), ("tensorrt", ALL[1:], "cuda")]
)
def test_a_provider_that_does_not_load_is_no_silent_fall_back(
    provider: Any,
    loads: list[str],
    found: str,
    folder: Path,
    with_gpu: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = with_gpu(loads)
    with pytest.raises(ProviderError, match=rf"could not load it and would run on {found}: its"):
        Artifact.open(folder, provider=provider)
    assert opened.calls[0]["enable_fallback"] == 0


def test_auto_takes_cuda_where_it_loads_and_says_where_it_does_not(
    folder: Path, with_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    opened = with_gpu()
    artifact = Artifact.open(folder)
    assert artifact.provider == "cuda"
    assert [name for name, _ in opened.calls[0]["providers"]] == ALL[1:]
    assert not any(session.falls_back for session in artifact._sessions.values())
    assert not caplog.records
    with_gpu(["CPUExecutionProvider"])
    assert Artifact.open(folder).provider == "cpu"
    assert "the provider cuda, which does not load here, so stranger@1 runs on cpu" in caplog.text


def test_a_graph_that_fails_on_a_gpu_is_refused_with_the_provider(
    folder: Path, with_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu()

    def fails(*_: Any, **more: Any) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")

    monkeypatch.setattr(ort, "InferenceSession", fails)
    with pytest.raises(ArtifactError, match=r"loads with provider cuda: CUDA failure 100"):
        Artifact.open(folder, provider="cuda")


def test_trials_run_on_the_cpu_where_there_is_a_gpu(folder: Path, with_gpu: Any) -> None:
    from aigc.artifact.folder import SealedFolder

    opened = with_gpu()
    sealed = SealedFolder.open(str(folder))
    contents = sealed.contents(*sealed.graphs())
    options = ProviderOptions(provider="cuda")
    artifact = Artifact(sealed.manifest, "", contents, 1, arena=False, options=options)
    assert artifact.provider == "cpu"
    assert opened.calls[0]["providers"] == [("CPUExecutionProvider", {})]


def test_cuda_is_bounded_in_memory_and_exact_in_float32() -> None:
    told = providers.cuda_options(ProviderOptions(provider="cuda", gpu_memory=4 << 30))
    assert told["gpu_mem_limit"] == f"{4 << 30}"
    assert told["use_tf32"] == "0"
    assert "gpu_mem_limit" not in providers.cuda_options(ProviderOptions(provider="cuda"))


def test_profile_covers_every_batch_at_every_size_of_the_axes() -> None:
    profile = tensorrt.profile_of([SIGNATURES["sample"]], max_batch=16)
    assert profile.options() == {
        "trt_profile_min_shapes": "latent:1x4x2x2,label:1",
        "trt_profile_opt_shapes": "latent:16x4x4x6,label:16",
        "trt_profile_max_shapes": "latent:16x4x12x12,label:16",
    }
    enlarge = SIGNATURES["enlarge"]
    wider = replace(enlarge, axes={**enlarge.axes, "h": replace(enlarge.axes["h"], max=64)})
    shared = tensorrt.profile_of([enlarge, wider], max_batch=2)
    assert (shared.smallest, shared.largest) == (
        {"image": (1, 1, 4, 4)},
        {"image": (2, 1, 64, 16)},
    )


def test_profile_refuses_a_name_that_its_notation_cannot_hold() -> None:
    signature = SIGNATURES["hum"]
    renamed = replace(signature, inputs=(replace(signature.inputs[0], name="model:0"),))
    with pytest.raises(ProviderError, match="cannot take the input 'model:0'"):
        tensorrt.profile_of([renamed], max_batch=2)


def test_engines_of_other_artifacts_machines_versions_and_shapes_lie_apart() -> None:
    profile = tensorrt.profile_of([SIGNATURES["hum"]], max_batch=4)
    given: dict[str, Any] = {
        "root": Path("/cache"),
        "digest": "a" * 64,
        "gpu": H200,
        "profile": profile,
        "onnxruntime": "1.32.0",
        "tensorrt": "10.13.3",
    }
    found = tensorrt.engine_folder(**given)
    assert found.parent == Path("/cache") / ("a" * 64)
    assert found.name.startswith("nvidia-h200-sm9.0-ort1.32.0-trt10.13.3-")
    others = [
        {"digest": "b" * 64},
        {"gpu": replace(H200, name="NVIDIA L4")},
        {"gpu": replace(H200, capability="8.9")},
        {"profile": tensorrt.profile_of([SIGNATURES["hum"]], max_batch=8)},
        {"onnxruntime": "1.33.0"},
        {"tensorrt": "10.14.0"},
    ]
    folders = {found, *(tensorrt.engine_folder(**{**given, **other}) for other in others)}
    assert len(folders) == 1 + len(others)


def test_tensorrt_gets_profile_cache_and_the_graph_s_precision(
    folder: Path, with_gpu: Any, tmp_path: Path
) -> None:
    from aigc.artifact.folder import SealedFolder

    opened = with_gpu()
    sealed = SealedFolder.open(str(folder))
    contents = sealed.contents(*sealed.graphs())
    options = ProviderOptions(
        provider="tensorrt", gpu_memory=1 << 30, engine_cache=str(tmp_path / "e"), max_batch=8
    )
    artifact = Artifact(sealed.manifest, "", contents, 1, options=options)
    assert artifact.provider == "tensorrt"
    names, told = zip(*opened.calls[0]["providers"], strict=True)
    assert list(names) == ALL
    kept = Path(told[0]["trt_engine_cache_path"])
    assert kept.is_relative_to(tmp_path / "e" / sealed.manifest.digest)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert told[0]["trt_profile_max_shapes"] == "latent:8x4,label:8"
    assert (told[0]["trt_fp16_enable"], told[0]["trt_max_workspace_size"]) == ("0", f"{1 << 30}")
    assert told[1]["gpu_mem_limit"] == f"{1 << 30}"


def test_engines_are_not_read_from_a_folder_that_others_may_write(tmp_path: Path) -> None:
    tensorrt.make_private(tmp_path / "mine")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ProviderError, match="which other users may write to: an engine is code"):
        tensorrt.make_private(shared)


class Driver:
    """The functions of libcuda that are called, for one H200; all fail with a `status`."""

    def __init__(self, status: int = 0) -> None:
        def answer(name: str, fill: Callable[..., None]) -> Any:
            def call(*arguments: Any) -> int:
                if not status:
                    fill(*arguments)
                return status

            call.__name__ = name
            return call

        def put(target: Any, value: int) -> None:
            target._obj.value = value

        self.cuInit = answer("cuInit", lambda flags: None)
        self.cuDeviceGet = answer("cuDeviceGet", lambda at, n: put(at, n))
        self.cuDeviceGetName = answer(
            "cuDeviceGetName", lambda at, n, d: setattr(at, "value", b"NVIDIA H200")
        )
        self.cuDeviceTotalMem_v2 = answer("cuDeviceTotalMem_v2", lambda at, d: put(at, 140 << 30))
        self.cuDeviceGetAttribute = answer(
            "cuDeviceGetAttribute", lambda at, which, d: put(at, {75: 9, 76: 0}[which])
        )


def test_the_driver_describes_the_gpu_or_says_that_there_is_none() -> None:
    assert first_gpu(Driver()) == H200
    with pytest.raises(ProviderError, match="cuInit of NVIDIA's driver gives error 100"):
        first_gpu(Driver(status=100))


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_references_are_reproduced_on_a_gpu(
    provider: Any, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if provider not in providers.available():
        pytest.skip("onnxruntime-gpu is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    artifact = Artifact.open(sealed, provider=provider)
    assert artifact.provider == provider
    assert first_gpu().total_bytes > 0
    assert artifact.sample(seed=7, n=5)["image"].shape[0] == 5
    if provider == "tensorrt":
        assert list(tmp_path.rglob("*.engine"))
