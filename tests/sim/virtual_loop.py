"""An asyncio event loop of a simulated process: its clock is the host's, and each turn of it is a step of the process.

So code that is written for asyncio, coroutines, tasks and timers, runs in a world without change: one that is stopped
does nothing until it goes on, one that is killed does nothing any more, and the same seed gives the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from logeion.actors.messages import Hello
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.lanes import SimListener
    from tests.sim.world import World


class Exited(SystemExit):
    """``os._exit``: no code of the process runs after it, and no Task keeps it to itself."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


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

    def __init__(self, process: AsyncProcess) -> None:
        self.process = process
        self._ready: deque[Handle] = deque()
        self._tasks: dict[asyncio.Task[Any], Coroutine[Any, Any, Any]] = {}
        self._turning = False

    def time(self) -> float:
        return self.process.now

    def is_running(self) -> bool:
        return self.process.alive

    def is_closed(self) -> bool:
        return not self.process.alive

    def get_debug(self) -> bool:
        return False

    # Callbacks

    def call_soon(self, callback: Any, *arguments: Any, context: Any = None) -> Any:
        # The context is for context variables, of which the product has none.
        handle = Handle(callback, arguments, self.time() if self.process.alive else 0.0)
        if self.process.alive:
            self._ready.append(handle)
            if not self._turning:
                self._turning = True
                self.process.soon(self._turn)
        return handle

    def _turn(self) -> None:
        self._turning = False
        while self._ready and self.process.alive:
            self._ready.popleft().call()

    def call_later(self, delay: float, callback: Any, *arguments: Any, context: Any = None) -> Any:
        return self.call_at(self.time() + delay, callback, *arguments)

    def call_at(self, when: float, callback: Any, *arguments: Any, context: Any = None) -> Any:
        handle = Handle(callback, arguments, when)
        process = self.process
        if process.alive:
            moment = process.on.moment(when) if process.on is not None else when
            # A hair later, so that rounding cannot make it too early.
            process.engine.at(moment + 1e-7, self._ring, handle)
        return handle

    def _ring(self, handle: Handle) -> None:
        if not handle.cancelled():
            self.process.run(handle.call)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # Tasks of a process that is gone are thrown away as they are.
        if getattr(self.process, "alive", False):  # a world that was taken apart leaves nothing of its processes
            self.process.uncaught(context.get("exception") or RuntimeError(str(context.get("message"))))

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
        """The process is gone: so are its coroutines, now and not when somebody collects them."""
        tasks, self._tasks = self._tasks, {}
        with warnings.catch_warnings():
            # Some had not begun.
            warnings.simplefilter("ignore", RuntimeWarning)
            for coroutine in tasks.values():
                # The one in whose step the process has ended is over already, or cannot be closed from within.
                with contextlib.suppress(ValueError):
                    coroutine.close()


class AsyncProcess(Process):
    """A process with such a loop. At most one of its sockets listens for lanes."""

    def __init__(
        self, world: World, name: str, *, on: Host | None = None, host: int = -1, hello: Hello | None = None
    ) -> None:
        super().__init__(world, name, on=on, host=host, hello=hello)
        self.loop = VirtualLoop(self)
        self.listener: SimListener | None = None

    def run(self, what: Callable[..., None], *arguments: Any) -> None:
        """One step, in which this process's loop is the running one."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self.loop)
        try:
            super().run(what, *arguments)
        except Exited as exited:
            if self.alive:
                self.die(exited.status)
        finally:
            asyncio._set_running_loop(before)

    def die(self, status: int, *, power: bool = False) -> None:
        super().die(status, power=power)
        self.loop.ended()

    def uncaught(self, error: BaseException) -> None:
        """A task has ended of this, and nobody has asked for its result."""
        self.failed(error if isinstance(error, Exception) else RuntimeError(repr(error)))
