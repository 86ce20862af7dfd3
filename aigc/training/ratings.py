"""Which checkpoints of a run are measured, and when."""

import queue
from collections.abc import Callable
from pathlib import Path

from aigc.config import TrainConfig
from aigc.training import run_folder
from aigc.training.evaluator import Evaluator, Measurement
from aigc.training.run_folder import CHECKPOINTS

OFF = "--evaluate-interval was 0 when its turn came"


class Ratings:
    """Requests measurements of checkpoints and passes them to `taken`. Rank 0 only.

    ratings = Ratings(folder, config, taken)
    ratings.written(path)    # from any thread, for every checkpoint that is whole
    ratings.poll()           # often; never waits
    """

    def __init__(
        self, folder: Path, config: TrainConfig, taken: Callable[[Measurement], None]
    ) -> None:
        self._folder, self._config, self._taken = folder, config, taken
        self._evaluator = Evaluator(folder)
        self._written: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._requested: set[int] = set()
        left = [int(path.name) for path in run_folder.unmeasured(folder / CHECKPOINTS)]
        if config.evaluate_interval:
            for samples in left:
                self._written.put(samples)
        else:
            for samples in left:
                taken(Measurement(samples, None, OFF))

    def due(self, samples: int) -> bool:
        """True if the state after `samples` is to be measured."""
        interval = self._config.evaluate_interval
        if not interval:
            return False
        crossed = samples // interval > (samples - self._config.batch) // interval
        return crossed or samples >= self._config.samples

    def written(self, checkpoint: Path) -> None:
        """Note a whole checkpoint."""
        if self.due(samples := int(checkpoint.name)):
            self._written.put(samples)

    def poll(self) -> None:
        """Request what is due, and pass on what was measured meanwhile."""
        while not self._written.empty():
            samples = self._written.get()
            if samples not in self._requested:  # a write that was repeated
                self._requested.add(samples)
                if failed := self._evaluator.put(samples):
                    self._taken(failed)
        for found in self._evaluator.take():
            self._taken(found)

    def finish(self, stop: Callable[[], bool]) -> None:
        """Wait for what is pending, unless `stop()`; the wait is bounded."""
        self.poll()
        for found in self._evaluator.results(stop):
            self._taken(found)

    def close(self) -> None:
        """End the evaluator's process."""
        self._evaluator.close()
