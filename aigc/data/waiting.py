"""A clock on stderr for work whose length is not known."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on stderr, from the second second on, that something takes its time."""
    from tqdm import tqdm

    over = threading.Event()
    bar = tqdm(desc=what, bar_format="{desc}: {elapsed}", delay=2, leave=False)

    def show() -> None:
        while not over.wait(1):
            bar.update()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bar.close()
