"""A process of a simulated host: it runs one step at a time, and can be stopped, killed, or killed within a step."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from logeion.actors.messages import Hello
from tests.sim.disk import Killed, ProcessFiles
from tests.sim.engine import Violated
from tests.sim.network import Port

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World

NEVER = float("inf")


class Process:
    """``host`` is the number of its host; ``on`` the host itself (None for a client, which is a host of its own)."""

    def __init__(self, world: World, name: str, *, on: Host | None = None, host: int = -1, hello: Hello | None = None):
        self.world = world
        self.engine = world.engine
        self.name = name
        self.on = on
        self.host = on.number if on is not None else host
        self.hello = hello
        self.alive = True
        self.frozen = False
        self.ports: dict[Port, None] = {}
        self.files = ProcessFiles(on.disk) if on is not None else None
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._timer = NEVER
        # The one that the timer is set for, or an earlier one.
        self._deadline: float | None = None
        world.made.append(self)

    # Running

    @property
    def now(self) -> float:
        """This process's monotonic clock."""
        on = self.on
        # Asked for in most steps: ``Host.now``, without a call.
        return on.shift + self.engine.time * on.rate if on is not None else self.engine.time

    def run(self, what: Callable[..., None], *arguments: Any) -> None:
        """One step of this process; one that is stopped takes it when it goes on."""
        if not self.alive:
            return
        if self.frozen:
            self._inbox.append((what, arguments))
            return
        try:
            what(*arguments)
            if self.alive:
                self.stepped()
        except Killed:
            self.world.note(f"{self.name} is killed in the middle of a change")
            self.die(-9)
        except Violated:
            raise
        except Exception as error:  # whatever it is: the process ends of it, as the real one does
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """An exception nobody caught ends the process; none of the product's may."""
        self.world.crashed(self, "".join(traceback.format_exception(error)))
        self.die(1)

    def stepped(self) -> None:
        """After each step: what the world looks at, and the next timer."""
        deadline = self.deadline()
        if deadline is not None and deadline != self._deadline:
            self.arm(deadline)

    def later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None:
        """A step of this process after so long."""
        self.engine.after(delay, self.run, what, *arguments)

    def soon(self, what: Callable[..., None], *arguments: Any) -> None:
        """A step of this process right after this one."""
        self.engine.after(0.0, self.run, what, *arguments)

    # Time

    def deadline(self) -> float | None:
        """When ``elapsed`` is due, by this process's clock."""
        return None

    def elapsed(self) -> None:
        """The deadline has come."""

    def arm(self, deadline: float) -> None:
        """Have ``elapsed`` called when it is due."""
        self._deadline = deadline
        # A hair later, so that rounding cannot make it too early, again and again.
        due = (self.on.moment(deadline) if self.on is not None else deadline) + 1e-7
        if due < self._timer:
            self._timer = due
            self.engine.at(due, self._ring, due)

    def _ring(self, due: float) -> None:
        if due == self._timer and self.alive:
            self._timer = NEVER
            self._deadline = None
            self.run(self._tick)

    def _tick(self) -> None:
        deadline = self.deadline()
        if deadline is not None and deadline <= self.now:
            self.elapsed()

    # Lanes

    def accepted(self, port: Port) -> None:
        """Somebody has dialled."""
        port.on_message = self.on_message
        port.on_closed = self.on_closed

    def on_message(self, port: Port, request: int, message: Any, payload: bytes) -> None:
        """A lane that was dialled by another has brought this."""

    def on_closed(self, port: Port) -> None:
        """A lane that was dialled by another is closed."""

    # Ending

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT: all that came meanwhile is taken at once, in its order."""
        if not self.alive or not self.frozen:
            return
        self.frozen = False
        while self._inbox and self.alive and not self.frozen:
            what, arguments = self._inbox.popleft()
            self.run(what, *arguments)

    def kill(self) -> None:
        """SIGKILL."""
        if self.alive:
            self.die(-9)

    def die(self, status: int, *, power: bool = False) -> None:
        """It is gone: ``power`` says that nobody closed its connections."""
        self.alive = False
        self._inbox.clear()
        if self.files is not None:
            self.files.release()
        ports, self.ports = self.ports, {}
        for port in ports:
            port.vanish()
            if power:
                self.world.network.host_died(port)
            else:
                self.world.network.end(port)
        if self.on is not None and not power:
            self.on.exited(self, status)
