"""docs/import.md as a reader follows it: its programs and commands, in a folder of their own."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from aigc.commands import import_onnx, sample, verify
from serve.settings import Settings
from tests.sealing.foreign import upscaler
from tests.serve.client import serving

pytestmark = pytest.mark.process

PAGE = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
COMMANDS = {"import": import_onnx.command, "verify": verify.command, "sample": sample.command}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_examples_of_importing_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    metrics_dir: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    upscaler(tmp_path / "upscaler.onnx", names=("image", "large"))
    Image.new("RGB", (8, 8), "teal").save("small.png")
    (program,) = blocks("python")
    exec(compile(program, "import.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "artifacts/faces/1\n"
    for line in "".join(blocks("bash")).splitlines():
        words = shlex.split(line.removesuffix("&"))
        if words[0] == "curl":
            body = json.loads(words[words.index("-d") + 1])
            path = words[1].partition(":8000")[2]
            with serving(
                Settings(metrics_dir=str(metrics_dir)), f"{tmp_path}/artifacts/faces"
            ) as client:
                assert client.request("POST", path, json=body).status_code == 200
        elif words[1] in COMMANDS:
            assert COMMANDS[words[1]](words[2:]) == 0
        else:
            assert words[:2] == ["aigc", "serve"]
    said = re.search(r"^```\n(input .*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert said is not None
    assert said[1] in capsys.readouterr().err
