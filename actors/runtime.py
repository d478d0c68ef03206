"""The shell of every actor: Thespian's loop in the main thread, an asyncio loop with all of the state in a second one.

    Thespian (fork, signals)  -- call_soon -->  asyncio loop: Shell, lanes, timers

An exception in the asyncio loop is logged once and ends the process; the supervisor brings back a clean one. SIGTERM
stops cleanly, everything else is a crash, which must be survived anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from setproctitle import setproctitle
from thespian.actors import ActorAddress, ThespianWatch, WatchMessage

from logeion.wire.errors import ConfigError

from .config import Config
from .lanes import Lane, LaneError, dial, introduce, socket_path
from .messages import AnyMessage, Hello, Message, Ping, Pong, Slice, StateChanged
from .stream import Frame
from .supervising import SupervisorEnd
from .thespian_traps import own_logging, printable, restore_fault_signals
from .thespian_types import Actor

log: logging.Logger = logging.getLogger(__name__)

EXIT_CRASH = 70
# EX_CONFIG: starting it again with the same configuration is no help.
EXIT_CONFIG = 78
# In the run directory: why the last actor failed, for whoever gives up.
FAILURE = "failure"
REDIAL_S = 0.01
SWITCH_INTERVAL_S = 0.0005


class ActorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor is started with; ``epoch`` is the one granted to this start."""

    actor: str
    kind: str
    node: int
    incarnation: int
    data_dir: str
    config: bytes
    topic: str | None = None
    topic_id: str | None = None
    partition: int | None = None
    epoch: int | None = None
    configs: dict[str, str] = {}
    group: str | None = None
    # What a Partition or Replica starts with; a newer one comes by Node's lane.
    slice: Slice | None = None

    @property
    def run_dir(self) -> Path:
        """Where this host's lane sockets are."""
        return Path(self.data_dir) / "run"

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> ActorSpec:
        return msgspec.msgpack.decode(data, type=cls)

    @property
    def title(self) -> str:
        name = self.actor.partition("/")[2]
        what = f"{self.kind} {name}" if self.kind in ("partition", "replica", "coordinator") else self.kind
        return printable(f"logeion[{self.node}] {what}") + ("" if self.epoch is None else f" epoch {self.epoch}")


class Shell:
    """The asyncio side of an actor: subclasses override ``start``, ``stop``, ``on_node`` and (Node) ``on_supervisor``.

    ``start`` returns when the actor serves; it is then reported as running. Whatever raises ends the process.
    """

    tells_node = True
    """Whether this actor keeps a lane to Node (Node itself does not)."""

    def __init__(
        self, spec: ActorSpec, loop: asyncio.AbstractEventLoop, tell_supervisor: Callable[[Message], None]
    ) -> None:
        self.spec = spec
        self.loop = loop
        self.tell_supervisor = tell_supervisor
        self.config: Config = Config.decode(spec.config)
        self.node_lane: Lane | None = None
        self._state = StateChanged(state="starting", epoch=spec.epoch)

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self) -> None:
        """Finish cleanly; the process ends afterwards."""

    def on_supervisor(self, message: AnyMessage) -> None:
        """The Supervisor says this (to Node only)."""
        log.warning("message from the supervisor dropped message=%s", type(message).__name__)

    def on_node(self, request: int, message: AnyMessage) -> None:
        """Node says this; answer by ``self.node_lane.reply(request, ...)``."""
        log.warning("message from node dropped message=%s", type(message).__name__)

    def on_node_lane(self) -> None:
        """The lane to Node is there (again)."""

    def report(self, state: str, cause: str = "") -> None:
        """Tell Node what this actor does now; told again whenever a new Node is met."""
        self._state = StateChanged(state=state, cause=cause, epoch=self.spec.epoch)
        if self.node_lane is not None:
            self.node_lane.tell(self._state)

    def fail(self, error: BaseException) -> NoReturn:
        """Log, and end the process: doubt means exit."""
        expected = isinstance(error, ConfigError)
        log.critical("actor ends actor=%s error=%s", self.spec.actor, error, exc_info=None if expected else error)
        with contextlib.suppress(OSError):
            (self.spec.run_dir / FAILURE).write_text(f"{self.spec.actor}: {error}")
        os._exit(EXIT_CONFIG if expected else EXIT_CRASH)

    # The lane to Node

    async def keep_node_lane(self) -> None:
        """Meet Node, again each time it restarts."""
        path = socket_path(self.spec.run_dir, "node")
        while True:
            closed: asyncio.Future[None] = self.loop.create_future()

            def on_closed(lane: Lane, reason: str, closed: asyncio.Future[None] = closed) -> None:
                self.node_lane = None
                if not closed.done():
                    closed.set_result(None)

            try:
                self.node_lane = await dial(self.loop, path, on_message=self._on_node_message, on_closed=on_closed)
            except (OSError, LaneError):
                await asyncio.sleep(REDIAL_S)
                continue
            self.node_lane.tell(self._state)
            self.on_node_lane()
            await closed

    def _on_node_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, Ping):
            lane.reply(request, Pong())
        else:
            self.on_node(request, message)


