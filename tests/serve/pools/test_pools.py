"""Two pools in one `aigc serve --config`: forwarded, woken, killed, deployed, refused."""

import base64
import io
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from numpy.typing import NDArray

from aigc.artifact import Artifact, Store, image_files
from serve.hosting.deploy import command as deploy
from tests.serve.artifacts import publish
from tests.serve.servers import Server, title, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def other(store: Path) -> Artifact:
    """other@1, opened beside the server."""
    return Artifact.open(f"{store}/other@1")


def large(server: Server) -> list[psutil.Process]:
    """The replicas of the other pool."""
    return [one for one in server.replicas() if ":large" in title(one)]


def expected(artifact: Artifact, n: int) -> NDArray[np.uint8]:
    return artifact.uint8("sample", artifact.sample(seed=7, n=n))


def npy(server: Server, **fields: Any) -> httpx.Response:
    asked = {"model": "other", "seed": 7, "n": 3, "format": "npy", **fields}
    return httpx.post(f"{server.url}/v1/samples", json=asked, timeout=60)


def test_both_pools_return_the_samples_of_their_artifacts(
    pools: Server, artifact: Artifact, other: Artifact
) -> None:
    """Native, OpenAI's and the inference protocol's route; the pool's replica signs its own."""
    replicas = set()
    for model, opened in (("tiny", artifact), ("other", other)):
        answer = npy(pools, model=model)
        assert answer.status_code == 200, answer.text
        pixels = expected(opened, 3)
        assert np.array_equal(np.load(io.BytesIO(answer.content)), pixels)
        replicas.add(answer.headers["x-aigc-replica"])
        asked = {"model": model, "prompt": "three", "n": 1, "seed": 7}
        image = httpx.post(f"{pools.url}/v1/images/generations", json=asked, timeout=60)
        one = opened.uint8("sample", opened.sample(seed=7, n=1, label=3))[0]
        found, _ = image_files.read_png(base64.b64decode(image.json()["data"][0]["b64_json"]))
        assert np.array_equal(found, one)
        inferred = httpx.post(
            f"{pools.url}/v2/models/{model}/infer",
            json={"parameters": {"seed": 7, "n": 3}, "outputs": [{"name": "pixels"}]},
            timeout=60,
        ).json()
        assert inferred["outputs"][0]["data"] == pixels.reshape(-1).tolist()
    assert len(replicas) == 2
    models = httpx.get(f"{pools.url}/v1/models").json()["data"]
    assert {model["provider"] for model in models} == {"cpu"}
    ids = [model["id"] for model in models]
    assert ids == sorted(ids)
    assert {"other@1", "tiny@1", "words@1"} <= set(ids)


def test_texts_stream_from_another_pool(pools: Server, words: str) -> None:
    artifact = Artifact.open(words, verify=False)
    fields: dict[str, Any] = {"model": "words", "prompt": "", "seed": 7, "n": 40}
    expected = artifact.texts("sample", artifact.sample(seed=7, n=40))
    with openai.OpenAI(base_url=f"{pools.url}/v1", api_key="any", max_retries=0) as client:
        found, chunks = [""] * 40, 0
        for chunk in client.completions.create(**fields, stream=True):
            found[chunk.choices[0].index] += chunk.choices[0].text
            chunks += 1
        assert found == expected
        assert chunks >= 40
        stream = client.completions.create(**fields, stream=True)
        next(iter(stream))
        stream.close()
        whole = client.completions.create(**fields)
        assert [choice.text for choice in whole.choices] == expected


def test_a_pool_scales_to_zero_and_a_request_wakes_it(pools: Server, other: Artifact) -> None:
    wait_until(lambda: not large(pools))
    asked = {"model": "other", "n": 1}
    headers = {"x-request-timeout": "0.2"}
    late = httpx.post(f"{pools.url}/v1/samples", json=asked, headers=headers, timeout=60)
    assert late.status_code == 504, "what cannot wait for the start is told so"
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: npy(pools, n=n), range(1, 9)))
    for n, answer in enumerate(answers, 1):
        assert answer.status_code == 200, answer.text
        assert np.array_equal(np.load(io.BytesIO(answer.content)), expected(other, n))
    assert len(large(pools)) == 1


def test_a_killed_replica_fails_only_requests_it_had_begun(pools: Server, other: Artifact) -> None:
    """It may have died of it, so nobody runs it again; what comes after waits for the next one."""
    assert npy(pools).status_code == 200
    stop = threading.Event()

    def ask(_: int) -> list[tuple[int, bytes]]:
        answers = []
        while not stop.is_set():
            answer = npy(pools)
            answers.append((answer.status_code, answer.content))
        return answers

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask, number) for number in range(4)]
        try:
            time.sleep(3)  # one that was leaving when they began is gone by then
            wait_until(lambda: len(large(pools)) == 1)
            (victim,) = large(pools)
            victim.send_signal(signal.SIGKILL)
            with suppress(psutil.Error):
                victim.wait(10)
            wait_until(lambda: large(pools) and large(pools)[0].pid != victim.pid)
            wait_until(lambda: npy(pools).status_code == 200)
            time.sleep(1)
        finally:
            stop.set()
        answers = [answer for each in asking for answer in each.result()]
    assert len(answers) > 20
    assert len({content for status, content in answers if status == 200}) == 1
    lost = [content for status, content in answers if status != 200]
    assert len(lost) <= 4, "at most one of each client was under way"
    assert all(b'"pool_unavailable"' in content for content in lost)


def test_deploy_into_another_pool_wakes_it(
    pools: Server,
    signed: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also while it has no replica: the candidate wakes it."""
    uri = signed(publish(Store(tmp_path / "store"), tmp_path / "build", "big", 9))
    wait_until(lambda: not large(pools))
    assert deploy([uri, "--url", pools.url, "--pool", "large"]) == 0
    assert f"hosted  {uri} in pool large" in capsys.readouterr().err
    answer = npy(pools, model="big")
    assert np.array_equal(np.load(io.BytesIO(answer.content)), expected(Artifact.open(uri), 3))
    assert npy(pools).status_code == 200
    pids = {one.pid for one in pools.replicas()}
    assert deploy(["--remove", "big", "--url", pools.url]) == 0
    wait_until(lambda: npy(pools, model="big").status_code == 404)
    assert npy(pools).status_code == 200
    assert {one.pid for one in pools.replicas()} <= pids, "no replica was started anew"


def test_deploy_refuses_what_exceeds_the_memory_of_the_pool(
    pools: Server, signed: Callable[[str], str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    uri = signed(publish(store, tmp_path / "build", "heavy", 9, ballast=256 << 20))
    with pytest.raises(ValueError, match=r"heavy@1 does not fit.*may hold 640\.0 MiB"):
        deploy([uri, "--url", pools.url, "--pool", "large"])
    assert npy(pools).status_code == 200
    assert npy(pools, model="heavy").status_code == 404
