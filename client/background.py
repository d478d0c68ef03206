"""The one event loop that all synchronous clients of a process run on, in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, Protocol, TypeVar

from .cluster import Cluster, lone_cluster
from .errors import ClosedError

T = TypeVar("T")
log: logging.Logger = logging.getLogger("logeion.client")

# How long the end of the interpreter waits for what was sent and is not acknowledged.
EXIT_S = 10.0


class Closable(Protocol):
    """What wants to be told when the interpreter exits."""

    def close_at_exit(self, timeout_s: float) -> None: ...


class _Job(Generic[T]):
    """Work for another thread: calling it never raises, ``done`` says what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.done: Future[T] = Future()

    def __call__(self) -> None:
        with self:
            self.done.set_result(self._work())

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if error is not None:
            self.done.set_exception(error)
        return True


class Background:
    """A loop in a daemon thread, started when first used; it lives as long as the process."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self.pid: int = os.getpid()
        self.thread: threading.Thread = threading.Thread(target=self._run, name="logeion-client", daemon=True)
        # While the interpreter exits no thread can be started: what needs one is done by the thread that waits.
        self._jobs: queue.SimpleQueue[Callable[[], object]] | None = None
        self.thread.start()

    def exiting(self) -> None:
        """From now on ``run`` does what ``in_thread`` asks for while it waits."""
        self._jobs = queue.SimpleQueue()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs it where it may wait for this loop."""
        jobs = self._jobs
        if jobs is None:
            return await asyncio.to_thread(work)
        job = _Job(work)
        jobs.put(job)
        return await asyncio.wrap_future(job.done)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Runs it on the loop and waits; what interrupts the wait cancels it.

        Raises what it raises, TimeoutError, ClosedError after a fork.
        """
        if os.getpid() != self.pid:
            work.close()
            raise ClosedError(
                "this client belongs to the process that forked", "connect anew in the child, or fork before"
            )
        if threading.current_thread() is self.thread:
            work.close()
            raise ClosedError("a callback of the client waits for the client", "use logeion.aio, or another thread")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        jobs = self._jobs
        try:
            if jobs is not None:
                future.add_done_callback(lambda _: jobs.put(lambda: None))
                until = time.monotonic() + (EXIT_S if timeout_s is None else timeout_s)
                while not future.done():
                    try:
                        jobs.get(timeout=max(until - time.monotonic(), 0.0))()
                    except queue.Empty:
                        raise TimeoutError(f"not done within {EXIT_S:g} s of the interpreter's exit") from None
            return future.result(timeout_s)
        except CancelledError:
            raise ClosedError("it was closed while this call waited") from None
        finally:
            if not future.done():
                future.cancel()


_lock = threading.Lock()
_current: Background | None = None
_open: dict[int, Closable] = {}


def background() -> Background:
    """This process's loop."""
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _open.clear()
            _current = Background()
        return _current


def own_cluster(settings: dict[str, Any]) -> tuple[Background, Cluster]:
    """A started cluster for what is made without a client; takes its settings out of these, which were checked.

    Raises ConfigError, ConnectError.
    """
    loop = background()
    cluster = lone_cluster(settings)
    try:
        loop.run(cluster.start())
    except BaseException:
        loop.run(cluster.close())
        raise
    return loop, cluster


def opened(one: Closable) -> None:
    """Keeps it alive until ``closed``, so that the exit of the interpreter can empty it."""
    _open[id(one)] = one


def closed(one: Closable) -> None:
    """It needs nothing at exit."""
    _open.pop(id(one), None)


@atexit.register
def _at_exit() -> None:
    if _current is None or _current.pid != os.getpid():
        return
    _current.exiting()
    # The last first, and each even if another raises: the others may have records to send yet.
    with contextlib.ExitStack() as ends:
        for one in list(_open.values()):
            ends.callback(one.close_at_exit, EXIT_S)
