"""Errors of a runner as HTTPErrors.

with as_http_errors(runner, n):
    outputs = await runner.submit(params)
"""

from collections.abc import Iterator
from contextlib import contextmanager

from aigc.artifact.outputs import OutputError
from serve.batching.jobs import (
    ClosedError,
    DeadlineError,
    OverloadedError,
    RunTooLongError,
    TooLateError,
    UnavailableError,
)
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner
from serve.http import RETRY_SOON


@contextmanager
def as_http_errors(runner: SignatureRunner, n: int) -> Iterator[None]:
    """Raise HTTPError for a runner's error, and count `n` samples that were refused."""
    try:
        yield
    except OverloadedError as error:
        late = isinstance(error, TooLateError)
        runner.metrics.shed(n, "deadline" if late else "overloaded")
        retry = (b"retry-after", b"%d" % error.retry_after_s)
        raise HTTPError(503, "overloaded", f"{error}", [retry]) from None
    except DeadlineError as error:
        runner.metrics.shed(n, "deadline")
        raise HTTPError(504, "deadline_exceeded", f"{error}") from None
    except ClosedError as error:
        runner.metrics.shed(n, "shutting_down")
        message = f"{error}" or "this replica shuts down; try again"
        raise HTTPError(503, "shutting_down", message, [RETRY_SOON]) from None
    except UnavailableError as error:
        runner.metrics.shed(n, "overloaded")
        raise HTTPError(503, "pool_unavailable", f"{error}", [RETRY_SOON]) from None
    except RunTooLongError as error:
        raise HTTPError(504, "run_too_long", f"{error}") from None
    except OutputError as error:
        message = f"{runner.artifact.id} failed on this request, and nothing of it is sent: {error}"
        raise HTTPError(500, "model_output", message) from None
