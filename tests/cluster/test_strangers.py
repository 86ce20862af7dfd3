"""Other users of the machine cannot reach a running `aigc train`."""

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from aigc.training.run import Run
from tests import strangers
from tests.cluster.runs import DIGITS, family, start, wait_until_beyond

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def test_a_stranger_reaches_no_file_and_no_call_of_ray(tmp_path: Path) -> None:
    process = start(tmp_path, "run", *DIGITS, "--samples", "640000")
    try:
        wait_until_beyond(Run(tmp_path / "run"), 0, process)
        tree = family(process)
        told = ""
        for one in tree:
            with suppress(psutil.NoSuchProcess):
                told += " ".join([*one.cmdline(), ""])
        (folder,) = set(re.findall(r"(/\S*/aigc-[^/\s]+)/r/session_", told))
        assert strangers.reachable(Path(folder), tree) == []
        answering: Counter[str] = Counter()
        for one in tree:
            with suppress(psutil.NoSuchProcess):  # Ray ends idle workers as it likes
                for each in one.net_connections("inet"):
                    if each.status == psutil.CONN_LISTEN:
                        assert each.laddr.ip.removeprefix("::ffff:") == "127.0.0.1", one.cmdline()
                        answering[title(one)] += not strangers.unauthenticated(each.laddr.port)
        more = {name: n for name, n in answering.items() if n > WITHOUT_TOKEN.get(name, 0)}
        assert more == {}
    finally:
        process.terminate()
        process.communicate(timeout=60)


WITHOUT_TOKEN = {
    "monitor.py": 1,
    "dashboard.py": 1,
    "ray::DashboardAgent": 1,
    # Metrics above; here torch's, by which the workers exchange gradients.
    "ray::RayTrainWorker": 2,
}
"""Largest number of loopback sockets that may answer a call without a token."""


def title(process: psutil.Process) -> str:
    line = process.cmdline()
    found = [Path(word).name for word in line if word.endswith(("monitor.py", "dashboard.py"))]
    return found[0] if found else re.split(r"[:.]*[. ]", line[0])[0]
