"""A host's Node: the real machine, and what its shell does, on simulated lanes and a simulated Supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.actors import messages as m
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.metadata import MetadataImage
from logeion.actors.node.companions import is_companion
from logeion.actors.node.events import (
    AnyEffect,
    AnyEvent,
    Ask,
    Beat,
    BeatAnswered,
    BeatFailed,
    Bound,
    DirectoryRemoved,
    DownFailed,
    Drained,
    Elapsed,
    GrantFailed,
    Greeted,
    List,
    Parted,
    Ponged,
    Register,
    RemoveDirectory,
    Reported,
    SendPing,
    Stale,
    Start,
    Stop,
    Stray,
    Suspected,
    Tell,
    ToGateways,
    Wanted,
)
from logeion.actors.node.machine import NodeMachine
from logeion.wire.errors import StaleBrokerEpochError
from tests.sim.hosts import DATA
from tests.sim.network import Port
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World

REDIAL_S = 0.02
REQUEST_S = 10.0
REGISTER_AGAIN_S = 0.5
BEAT_S = 2.0


class NodeProcess(Process):
    """The shell of ``NodeMachine``."""

    def __init__(self, world: World, on: Host) -> None:
        super().__init__(world, f"{on.number}:node", on=on)
        settings = world.settings
        self.machine = NodeMachine(
            on.number,
            starts_max=4,
            # A clock's value in real life, so above that of all actors of this host's past.
            first_incarnation=int(world.engine.time * 1_000_000),
            image=MetadataImage(settings.topic_defaults),
            heartbeat_s=settings.heartbeat_s,
            voters=[voter for voter in world.voters if voter != on.number],
        )
        self.lanes: dict[str, Port] = {}
        self.controller: Port | None = None
        self._swept = False
        self._direct: dict[int, Port] = {}
        self.soon(self._begin)

    def _begin(self) -> None:
        assert self.on is not None
        self.on.list_actors(0)
        self._dial_controller()
        if not self.world.settings.gateways:
            self.later(self.engine.random.uniform(0.001, 0.01), self._gateway)

    def _gateway(self) -> None:
        """A gateway is there and listens; clients here know without one who leads."""
        hello = m.Hello(actor="gateway", kind="gateway", node=self.host, pid=self.host)
        self.step(Greeted(hello=hello))
        self.step(Bound(actor="gateway", addresses=[f"host-{self.host}:9092"]))

    def deadline(self) -> float | None:
        return self.machine.deadline

    def elapsed(self) -> None:
        self.step(Elapsed())

    def step(self, event: AnyEvent) -> None:
        """One event for the machine, and what it wants done."""
        for effect in self.machine.step(event, self.now):
            self._do(effect)
        if not self._swept and self.machine.caught_up:
            self._swept = True
            self.later(self.engine.random.uniform(0.0005, 0.01), self._sweep)

    def _do(self, effect: AnyEffect) -> None:
        on = self.on
        assert on is not None
        match effect:
            case Start():
                on.start_actor(effect)
            case Stop():
                on.stop_actor(effect.actor, effect.incarnation, effect.force)
            case List():
                on.list_actors(effect.number)
            case Tell():
                lane = self._lane_of(effect.actor, effect.incarnation)
                if lane is not None:
                    lane.tell(effect.message)
            case SendPing():
                lane = self._lane_of(effect.actor, effect.incarnation)
                if lane is not None:
                    ponged = Ponged(actor=effect.actor, incarnation=effect.incarnation)
                    lane.call(m.Ping(), lambda reply: self.step(ponged) if reply is not None else None, 10.0)
            case Ask():
                self._ask(effect)
            case Register():
                self._register()
            case Beat():
                self._beat(effect)
            case RemoveDirectory():
                self._remove(effect)
            case Drained():
                self.world.drained(on)
            case ToGateways():
                for gateway in [effect.actor] if effect.actor is not None else list(self.machine.gateways):
                    to = self.lanes.get(gateway)
                    if to is not None:
                        to.tell(effect.message)

    def _lane_of(self, actor: str, incarnation: int) -> Port | None:
        lane = self.lanes.get(actor)
        hello = lane.other.hello if lane is not None else None
        return lane if hello is not None and hello.incarnation == incarnation else None

    # The Controller

    def _dial_controller(self) -> None:
        on = self.on
        assert on is not None
        self.world.network.dial(self, lambda: on.processes.get("controller"), self._dialled, self._redial, on.number)

    def _redial(self) -> None:
        self.later(REDIAL_S, self._dial_controller)

    def _dialled(self, lane: Port) -> None:
        self.controller = lane
        lane.on_message = self._from_controller
        lane.on_closed = self._controller_gone
        lane.call(m.Subscribe(from_offset=self.machine.applied), self._subscribed, 30.0)
        self._register()

    def _controller_gone(self, lane: Port) -> None:
        if self.controller is lane:
            self.controller = None
            self._redial()

    def _subscribed(self, reply: m.Message | None) -> None:
        if isinstance(reply, m.Committed):
            self.step(reply)
        elif self.controller is not None:
            self.controller.close()

    def _from_controller(self, lane: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        if isinstance(message, m.Committed):
            self.step(message)

    def _register(self) -> None:
        on, lane = self.on, self.controller
        assert on is not None
        if lane is None:
            return
        message = m.RegisterNode(
            node=on.number,
            incarnation=on.incarnation,
            directory_id=on.directory_id,
            host=f"host-{on.number}",
            port=9092,
            cluster_host=f"host-{on.number}",
            cluster_port=9093,
            boot_id=f"boot-{on.disk.boot}",
            features=SUPPORTED,
        )
        lane.call(message, self._registered, REQUEST_S)

    def _registered(self, reply: m.Message | None) -> None:
        if isinstance(reply, m.NodeRegistered):
            self.step(reply)
        elif self.controller is not None:
            self.later(REGISTER_AGAIN_S, self._register)

    def _ask(self, effect: Ask) -> None:
        message = effect.message

        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.EpochsGranted | m.Recorded):
                self.step(reply)
                return
            code = reply.code if isinstance(reply, m.Refused) else 0
            if isinstance(message, m.GrantEpochs):
                self.step(GrantFailed(code=code, reason=""))
            else:
                self.step(DownFailed(code=code, reason=""))

        if self.controller is None:
            self.soon(answered, None)
        else:
            self.controller.call(message, answered, REQUEST_S)

    def _beat(self, effect: Beat) -> None:
        attempt = effect.attempt

        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.HeartbeatAnswered):
                self.step(BeatAnswered(attempt=attempt, may_stop=reply.may_stop))
            elif reply is not None or lane is None or not lane.open:
                self.step(BeatFailed(attempt=attempt, code=reply.code if isinstance(reply, m.Refused) else 0))

        lane = self.controller if effect.voter is None else self._direct.get(effect.voter)
        if lane is not None and lane.open:
            lane.call(effect.message, answered, BEAT_S)
            return
        if effect.voter is None:
            self.soon(answered, None)
            return
        voter = effect.voter

        def dialled(fresh: Port) -> None:
            nonlocal lane
            lane = self._direct[voter] = fresh
            fresh.on_message = self._from_controller
            fresh.call(effect.message, answered, BEAT_S)

        host = self.world.hosts[voter]
        self.world.network.dial(
            self, lambda: host.processes.get("controller"), dialled, lambda: answered(None), host.number
        )

    # The actors of this host

    def accepted(self, port: Port) -> None:
        hello = port.other.hello
        assert hello is not None
        port.on_message = self.on_message
        port.on_closed = self.on_closed
        self.lanes[hello.actor] = port
        self.step(Greeted(hello=hello))

    def on_closed(self, port: Port) -> None:
        hello = port.other.hello
        if hello is not None and self.lanes.get(hello.actor) is port:
            del self.lanes[hello.actor]
            if hello.kind == "gateway" or is_companion(hello.actor):
                self.step(Parted(actor=hello.actor, incarnation=hello.incarnation))

    def on_message(self, port: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        hello = port.other.hello
        assert hello is not None
        match message:
            case m.StateChanged():
                self.step(Reported(actor=hello.actor, incarnation=hello.incarnation, change=message))
            case m.ListenersBound():
                self.step(Bound(actor=hello.actor, addresses=message.addresses))
            case m.Suspect():
                self.step(Suspected(actor=message.actor, incarnation=message.incarnation))
            case m.EnsureCoordinator():
                self.step(Wanted(actor=hello.actor, wish=message))
            case m.AlterPartition():
                self._relay(port, request, message)

    def _relay(self, port: Port, request: int, message: m.AlterPartition) -> None:
        """Fill in who we are, and bring the answer back."""
        epoch, lane = self.machine.broker_epoch, self.controller
        if epoch is None or lane is None:
            port.reply(request, m.Refused(code=41, reason="this node has no controller now"))
            return
        whole = m.AlterPartition(
            topic_id=message.topic_id,
            partition=message.partition,
            leader_epoch=message.leader_epoch,
            partition_epoch=message.partition_epoch,
            isr=message.isr,
            isr_epochs=message.isr_epochs,
            node=self.machine.node,
            broker_epoch=epoch,
        )

        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.Refused) and reply.code == StaleBrokerEpochError.code:
                self.step(Stale())
            if reply is None:
                reply = m.Refused(code=7, reason="no answer")
            port.reply(request, reply)

        lane.call(whole, answered, REQUEST_S)

    # Directories

    def _remove(self, effect: RemoveDirectory) -> None:
        on = self.on
        assert on is not None
        self.later(self.engine.random.uniform(0.0005, 0.01), self._removed, effect)

    def _sweep(self) -> None:
        """Once, at the start: directories of topics that nobody knows, or others have by now."""
        on, machine = self.on, self.machine
        assert on is not None
        for path in list(on.disk.names):
            name = path.removeprefix(f"{DATA}/")
            topic_id = self.world.topic_id_in(on, path)
            partition = name.rpartition("-")[2]
            if topic_id is None or not partition.isdigit() or name.startswith("__cluster_metadata"):
                continue
            key = (topic_id, int(partition))
            if key in machine.locals:
                continue
            if machine.image.topic_by_id(topic_id) is None:
                self.world.note(f"host {on.number}: {name} of {topic_id} is nobody's")
                on.disk.remove(path)
                self.world.judge.removed(on.number, key)
            else:
                self.step(Stray(topic_id=topic_id, partition=key[1]))

    def _removed(self, effect: RemoveDirectory) -> None:
        on = self.on
        assert on is not None
        name = f"{DATA}/{effect.topic}-{effect.partition}"
        if effect.keep:
            on.disk.remove(f"{name}.failed")
            on.disk.move(name, f"{name}.failed")
            self.world.judge.removed(on.number, (effect.topic_id, effect.partition))
        elif self.world.topic_id_in(on, name) in (effect.topic_id, None):
            on.disk.remove(name)
            self.world.judge.removed(on.number, (effect.topic_id, effect.partition))
        self.step(DirectoryRemoved(topic_id=effect.topic_id, partition=effect.partition))
