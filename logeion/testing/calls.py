"""A client that plain tests can call: its event loop runs in a thread of the test's process from the first call on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

T = TypeVar("T")


class Calls:
    """``run`` makes a coroutine of this loop a plain call; ``close`` ends loop and thread."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Raises what the coroutine raises, TimeoutError after ``timeout_s`` (it is cancelled then)."""
        future = asyncio.run_coroutine_threadsafe(work(), self.loop)
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            if not future.done():
                future.cancel()
                raise TimeoutError(f"no result within {timeout_s:g} s") from None
            raise

    def close(self) -> None:
        """Ends it; calls that still run are cancelled."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self.loop).result(5.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        self.loop.close()

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
