"""Supervisor: Thespian only. Starts the fixed actors in order and restarts them; starts temporary ones for Node.

Stupid on purpose: no threads and no asyncio, because it forks. An exit is noticed by SIGCHLD and Thespian's
ChildActorExited and told to Node; what runs next is Node's business, but for Controller, Node and Gateway.
SIGTERM stops all in order: gateways first, then what they talk to; nothing is restarted any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from datetime import timedelta
from typing import Any

import msgspec
from setproctitle import setproctitle
from thespian.actors import ActorAddress, ChildActorExited, ThespianWatch, WakeupMessage, WatchMessage

from .config import Config
from .messages import (
    ActorEntry,
    ActorExited,
    ActorsListed,
    ActorStarted,
    Hello,
    ListActors,
    Message,
    StartActor,
    StopActor,
)
from .processes import is_stopped
from .restarts import Policy, Restarts
from .runtime import EXIT_CONFIG, EXIT_CRASH, FAILURE, ActorBase, ActorSpec
from .spare import KIND as SPARE
from .spare import Spare
from .supervising import Life, NodeEnd
from .thespian_traps import inherited, newest_child, own_logging, restore_fault_signals
from .thespian_types import Actor

log: logging.Logger = logging.getLogger(__name__)

EXIT_INTENSITY = 72
# When a fixed actor is started again, and when the Supervisor gives up and leaves it to the command.
FIXED = Policy(intensity=10, period_s=30.0)
# Actors whose restarts are counted; the ones forgotten beyond that begin at 0 again.
COUNTED_MAX = 10_000
# When to try again what Node did not take.
FLUSH_S = 0.02
# The order of stopping, and how long each step may take before SIGKILL.
STOP_ORDER = (("gateway",), ("coordinator", "replica", "partition", SPARE), ("node",), ("controller",))
STOP_STEP_S = 3.0
TEMPORARY = ("partition", "replica", "coordinator")
# A spare is forked only this long after the last start: those that clients wait for have the processors to themselves.
SPARE_AFTER_S = 0.3
# What an empty pipe takes at once, whoever reads: the Supervisor never waits.
ORDER_MAX = 32_768


class Child:
    """One process of ours. ``incarnation`` tells its starts apart; addresses and pids are reused, it is not."""

    actor: str
    kind: str
    incarnation: int
    process: Any
    address: Any

    def __init__(
        self, actor: str, kind: str, incarnation: int, process: Any, address: ActorAddress, orders: int = -1
    ) -> None:
        self.actor, self.kind, self.incarnation = actor, kind, incarnation
        self.process, self.address = process, address
        self.pid: int = process.pid
        # The pipe by which a spare is told what it becomes.
        self.orders: int = orders

    def become(self, spec: ActorSpec) -> Child | None:
        """This spare as the actor that it is told to be; None if it has ended, or the pipe might not take it all."""
        order = spec.encode()
        if not self.process.is_alive() or self.orders < 0 or len(order) > ORDER_MAX:
            return None
        orders, self.orders = self.orders, -1
        try:
            with open(orders, "wb") as pipe:
                pipe.write(order)
        except OSError:
            return None
        return Child(spec.actor, spec.kind, spec.incarnation, self.process, self.address)

    def signal(self, number: int) -> None:
        """Never to another process: until ``is_alive`` has reaped ours, its number is not used again."""
        if self.process.is_alive():
            os.kill(self.pid, number)


class Supervisor(Actor):
    """The actor. Its requirements hold the ``ActorSpec`` from which those of its children are made."""

    @staticmethod
    def actorSystemCapabilityCheck(capabilities: object, requirements: object) -> bool:
        return True

    def __init__(self, capabilities: object = None, requirements: dict[str, bytes] | None = None) -> None:
        assert requirements is not None
        self._spec = ActorSpec.decode(requirements["spec"])
        config = Config.decode(self._spec.config)
        restore_fault_signals()
        own_logging(config.log, self._spec.actor)
        setproctitle(self._spec.title)
        self._children: dict[str, Child] = {}
        self._restarts: dict[str, int] = {}
        self._incarnation = time.time_ns()
        # Node goes by its clock, which may be set back; whoever hears of its actors remembers higher ones.
        self._highest = 0
        self._due: dict[str, float] = {}
        self._spares_wanted = config.spares()
        self._spares_due: float | None = None
        self._stopping = -1
        self._stop_deadline = 0.0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._exits = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # A signal that comes just before this thread falls asleep would wait for the next message; a byte does not.
        self._awake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        hello = Hello(
            actor=self._spec.actor,
            kind="supervisor",
            node=self._spec.node,
            pid=os.getpid(),
            incarnation=self._spec.incarnation,
        )
        self._node_end = NodeEnd(self._spec.run_dir, hello)
        self._life = Life(self._spec.run_dir)
        self._flushing = False
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._thespian_sigchld = signal.getsignal(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, self._on_sigchld)
        self._node = f"node/{self._spec.node}"
        gateways = [f"gateway/{self._spec.node}"] + [
            f"gateway/{self._spec.node}.{number}" for number in range(2, config.node.gateways + 1)
        ]
        self._fixed = {actor: Restarts(FIXED) for actor in (f"controller/{self._spec.node}", self._node, *gateways)}

    def receiveMessage(self, message: Any, sender: ActorAddress) -> ThespianWatch:
        """Every message; always returns the watch, and never lets Thespian handle one twice."""
        try:
            if isinstance(message, ChildActorExited):
                self._reap()
            elif isinstance(message, WatchMessage):
                with contextlib.suppress(BlockingIOError):
                    os.read(self._awake, 4096)
                if _taken(self._exits):
                    self._reap()
                if _taken(self._wake):
                    self._stop()
                for asked in self._node_end.receive():
                    self._hear(asked)
                self._life.answer()
            elif isinstance(message, WakeupMessage):
                self._flushing = False
                self._node_end.flush()
                self._start_due()
                self._fork_spares()
                self._hurry()
            elif isinstance(message, str) and message == "start":
                for actor in self._fixed:
                    self._start_fixed(actor)
                self._want_spares()
                self.send(sender, os.getpid())
            if self._node_end.unsent and not self._flushing:
                self._flushing = True
                self.wakeupAfter(timedelta(seconds=FLUSH_S))
        except BaseException as error:
            log.critical("supervisor ends error=%s", error, exc_info=error)
            os._exit(EXIT_CRASH)
        watched = [*self._node_end.descriptors, *self._life.descriptors]
        return ThespianWatch([self._wake, self._exits, self._awake, *watched])

    def _on_sigterm(self, *_: Any) -> None:
        os.eventfd_write(self._wake, 1)

    def _on_sigchld(self, number: int, frame: Any) -> None:
        """Thespian forgets a SIGCHLD that comes while it handles another (seen: three partitions deleted together,
        one exit told); what is written here stays until it is read."""
        os.eventfd_write(self._exits, 1)
        if callable(self._thespian_sigchld):
            self._thespian_sigchld(number, frame)

    # Starting

    def _start_fixed(self, actor: str) -> None:
        kind = actor.partition("/")[0]
        self._incarnation += 1
        spec = msgspec.structs.replace(self._spec, actor=actor, kind=kind, incarnation=self._incarnation)
        self._create(spec)

    def _create(self, spec: ActorSpec) -> Child:
        address = self.createActor(actor_class(spec.kind), targetActorRequirements={"spec": spec.encode()})
        child = Child(spec.actor, spec.kind, spec.incarnation, newest_child(self), address)
        self._children[spec.actor] = child
        return child

    def _want_spares(self) -> None:
        """Fork what is missing once nothing else has been started for a while."""
        if self._spares_wanted:
            pending = self._spares_due is not None
            self._spares_due = time.monotonic() + SPARE_AFTER_S
            if not pending:
                self.wakeupAfter(timedelta(seconds=SPARE_AFTER_S))

    def _fork_spares(self) -> None:
        if self._spares_due is None or self._stopping >= 0:
            return
        missing = self._spares_due - time.monotonic()
        if missing > 0:
            self.wakeupAfter(timedelta(seconds=missing))
            return
        self._spares_due = None
        while len(self._spares()) < self._spares_wanted:
            self._incarnation += 1
            actor = f"{SPARE}/{self._spec.node}.{self._incarnation}"
            spec = msgspec.structs.replace(self._spec, actor=actor, kind=SPARE, incarnation=self._incarnation)
            reading, orders = os.pipe2(os.O_CLOEXEC)
            try:
                with inherited(reading):
                    address = self.createActor(
                        Spare, targetActorRequirements={"spec": spec.encode(), "orders": reading}
                    )
            except OSError as error:
                log.warning("cannot fork a spare error=%s", error)
                os.close(orders)
                return
            finally:
                os.close(reading)
            self._children[actor] = Child(actor, SPARE, spec.incarnation, newest_child(self), address, orders)

    def _spares(self) -> list[Child]:
        return [child for child in self._children.values() if child.kind == SPARE]

    def _from_spare(self, spec: ActorSpec) -> Child | None:
        """A spare that becomes this actor; one that is dead is reaped like any, one that is stopped is of no use."""
        for spare in self._spares():
            if is_stopped(spare.pid):
                spare.signal(signal.SIGKILL)
                continue
            child = spare.become(spec)
            if child is not None:
                del self._children[spare.actor]
                self._children[spec.actor] = child
                return child
        return None

    def _hear(self, message: Message) -> None:
        match message:
            case StartActor():
                self._start_temporary(message)
            case StopActor():
                child = self._children.get(message.actor)
                if child is not None and child.incarnation == message.incarnation:
                    child.signal(signal.SIGKILL if message.force else signal.SIGTERM)
            case ListActors():
                self._node_end.tell(self._listed(message.number))
            case _:
                log.warning("message dropped message=%s", type(message).__name__)

    def _start_temporary(self, message: StartActor) -> None:
        spec = ActorSpec.decode(message.spec)
        self._highest = max(self._highest, message.incarnation)
        self._reap()
        child = self._children.get(message.actor)
        if child is not None and child.incarnation == message.incarnation:
            return
        if self._stopping >= 0 or child is not None or spec.kind not in TEMPORARY:
            log.warning("start refused actor=%s incarnation=%s", message.actor, message.incarnation)
            self._node_end.tell(ActorExited(actor=message.actor, incarnation=message.incarnation))
            if child is not None:
                # Node does not know of it, or it would not have asked.
                self._node_end.tell(self._listed())
            return
        try:
            spec = msgspec.structs.replace(spec, incarnation=message.incarnation)
            child = self._from_spare(spec) or self._create(spec)
        except OSError as error:
            # No process or no memory left on this host: the others live on, and Node backs off.
            log.error("cannot start actor=%s error=%s", message.actor, error)
            self._node_end.tell(ActorExited(actor=message.actor, incarnation=message.incarnation))
            return
        self._want_spares()
        self._node_end.tell(
            ActorStarted(
                actor=child.actor,
                incarnation=child.incarnation,
                pid=child.pid,
                restarts=self._restarts.get(child.actor, 0),
            )
        )

    def _listed(self, number: int = 0) -> ActorsListed:
        me = ActorEntry(actor=self._spec.actor, kind="supervisor", incarnation=self._spec.incarnation, pid=os.getpid())
        return ActorsListed(
            number=number,
            highest=self._highest,
            actors=[me]
            + [
                ActorEntry(
                    actor=c.actor,
                    kind=c.kind,
                    incarnation=c.incarnation,
                    pid=c.pid,
                    restarts=self._restarts.get(c.actor, 0),
                )
                for c in self._children.values()
                if c.kind != SPARE
            ],
        )

    # Exits

    def _reap(self) -> None:
        """ChildActorExited names an address, may come twice, and addresses are reused: look who is really gone."""
        for child in [c for c in self._children.values() if not c.process.is_alive()]:
            self._exited(child)
        if self._stopping >= 0:
            self._next_stop()

    def _exited(self, child: Child) -> None:
        del self._children[child.actor]
        if child.kind == SPARE:
            if child.orders >= 0:
                os.close(child.orders)
            if self._stopping < 0:
                log.warning("spare process ended pid=%d status=%s", child.pid, child.process.exitcode)
                self._want_spares()
            return
        # The most recent ends last in the dictionary, so that the first is the one to forget.
        restarts = self._restarts[child.actor] = self._restarts.pop(child.actor, 0) + 1
        if len(self._restarts) > COUNTED_MAX:
            del self._restarts[next(iter(self._restarts))]
        code = child.process.exitcode
        log.log(
            logging.INFO if self._stopping >= 0 or code == 0 else logging.WARNING,
            "actor exited actor=%s incarnation=%s pid=%s %s",
            child.actor,
            child.incarnation,
            child.pid,
            f"signal={-code}" if code < 0 else f"status={code}",
        )
        self._node_end.tell(
            ActorExited(actor=child.actor, incarnation=child.incarnation, restarts=restarts, status=code or 0)
        )
        if self._stopping >= 0 or child.kind in TEMPORARY:
            return
        if code == EXIT_CONFIG:
            self._give_up("")
        restarts_of = self._fixed[child.actor]
        now = time.monotonic()
        pause = restarts_of.exited(now)
        if pause is None:
            self._give_up(restarts_of.cause(child.actor))
        elif pause == 0:
            self._start_again(child.actor)
        else:
            self._due[child.actor] = now + pause
            self.wakeupAfter(timedelta(seconds=pause))

    def _start_due(self) -> None:
        """Those fixed actors whose pause is over."""
        now = time.monotonic()
        for actor in [actor for actor, due in self._due.items() if due <= now]:
            del self._due[actor]
            if self._stopping < 0:
                self._start_again(actor)

    def _start_again(self, actor: str) -> None:
        self._start_fixed(actor)
        if actor != self._node:
            self._node_end.tell(self._listed())

    def _give_up(self, cause: str) -> None:
        """Whoever is above decides. The command says the cause: what the last actor left, and how often."""
        log.critical("supervisor ends: %s", cause or "an actor cannot start with this configuration")
        note = self._spec.run_dir / FAILURE
        with contextlib.suppress(OSError):
            said = note.read_text(errors="replace") if note.exists() else ""
            note.write_text(", ".join(part for part in (cause, said) if part))
        os._exit(EXIT_INTENSITY)

    # Stopping

    def _stop(self) -> None:
        if self._stopping < 0:
            self._begin_step(0)
            self._next_stop()

    def _begin_step(self, step: int) -> None:
        self._stopping = step
        self._stop_deadline = time.monotonic() + STOP_STEP_S
        self._signal(signal.SIGTERM)
        self.wakeupAfter(timedelta(seconds=STOP_STEP_S))

    def _next_stop(self) -> None:
        while not any(c.kind in STOP_ORDER[self._stopping] for c in self._children.values()):
            if self._stopping + 1 == len(STOP_ORDER):
                os._exit(0)
            self._begin_step(self._stopping + 1)

    def _hurry(self) -> None:
        """A step of the stop took too long."""
        if self._stopping >= 0 and time.monotonic() >= self._stop_deadline:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for child in self._children.values():
            if child.kind in STOP_ORDER[self._stopping]:
                child.signal(number)


def _taken(eventfd: int) -> bool:
    """Whether something was written, which is forgotten by that."""
    try:
        os.eventfd_read(eventfd)
    except BlockingIOError:
        return False
    return True


def actor_class(kind: str) -> type[ActorBase]:
    """The class of a kind of actor. Imported here: the actors' modules import the runtime, too."""
    from .controller.actor import Controller
    from .coordinator.actor import Coordinator
    from .gateway.actor import Gateway
    from .node.actor import Node
    from .partition.actor import Partition
    from .replica.actor import Replica

    classes: dict[str, type[ActorBase]] = {
        "controller": Controller,
        "node": Node,
        "gateway": Gateway,
        "partition": Partition,
        "replica": Replica,
        "coordinator": Coordinator,
    }
    return classes[kind]
