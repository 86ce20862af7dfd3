"""Speed of a loop in its steady state: the first half of the batches does not count."""

import time


class Steady:
    """Ticked once after each batch.

    clock = Steady(batches=400, batch=64)
    while not clock.tick(): ...
    clock.samples_per_second
    """

    def __init__(self, batches: int, batch: int) -> None:
        self.batches, self.batch = batches, batch
        self.done = 0
        self.begun = self.ended = 0.0

    def tick(self) -> bool:
        """Count a batch; whether all are done. Later ticks change nothing."""
        self.done += 1
        if self.done == self.batches // 2:
            self.begun = time.perf_counter()
        if self.done == self.batches:
            self.ended = time.perf_counter()
        return self.done >= self.batches

    @property
    def samples_per_second(self) -> float:
        """Speed of the second half, over the whole global batch."""
        counted = self.batches - self.batches // 2
        return counted * self.batch / (self.ended - self.begun)
