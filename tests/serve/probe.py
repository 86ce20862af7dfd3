"""A view into a replica of this process: the only place in which its tests know its insides."""

from serve.hosting.models import HostedModel
from serve.hosting.pool_client import PoolClient
from serve.hosting.pool_worker import ModelReplica
from serve.hosting.runner import LocalRunner


class Probe:
    """State of a replica that neither its responses nor its log tell."""

    def __init__(self, replica: ModelReplica) -> None:
        self._replica = replica
        self.batcher = replica._batcher
        self.metrics = replica._metrics
        self.memory = replica._memory

    @property
    def queued(self) -> int:
        """Number of samples that wait."""
        return self.batcher.queued

    @property
    def idle(self) -> bool:
        """True while the batcher has nothing to do."""
        return self.batcher.running_since_s is None and self.batcher.queued == 0

    def model(self, name: str = "") -> HostedModel:
        """A hosted model by its id; the first one by default."""
        models = self._replica._models
        assert models is not None
        return next(one for one in models.all if name in ("", one.id))

    def runner(self, model: str = "", *, tensors: bool = False) -> LocalRunner:
        """Runner of the signature "sample"; with `tensors`, the one that keeps images as floats."""
        hosted = self.model(model)
        runner = (hosted.tensors if tensors else hosted.runners)["sample"]
        assert isinstance(runner, LocalRunner)
        return runner

    async def loaded(self) -> None:
        """Wait until what is wanted is hosted or refused."""
        if self._replica._loading is not None:
            await self._replica._loading

    def pool(self, name: str) -> PoolClient:
        """Client of another pool, of an ingress replica."""
        return self._replica._pools[name]

    def outstanding(self, pool: str) -> int:
        """Samples that another pool has not answered yet."""
        return self.pool(pool).outstanding

    def count(self, name: str, **labels: str) -> float:
        """Sum of the series of this name that have these labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
