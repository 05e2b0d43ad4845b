"""Values made ahead in a thread: at most `depth` wait; the thread ends when its reader does."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def prefetch(values: Iterator[T], depth: int) -> Iterator[T]:
    """The same values in the same order, `depth` of them made before they are asked for.

    What `values` raises is raised here, in its place. Closing or dropping the iterator ends the
    thread.
    """
    room = threading.Semaphore(depth)
    stop = threading.Event()
    ready: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()

    def produce() -> None:
        end: BaseException | None = None
        try:
            while _wait(room, stop):
                ready.put((next(values),))
        except StopIteration:
            pass
        except BaseException as error:  # the reader raises it
            end = error
        ready.put(end)

    thread = threading.Thread(target=produce, name="graphc-prefetch", daemon=True)
    thread.start()
    try:
        while isinstance(item := ready.get(), tuple):
            room.release()
            yield item[0]
        if item is not None:
            raise item
    finally:
        stop.set()
        room.release()
        if thread is not threading.current_thread():  # the garbage collector runs in any thread
            thread.join()


def _wait(room: threading.Semaphore, stop: threading.Event) -> bool:
    room.acquire()
    return not stop.is_set()
