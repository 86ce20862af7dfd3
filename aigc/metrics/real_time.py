"""Real-time factor: seconds of work for a second of sound, on one thread."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aigc.config import require


def real_time_factor(
    work: Callable[[], object],
    sound_s: float,
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Median over rounds of the seconds that `work` takes, per second of the sound it makes.

    Below 1 it is faster than real time. One round before is not counted. torch, if it is loaded,
    has one thread meanwhile; the clock counts CPU seconds of all threads of this process, so other
    work on the machine hardly matters, and neither does that of programs that `work` starts:
    time.perf_counter counts those too. Raises ValueError for no sound or no rounds.
    """
    require(sound_s > 0, f"sound_s must be > 0 s, got {sound_s}")
    require(rounds >= 1, f"rounds must be >= 1, got {rounds}")
    taken = []
    with _one_thread():
        work()
        for _ in range(rounds):
            start = clock()
            work()
            taken.append(clock() - start)
    return statistics.median(taken) / sound_s


@contextmanager
def _one_thread() -> Iterator[None]:
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
