"""Every command with bad input: exit status 1 or 2, one sentence, nothing of this program's inside.

The commands run in this process, through `aigc.cli.main`, in a folder with one of each thing that a
user may point at by mistake, and leave it as it was.
"""

import io
import json
import re
import shutil
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aigc import cli
from tests.fixtures.make import ARTIFACT, RUN

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore")]

DEAD = "http://127.0.0.1:9"
"""Port 9 of loopback is nobody's."""

TRAIN = ("train", "fc_gan:ring", "--samples", "32", "--threads", "1", "--grid-interval", "0")
DIGITS = ("train", "dcgan:digits", "--samples", "32", "--threads", "1", "--grid-interval", "0")


def wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\0" * 80)
    return buffer.getvalue()


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each thing that a user may point at; no mistake changes it."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ARTIFACT, folder / "store" / "tiny" / "1")
    for name in ("fine", "torn"):
        shutil.copytree(RUN, folder / "runs" / name)
    for path in (folder / "runs" / "torn").rglob("state.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    (folder / "runs" / "fresh").mkdir()
    shutil.copy(RUN / "config.json", folder / "runs" / "fresh")
    for how in ("empty", "list", "binary", "number", "cut"):
        for kind, whole in (("runs", RUN / "config.json"), ("store", ARTIFACT / "manifest.json")):
            damaged = folder / kind / how / ("1" if kind == "store" else "") / whole.name
            damaged.parent.mkdir(parents=True)
            damaged.write_bytes(damage(whole.read_bytes(), how))
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGC_KEY", raising=False)
    return place


LOCKS = (".lock", "lease.json", ".lease.json.lock")
"""Taken, and then let be, in a run that is there."""


def everything(folder: Path) -> dict[str, bytes | None]:
    """Contents by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name not in LOCKS
    }


def damage(text: bytes, how: str) -> bytes:
    cut = text[: len(text) // 2]
    return {"empty": b"", "list": b"[]", "binary": b"\xff\xfe\0", "number": b"3", "cut": cut}[how]


FILES = {
    "text.txt": b"just words\n",
    "latin1.txt": b"caf\xe9\n",
    "zero": b"",
    "garbage.npz": b"PK\x03\x04 not a zip",
    "words.npz": npz(words=np.array(["a", "b"])),
    "objects.npz": npz(images=np.array([{"a": 1}], dtype=object)),
    "five.npz": npz(images=np.zeros((9, 5, 8, 8), np.float32)),
    "garbage.parquet": b"PAR1 and then nothing",
    "garbage.tar": b"ustar? no",
    "garbage.png": b"\x89PNG\r\n\x1a\n and then nothing",
    "pictures/one/a.png": b"\x89PNG\r\n\x1a\n and then nothing",
    "short.wav": wav()[:30],
    "silent.wav": wav(),
    "sounds/one/a.wav": wav()[:30],
    "shards/train-0.parquet": b"PAR1 and then nothing",
    "tars/train-0.tar": b"ustar? no",
    "idx/train-images-idx3-ubyte": b"\0\0\x08\x03",
    "idx/train-labels-idx1-ubyte": b"\0\0\x08\x01",
    "hf/dataset_info.json": b"{",
    "keys.toml": b'[[key]]\nname = "alice"\nsha256 = "' + b"0" * 64 + b'"\n',
    "broken.toml": b"[[key",
    "broken.yaml": b"pools: [",
    "list.yaml": b"- 1\n",
    "odd.yaml": b"pools: {a: {artifacts: 3}}\n",
    "key.pem": b"-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n",
}


def read(source: str, path: str, *more: str) -> tuple[str, ...]:
    return (*DIGITS, "--data.source", source, "--data.path", path, *more)


MISTAKES: list[tuple[str, ...]] = [
    ("tarin",),
    ("--samples",),
    # train
    ("train",),
    ("train", "dcgna"),
    ("train", "dcgan:digit"),
    ("train", "/etc/passwd"),
    (*TRAIN, "--samples", "0"),
    (*TRAIN, "--samples", "many"),
    (*TRAIN, "--seed", "-1"),
    (*TRAIN, "--sampels", "3"),
    (*TRAIN, "--batch", "1"),
    (*TRAIN, "--ema-warmup", "nan"),
    (*TRAIN, "--workers", "x"),
    (*TRAIN, "--workers", "4..2"),
    (*TRAIN, "--workers", "100000"),
    (*TRAIN, "--address", "nowhere"),
    (*TRAIN, "--address", "nowhere.invalid:1", "--workers", "1"),
    (*TRAIN, "--address", "127.0.0.1:9", "--workers", "1"),
    (*TRAIN, "--threads", "100000"),
    (*TRAIN, "--data.loaders", "100000"),
    (*TRAIN, "--metrics-port", "99999999"),
    (*TRAIN, "--metrics-port", "-5"),
    (*TRAIN, "--storage", "memory://runs"),
    (*TRAIN, "--storage", "s3://"),
    (*TRAIN, "--storage", "text.txt"),
    (*TRAIN, "--storage", ""),
    (*TRAIN, "--name", "n" * 300),
    (*TRAIN, "--storage", "/proc/1/runs"),
    (*TRAIN, "--storage", "x" * 300),
    (*TRAIN, "--name", "a/b"),
    (*TRAIN, "--name", ""),
    (*TRAIN, "--preset", "dcgan:digits"),
    (*TRAIN, "--data.path", "text.txt"),
    (*TRAIN, "--data.source", "digitz"),
    (*TRAIN, "--data.source", "numbers"),
    (*TRAIN, "--data.source", "digits3"),
    (*TRAIN, "--init-from", "runs/empty"),
    (*TRAIN, "--init-from", "runs/fresh"),
    (*TRAIN, "--init-from", "runs/torn"),
    (*TRAIN, "--init-from", "store/tiny"),
    (*TRAIN, "--init-from", "store/cut"),
    (*TRAIN, "--init-from", "nowhere://x"),
    (*TRAIN, "--init-from", "text.txt"),
    (*TRAIN, "--name", "fine"),
    (*TRAIN, "--name", "fine", "--resume"),
    (*TRAIN, "--name", "empty", "--resume"),
    (*TRAIN, "--name", "list", "--resume"),
    (*TRAIN, "--name", "binary", "--resume"),
    (*TRAIN, "--name", "cut", "--resume"),
    (*TRAIN, "--dry-run", "--data.source", "folder"),
    (*TRAIN, "--model.shape", "0"),
    (*TRAIN, "--model.latent", "-3"),
    (*TRAIN, "--model.num-classes", "5"),
    read("folder", ""),
    read("folder", "absent"),
    read("folder", "nothing"),
    read("folder", "text.txt"),
    read("folder", "pictures", "--model.num-classes", "1"),
    read("folder", "nowhere://bucket"),
    read("folder", "pictures::x"),
    read("idx", "absent"),
    read("idx", "nothing"),
    read("idx", "idx"),
    read("npz", "absent"),
    read("npz", "text.txt"),
    read("npz", "garbage.npz"),
    read("npz", "words.npz"),
    read("npz", "objects.npz"),
    read("npz", "five.npz", "--model.num-classes", "0", "--model.auxiliary", "0"),
    read("parquet", "absent"),
    read("parquet", "shards"),
    read("parquet", "garbage.parquet"),
    read("webdataset", "tars"),
    read("webdataset", "nothing"),
    read("hf", "hf"),
    read("hf", "nothing"),
    read("hf", "absent"),
    read("text", "latin1.txt"),
    read("paired", "nothing"),
    ("train", "audio_vae", "--data.source", "audio", "--data.path", "sounds"),
    ("train", "text_vae:numbers", "--data.source", "text", "--data.path", "latin1.txt"),
    ("train", "text_vae:numbers", "--data.source", "text", "--data.path", "zero"),
    # export
    ("export",),
    ("export", "nowhere", "--name", "x"),
    ("export", "text.txt", "--name", "x"),
    ("export", "runs/empty", "--name", "x"),
    ("export", "runs/list", "--name", "x"),
    ("export", "runs/binary", "--name", "x"),
    ("export", "runs/number", "--name", "x"),
    ("export", "runs/cut", "--name", "x"),
    ("export", "runs/fresh", "--name", "x"),
    ("export", "runs/torn", "--name", "x"),
    ("export", "runs/fine", "--name", "X Y"),
    ("export", "runs/fine", "--name", "x", "--version", "one"),
    ("export", "runs/fine", "--name", "tiny", "--version", "1", "--out", "store"),
    ("export", "runs/fine", "--name", "x", "--out", "nowhere://bucket"),
    ("export", "runs/fine", "--name", "x", "--sign", "absent.pem"),
    ("export", "runs/fine", "--name", "x", "--sign", "key.pem"),
    # import
    ("check-model", "nowhere"),
    ("check-model", "dcgan", "--only", "nothing"),
    ("check-data", "nowhere", "--for", "dcgan"),
    ("check-data", "digits"),
    ("import",),
    ("import", "--name", "x"),
    ("import", "absent.onnx", "--name", "x"),
    ("import", "store", "--name", "x"),
    ("import", "text.txt", "--name", "x"),
    ("import", "text.txt", "text.txt", "--name", "x"),
    ("import", "text.txt", "--name", "x", "--range", "black"),
    ("import", "store/tiny/1/generator.onnx", "--name", "x", "--classes", "absent"),
    ("import", "store/tiny/1/generator.onnx", "--name", "x", "--kind", "z=latent"),
    # data
    ("data", "digits3", "absent"),
    ("data", "folder", "absent"),
    ("data", "absent"),
    ("data", "file:///absent"),
    ("data", f"{DEAD}/x"),
    ("data", "webdataset", f"{DEAD}/x"),
    ("data", "ftp://127.0.0.1:9/x"),
    ("data", "zip://x.zip"),
    ("data", "words.npz"),
    ("data", "pictures", "--picture", "nothing"),
    # evaluate
    ("evaluate", "nowhere"),
    ("evaluate", "text.txt"),
    ("evaluate", "store/empty"),
    ("evaluate", "store/list"),
    ("evaluate", "store/cut"),
    ("evaluate", "store/tiny@9"),
    ("evaluate", "store/tiny", "--sign", "key.pem"),
    ("evaluate", "store/tiny", "--seed", "-1"),
    ("evaluate", "store/tiny", "--data", "pictures"),
    # sample
    ("sample", "nowhere"),
    ("sample", "store"),
    ("sample", "store/empty"),
    ("sample", "store/list"),
    ("sample", "store/binary"),
    ("sample", "store/number"),
    ("sample", "store/cut"),
    ("sample", "nowhere://bucket/x"),
    ("sample", "store/tiny", "-n", "0"),
    ("sample", "store/tiny", "-n", "-1"),
    ("sample", "store/tiny", "--seed", "-1"),
    ("sample", "store/tiny", "--seed", "9" * 40),
    ("sample", "store/tiny", "--label", "99"),
    ("sample", "store/tiny", "--label", "seven"),
    ("sample", "store/tiny", "--format", "bmp"),
    ("sample", "store/tiny", "--signature", "encode"),
    ("sample", "store/tiny", "--inputs", "image", "garbage.png"),
    ("sample", "store/tiny", "-n", "2", "--out", "text.txt"),
    ("sample", "store/tiny", "-n", "2", "--out", "/proc/1/out"),
    ("sample", "store/tiny", "--trust", "absent.pem"),
    ("sample", "store/tiny", "--trust", "text.txt"),
    ("sample", DEAD),
    ("sample", "http://"),
    ("sample", "http://[::1"),
    ("sample", "https://nowhere.invalid"),
    # verify
    ("verify", "absent"),
    ("verify", "nothing"),
    ("verify", "text.txt"),
    ("verify", "zero"),
    ("verify", "garbage.png"),
    ("verify", "short.wav"),
    ("verify", "silent.wav"),
    ("verify", "store/binary"),
    ("verify", "store/number"),
    # runs
    ("runs", "absent"),
    ("runs", "text.txt"),
    ("runs", "ftp://x"),
    ("runs", "s3://"),
    ("runs", "prune"),
    ("runs", "prune", "nothing"),
    ("runs", "prune", "runs/fine", "--keep", "0"),
    ("runs", "prune", "s3://bucket/run"),
    # deploy
    ("deploy",),
    ("deploy", "store/empty", "--url", DEAD),
    ("deploy", "store/tiny", "--url", DEAD),
    ("deploy", "store/tiny", "--url", "nonsense"),
    ("deploy", "--remove", "x", "--url", DEAD),
    # keys
    ("keys",),
    ("keys", "new"),
    ("keys", "old", "x"),
    ("keys", "new", 'a"b'),
    ("keys", "new", "x", "--scope", "root"),
    ("keys", "new", "x", "--samples-per-s", "-1"),
    ("keys", "new", "x", "--samples-per-s", "nan"),
    ("keys", "new", "x", "--burst", "3"),
    ("keys", "new", "alice", "--file", "keys.toml"),
    ("keys", "new", "x", "--file", "broken.toml"),
    ("keys", "new", "x", "--file", "latin1.txt"),
    ("keys", "new", "x", "--file", "nothing"),
    ("keys", "new", "x", "--file", "absent/keys.toml"),
    # k8s
    ("k8s", "apply"),
    ("k8s", "check", "absent"),
    ("k8s", "check", "broken.yaml"),
    ("k8s", "check", "latin1.txt"),
    # doctor, bench, metrics
    ("doctor", "--now"),
    ("tune", "fc_gan:ring"),
    ("tune", "fc_gan:ring", "--over", "batchh=32,64"),
    ("tune", "fc_gan:ring", "--over", "batch=64..32"),
    ("tune", "dcgna", "--over", "batch=32,64"),
    ("bench", "serve"),
    ("bench", "train", "dcgna"),
    ("bench", "train", "fc_gan:ring", "--batches", "0"),
    ("bench", "train", "fc_gan:ring", "--threads", "100000"),
    ("bench", "train", "fc_gan:ring", "--data.source", "folder"),
    ("bench", "train", "fc_gan:ring", "--device", "tpu"),
    ("metrics",),
    ("metrics", "--dir", "text.txt"),
    ("metrics", "--dir", "nothing", "--port", "99999999"),
    # serve
    ("serve",),
    ("serve", "nowhere"),
    ("serve", "store/empty"),
    ("serve", "store/list"),
    ("serve", "store/tiny", "--port", "99999999"),
    ("serve", "store/tiny", "--host", "nowhere.invalid"),
    ("serve", "store/tiny", "--replicas", "x"),
    ("serve", "store/tiny", "--threads", "100000"),
    ("serve", "store/tiny", "--keys", "absent"),
    ("serve", "store/tiny", "--keys", "broken.toml"),
    ("serve", "store/tiny", "--keys", "zero"),
    ("serve", "--config", "absent"),
    ("serve", "--config", "broken.yaml"),
    ("serve", "--config", "list.yaml"),
    ("serve", "--config", "odd.yaml"),
    ("serve", "--config", "latin1.txt"),
    ("serve", "store/tiny", "--trust", "text.txt"),
]

INSIDE = re.compile(
    r"Traceback|0x[0-9a-f]{6,}|<_io\.|<class |<function |<module | object at |\bNone\b|NoneType"
    r"|\bself\b"
)
"""Words that no user has to read."""


REPORT = ("data: ring ", "classes: ", "values: ")
"""Lines that a run begins with; what is refused later is told behind them."""


def call(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["aigc", *arguments])
    try:
        return cli.main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda words: " ".join(words)[:70])
def test_mistake_ends_with_a_sentence(
    arguments: tuple[str, ...],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = everything(here)
    assert call(arguments, monkeypatch) in (1, 2)
    assert everything(here) == before
    out, err = capfd.readouterr()
    said = err or out
    assert said.strip(), "nothing was said"
    # tyro names the choice of none as well, in a list of choices.
    assert INSIDE.search((out + err).replace("'None'", "")) is None, out + err
    # tyro draws a box, usage has its form, and `k8s check` counts at its end.
    if not said.startswith(("usage", "╭")) and arguments[:2] != ("k8s", "check"):
        *report, line = said.splitlines()
        assert all(each.startswith(REPORT) for each in report), said
        assert line.startswith("aigc")
        assert len(line) < 1000


UNREADABLE: dict[str, Callable[[Path], None]] = {
    "trainer.json": lambda path: path.write_text("[]") and None,
    "certificate.json": lambda path: path.write_text("[]") and None,
    "state.safetensors": lambda path: path.write_bytes(b"") and None,
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("command", ["export", "runs"])
def test_damaged_checkpoint_ends_no_command_with_a_traceback(
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RUN, tmp_path / "runs" / "fine")
    (path,) = (tmp_path / "runs" / "fine" / "checkpoints").glob(f"*/{name}")
    UNREADABLE[name](path)
    arguments = {"export": ("export", "runs/fine", "--name", "x"), "runs": ("runs", "runs")}
    status = call(arguments[command], monkeypatch)
    out, err = capfd.readouterr()
    assert INSIDE.search(out + err) is None
    assert status == (1 if command == "export" else 0)
    if command == "export":
        assert "passed over" in err or "no whole checkpoint" in err


def test_table_covers_every_command() -> None:
    from importlib.metadata import entry_points

    known = {point.name for point in entry_points(group="aigc.commands")}
    assert known <= {words[0] for words in MISTAKES}
    assert json.dumps(MISTAKES)
