"""The one event loop that all synchronous clients of a process run on, in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeVar

from .cluster import Cluster
from .errors import ClosedError
from .settings import ClientSettings, cluster_settings

T = TypeVar("T")
log: logging.Logger = logging.getLogger("logeion.client")

# How long the end of the interpreter waits for what was sent and is not acknowledged.
EXIT_S = 10.0


class Closable(Protocol):
    """What wants to be told when the interpreter exits."""

    def close_at_exit(self, timeout_s: float) -> None: ...


class Background:
    """A loop in a daemon thread, started when first used; it lives as long as the process."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self.pid: int = os.getpid()
        self.thread: threading.Thread = threading.Thread(target=self._run, name="logeion-client", daemon=True)
        self.thread.start()

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
        try:
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
    bootstrap, options = cluster_settings(settings)
    cluster = Cluster(bootstrap, **options)
    try:
        loop.run(cluster.start())
    except BaseException:
        loop.run(cluster.close())
        raise
    for name in ClientSettings.__annotations__:
        if name != "request_timeout_ms":
            settings.pop(name, None)
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
    for one in reversed(list(_open.values())):
        one.close_at_exit(EXIT_S)