class ActorBase(Actor):
    """The Thespian side. Subclasses name their ``shell``; nothing else belongs here."""

    shell: type[Shell] = Shell

    @staticmethod
    def actorSystemCapabilityCheck(capabilities: object, requirements: object) -> bool:
        return True

    def __init__(self, capabilities: object = None, requirements: dict[str, bytes] | None = None) -> None:
        assert requirements is not None
        self._spec = ActorSpec.decode(requirements["spec"])
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch = ThespianWatch([self._wake])
        self._loop = asyncio.new_event_loop()
        restore_fault_signals()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # The kernel may hand a signal to the other thread, or just before this one falls asleep; only the byte in the
        # pipe makes sure that the handler runs now.
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: self._on_sigterm())
        self._become()
        threading.Thread(target=self._run, name="loop", daemon=True).start()

    def _become(self) -> None:
        """Be the actor that the spec names, for all who look or are dialled."""
        own_logging(Config.decode(self._spec.config).log, self._spec.actor)
        setproctitle(self._spec.title)
        introduce(
            Hello(
                actor=self._spec.actor,
                kind=self._spec.kind,
                node=self._spec.node,
                pid=os.getpid(),
                incarnation=self._spec.incarnation,
                topic_id=self._spec.topic_id,
                partition=self._spec.partition,
                epoch=self._spec.epoch,
            )
        )

    # Main thread

    def _on_sigterm(self) -> None:
        self._loop.call_soon_threadsafe(self._stop)

    def receiveMessage(self, message: Any, sender: ActorAddress) -> ThespianWatch:
        """Thespian's own messages. Always returns the watch: one handler without it, and no signal is noticed."""
        try:
            if isinstance(message, WatchMessage):
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
        except BaseException as error:
            # Thespian would run the handler again on the same message; nothing here may happen twice.
            log.critical("actor ends actor=%s error=%s", self._spec.actor, error, exc_info=error)
            os._exit(EXIT_CRASH)
        return self._watch

    # Loop thread

    def _await_role(self) -> None:
        """Until it is known which actor this is: at once, but for a spare."""

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(self._failed)
        try:
            self._await_role()
            supervisor = SupervisorEnd(loop, self._spec.run_dir, self._hear)
            self._shell = self.shell(self._spec, loop, supervisor.tell)
            self._main = loop.create_task(self._serve())
            loop.run_forever()
        except BaseException as error:
            log.critical("actor ends actor=%s error=%s", self._spec.actor, error, exc_info=error)
        os._exit(EXIT_CRASH)

    async def _serve(self) -> None:
        shell = self._shell
        if shell.tells_node:
            self._lane = self._loop.create_task(shell.keep_node_lane())
        try:
            await shell.start()
        except Exception as error:
            shell.fail(error)
        shell.report("running")

    def _hear(self, message: AnyMessage) -> None:
        self._shell.on_supervisor(message)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception") or RuntimeError(context.get("message"))
        self._shell.fail(error)

    def _stop(self) -> None:
        self._stopping = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        try:
            self._shell.report("stopping")
            await self._shell.stop()
        except Exception as error:
            self._shell.fail(error)
        os._exit(0)
