"""`aigc.serve`: a server that answers, ends with its block, its program, or an error of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

import aigc
from aigc.artifact import Artifact
from serve.local import server_process

pytestmark = pytest.mark.cluster


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_server_answers_within_its_block_and_leaves_no_process(
    sealed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a notebook, within a running event loop."""
    before = children()

    async def cell() -> None:
        with aigc.serve(Artifact.open(sealed), threads=1) as server:
            assert server.url.startswith("http://127.0.0.1:")
            assert repr(server) == f"<aigc.Server {server.url}, serving>"
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"{server.url}/v1/models")
            assert [model["id"] for model in answer.json()["data"]] == ["tiny@1"]
            assert children() > before
        assert repr(server).endswith("stopped>")

    asyncio.run(cell())
    assert children() == before
    output = capfd.readouterr()
    assert "Ctrl-C stops." in output.err
    assert output.out == ""


def test_program_that_is_killed_leaves_no_server(sealed: Path, tmp_path: Path) -> None:
    code = (
        f"import aigc, time\n"
        f"server = aigc.serve({str(sealed)!r}, quiet=True)\n"
        "print(server.url, server._process.pid, flush=True)\n"
        "time.sleep(300)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        _, pid = program.stdout.readline().split()
        server = psutil.Process(int(pid))
        processes = [server, *server.children(recursive=True)]
        program.kill()
    _, left = psutil.wait_procs(processes, timeout=60)
    assert left == []


def test_ctrl_c_ends_the_program_and_its_server(sealed: Path, tmp_path: Path) -> None:
    code = (
        "import aigc, time\n"
        f"with aigc.serve({str(sealed)!r}, quiet=True) as server:\n"
        "    print(server.url, server._process.pid, flush=True)\n"
        "    time.sleep(300)"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    _, pid = program.stdout.readline().split()
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    _, stderr = program.communicate(timeout=60)
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert not psutil.pid_exists(int(pid))


def test_server_that_ends_by_itself_is_an_error_of_its_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = (
        "import sys; sys.stdin.buffer.read(9); print('http://127.0.0.1:9', flush=True)\n"
        "sys.exit('aigc serve: a replica was lost')"
    )
    monkeypatch.setattr(server_process, "COMMAND", ("-c", code))
    server = aigc.serve("x", quiet=True)
    server._process.wait(60)
    with pytest.raises(RuntimeError, match="ended by itself: a replica was lost"), server:
        pass


def test_start_that_fails_says_why(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(ValueError, match="no artifact 'absent' in"):
        aigc.serve(tmp_path / "absent", quiet=True)
    with pytest.raises(ValueError, match="name at least one artifact to serve"):
        aigc.serve()
    with pytest.raises(ValueError, match=r"no option 'replica'; did you mean 'replicas'\?"):
        aigc.serve("x", replica=2)
    with pytest.raises(ValueError, match=r"threads: Expected `int \| null`, got `str`"):
        aigc.serve("x", threads="many")
    assert children() == before
