"""An asyncio event loop of a simulated process: its clock is the host's, and each turn of it is a step of the process.

So code that is written for asyncio, coroutines, tasks and timers, runs in a world without change: one that is stopped
does nothing until it goes on, one that is killed does nothing any more, and the same seed gives the same order.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.process import Process


class Handle:
    """What ``call_soon`` and ``call_at`` return."""

    __slots__ = ("_arguments", "_callback", "_when")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...], when: float) -> None:
        self._callback: Callable[..., object] | None = callback
        self._arguments = arguments
        self._when = when

    def when(self) -> float:
        """The loop's time at which it is due."""
        return self._when

    def cancel(self) -> None:
        """It need not be called any more."""
        self._callback, self._arguments = None, ()

    def cancelled(self) -> bool:
        """Whether it was cancelled or has been called."""
        return self._callback is None

    def call(self) -> None:
        """Now, once."""
        callback, arguments = self._callback, self._arguments
        self.cancel()
        if callback is not None:
            callback(*arguments)


class VirtualLoop(asyncio.AbstractEventLoop):
    """What of a loop a process needs that has no sockets: callbacks, timers, futures and tasks."""

    def __init__(self, process: Process, failed: Callable[[BaseException], None]) -> None:
        """``failed`` is told what no callback caught: an exception that a task has ended of, say."""
        self._process = process
        self._failed = failed
        self._ready: deque[Handle] = deque()
        self._tasks: dict[asyncio.Task[Any], Coroutine[Any, Any, Any]] = {}
        self._turning = False

    def time(self) -> float:
        return self._process.now

    def is_running(self) -> bool:
        return self._process.alive

    def is_closed(self) -> bool:
        return not self._process.alive

    def get_debug(self) -> bool:
        return False

    # Callbacks

    def call_soon(self, callback: Any, *arguments: Any, context: Any = None) -> Any:
        # The context is for context variables, of which the product has none.
        handle = Handle(callback, arguments, self.time() if self._process.alive else 0.0)
        if self._process.alive:
            self._ready.append(handle)
            if not self._turning:
                self._turning = True
                self._process.soon(self._turn)
        return handle

    def _turn(self) -> None:
        self._turning = False
        while self._ready and self._process.alive:
            self._ready.popleft().call()

    def call_later(self, delay: float, callback: Any, *arguments: Any, context: Any = None) -> Any:
        return self.call_at(self.time() + delay, callback, *arguments)

    def call_at(self, when: float, callback: Any, *arguments: Any, context: Any = None) -> Any:
        handle = Handle(callback, arguments, when)
        process = self._process
        if process.alive:
            moment = process.on.moment(when) if process.on is not None else when
            # A hair later, so that rounding cannot make it too early.
            process.engine.at(moment + 1e-7, self._ring, handle)
        return handle

    def _ring(self, handle: Handle) -> None:
        if not handle.cancelled():
            self._process.run(handle.call)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # Tasks of a process that is gone are thrown away as they are.
        if getattr(self._process, "alive", False):  # a world that was taken apart leaves nothing of its processes
            self._failed(context.get("exception") or RuntimeError(str(context.get("message"))))

    # Futures

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coroutine: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        made: Coroutine[Any, Any, Any] = coroutine
        task = asyncio.Task(made, loop=self, name=name)
        # It is thrown away with its process, wherever it is.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks[task] = made
        task.add_done_callback(self._tasks.pop)
        return task

    def ended(self) -> None:
        """The process is gone: what was never begun never will be."""
        for coroutine in self._tasks.values():
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()
        self._tasks.clear()
