"""An iterator that runs ahead in a thread of its own."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 0.1  # seconds between two looks at whether the consumer has gone


def prefetch(source: Iterator[T], ahead: int) -> Iterator[T]:
    """Yield what `source` yields, made in a thread of its own: no more than `ahead` items that are not taken yet.

    An exception of `source` is raised here, in its turn. The thread starts at the first `next` and ends when this
    iterator is exhausted or closed.
    """
    ready: queue.Queue = queue.Queue()
    room = threading.Semaphore(ahead)
    closed = threading.Event()

    def has_room() -> bool:
        while not closed.is_set():
            if room.acquire(timeout=PATIENCE):
                return True
        return False

    def work() -> None:
        try:
            while has_room():
                item = next(source, source)
                if item is source:
                    ready.put(("end", None))
                    return
                ready.put(("item", item))
                del item  # or it would live until the next one is made
        except BaseException as error:  # handed to the consumer, who raises it
            ready.put(("error", error))
        finally:
            if hasattr(source, "close"):
                source.close()

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            room.release()
            yield item
            del item
    finally:
        closed.set()
        thread.join()
