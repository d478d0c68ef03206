"""How much memory the requests of all clients together hold in this gateway."""

from __future__ import annotations

from collections.abc import Callable

# Each connection has a limit of its own; this is for many of them at once, while a leader is away, say. Requests of
# clients that left while theirs were on the way to a leader count too.
LOAD_MAX = 512 * 1024 * 1024


class Load:
    """Bytes of whole request frames that are not released. Beyond the limit no connection reads on."""

    def __init__(self, limit: int = LOAD_MAX) -> None:
        self.bytes: int = 0
        self._limit = limit
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def full(self) -> bool:
        """Whether nobody should read on; ``wait`` tells when that is over."""
        return self.bytes >= self._limit

    def add(self, size: int) -> None:
        """A request came."""
        self.bytes += size

    def less(self, size: int) -> None:
        """A request's bytes are not needed any more."""
        self.bytes -= size
        if self._waiting and not self.full:
            waiting, self._waiting = self._waiting, {}
            for resume in waiting:
                resume()

    def wait(self, resume: Callable[[], None]) -> None:
        """Have this called, once, when there is room."""
        self._waiting[resume] = None

    def forget(self, resume: Callable[[], None]) -> None:
        """It need not be called any more."""
        self._waiting.pop(resume, None)
