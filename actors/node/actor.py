"""Node: this host's agent, as a process. It starts and stops what the metadata log says, and tells who runs."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import assert_never

import msgspec

from logeion.console.view import ActorRow, ClusterRow, Metric
from logeion.log.files import Files
from logeion.log.names import DELETED
from logeion.wire.errors import InvalidRequestError

from .. import messages as m
from ..config import parse_address
from ..controller.features import SUPPORTED
from ..figures import cluster_metrics, cluster_row, node_metrics
from ..gateway.listening import bind
from ..gateway.ports import PortFile
from ..hosts import HostPort, load_secret
from ..lanes import Lane, LaneError, LaneListener, socket_path
from ..metadata import MetadataImage
from ..runtime import ActorBase, ActorSpec, Shell
from ..stream import Frame
from . import cleanliness, directories, identity
from .detours import Detours
from .events import (
    AnyEffect,
    AnyEvent,
    Ask,
    Beat,
    Bound,
    DirectoryRemoved,
    DrainAsked,
    Drained,
    Elapsed,
    Greeted,
    List,
    Parted,
    Ponged,
    Register,
    RemoveDirectory,
    Reported,
    SendPing,
    Start,
    Stop,
    Stray,
    Suspected,
    Tell,
    ToGateways,
    Wanted,
)
from .following import NOT_CONTROLLER, Following
from .http import AdminPort
from .local import LEADER
from .machine import NodeMachine
from .rows import actor_rows

log: logging.Logger = logging.getLogger(__name__)

# The machine decides how long a ping may take; beyond this nobody waits for its answer.
PING_S = 10.0


class NodeShell(Shell):
    """The machine's effects: messages to the Supervisor, the Controller, the actors; directories; the admin HTTP."""

    tells_node = False

    async def start(self) -> None:
        """Listen for the actors, dial the Controller, ask the Supervisor who runs."""
        spec = self.spec
        self.data_dir: Path = Path(spec.data_dir)
        self.identity: identity.Identity = identity.load(self.data_dir, spec.node, uuid.uuid4().hex)
        # Taken now, so that its address can be told; served later.
        file = PortFile(spec.run_dir / "admin-port", shared=False)
        self.admin: AdminPort = AdminPort(
            self.config.http.bind, await file.settle(self.config.http.bind, self.config.http.port, first=True)
        )
        file.keep(self.admin.port)
        voters = self.config.voters()
        self.machine: NodeMachine = NodeMachine(
            spec.node,
            starts_max=self.config.node.starts or 2 * (os.cpu_count() or 1),
            heartbeat_s=self.config.rhythm()[0],
            voters=sorted(voters),
            first_incarnation=time.time_ns() // 1_000,
            image=MetadataImage(self.config.topic_defaults()),
            coordinators_max=self.config.groups.coordinators_max,
        )
        self._incarnation = _incarnation(self.identity.directory_id)
        self._boot_id = Files().boot_id()
        self._clean = cleanliness.take(self.data_dir, self.identity.directory_id)
        self._killed = False
        self._lanes: dict[str, Lane] = {}
        self._states: dict[str, str] = {}
        self._pids: dict[str, int] = {}
        # Who waits, and for how many nodes of the cluster.
        self._awaiting: list[tuple[Lane, int, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ready = self._swept = False
        # The nodes that are not fenced, and their broker epochs.
        self._inside: dict[int, int] = {}
        self._draining: dict[int, tuple[Lane, int]] = {}
        self._drains = count(1)
        self._http: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, "directories")
        self._listener = LaneListener(self.loop, socket_path(spec.run_dir, "node"), self._on_lane)
        self._hosts: HostPort | None = None
        self._detours: Detours | None = None
        if voters:
            secret = load_secret(self.config)
            sockets = bind([self.config.cluster.bind], self.config.cluster.port)
            self._hosts = HostPort(self.loop, sockets, spec.run_dir, secret)
            self._detours = Detours(self.loop, lambda: {**voters, **self.machine.image.voters}, secret)
        self._following = Following(
            self.loop,
            spec.run_dir,
            step=self._step,
            applied=lambda: self.machine.applied,
            goes_back=self.machine.goes_back,
            registration=self._registration,
        )
        self.tell_supervisor(m.ListActors())
        self.admin.when_asked(self.loop, self._serve_http)

    async def stop(self) -> None:
        """Nobody is told anything any more."""
        if self._http is not None:
            self._http.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._following.close()
        if self._detours is not None:
            self._detours.close()
        if self._hosts is not None:
            self._hosts.close()
        self._listener.close()
        self.admin.close()
        self._worker.shutdown(wait=False, cancel_futures=True)
        if not self._killed and not self.machine.processes:
            cleanliness.leave(self.data_dir, self.identity.directory_id)

    def on_supervisor(self, message: m.AnyMessage) -> None:
        """What the Supervisor says."""
        if isinstance(message, m.ActorExited) and self.machine.leaving:
            self._killed = self._killed or message.status != 0
        if isinstance(message, (m.ActorsListed, m.ActorStarted, m.ActorExited)):
            self._step(message)

    # The view of the console

    @property
    def node(self) -> int:
        return self.spec.node

    def actors(self) -> list[ActorRow]:
        return actor_rows(self.machine, self._states, self._pids)

    def unready(self) -> list[str]:
        return self.machine.unready()

    def cluster(self) -> ClusterRow:
        return cluster_row(self.machine.image, self.machine.quorum_leader)

    def metrics(self) -> list[Metric]:
        return node_metrics(self.machine.image, self.machine.figures, self.machine.quorum_leader)

    def cluster_metrics(self) -> list[Metric]:
        return cluster_metrics(self.machine.image)

    # The machine and its effects

    def _step(self, event: AnyEvent) -> None:
        for effect in self.machine.step(event, self.loop.time()):
            self._do(effect)
        self._arm()
        if isinstance(event, m.Committed) and self.machine.caught_up:
            self._note_fencing()
        if self.machine.image.cluster_id not in ("", self.identity.cluster_id):
            self.identity = identity.joined(self.data_dir, self.identity, self.machine.image.cluster_id)
        if self.machine.caught_up and not self._swept:
            self._swept = True
            self.loop.create_task(self._sweep())
        if not self._ready and self.machine.ready:
            self._ready = True
            log.info("ready node=%d partitions=%d", self.spec.node, len(self.machine.locals))
        if self._awaiting:
            self._answer_ready()

    def _note_fencing(self) -> None:
        """Say who is let in and who is not any more; not of the past, nor of one that has just registered anew."""
        image = self.machine.image
        inside = {node: one.broker_epoch for node, one in image.brokers.items() if node not in image.fenced}
        for node in sorted(inside.keys() - self._inside.keys()):
            log.info("node %d is let in", node)
        for node in sorted(self._inside.keys() - inside.keys()):
            broker = image.brokers.get(node)
            if broker is None:
                log.warning("node %d is unregistered", node)
            elif broker.broker_epoch == self._inside[node]:
                log.warning("node %d is fenced", node)
        self._inside = inside

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.machine.deadline
        if deadline is not None:
            self._timer = self.loop.call_at(deadline, self._step, Elapsed())

    def _do(self, effect: AnyEffect) -> None:
        match effect:
            case Start():
                self._start_actor(effect)
            case Stop():
                message = m.StopActor(actor=effect.actor, incarnation=effect.incarnation, force=effect.force)
                self.tell_supervisor(message)
            case List():
                self.tell_supervisor(m.ListActors(number=effect.number))
            case Ask():
                self._following.ask(effect.message)
            case Register():
                self._following.register()
            case ToGateways():
                for actor in [effect.actor] if effect.actor is not None else list(self.machine.gateways):
                    lane = self._lanes.get(actor)
                    if lane is not None:
                        lane.tell(effect.message)
            case Tell():
                lane = self._lane_to(effect.actor, effect.incarnation)
                if lane is not None:
                    lane.tell(effect.message)
            case SendPing():
                self._ping(effect)
            case Beat():
                self._beat(effect)
            case Drained():
                lane, request = self._draining.pop(effect.request)
                lane.reply(request, m.Done())
            case RemoveDirectory():
                self.loop.create_task(self._remove(effect))
            case _:
                assert_never(effect)

    def _lane_to(self, actor: str, incarnation: int) -> Lane | None:
        lane = self._lanes.get(actor)
        return lane if lane is not None and lane.peer is not None and lane.peer.incarnation == incarnation else None

    def _ping(self, effect: SendPing) -> None:
        """One whose lane has just closed is not asked: it ends, or comes back by itself."""
        lane, alive = self._lane_to(effect.actor, effect.incarnation), Ponged(**msgspec.structs.asdict(effect))
        if lane is None:
            self.loop.call_soon(self._step, alive)
            return

        def on_reply(reply: m.AnyMessage | LaneError) -> None:
            if isinstance(reply, m.Pong):
                self._step(alive)

        lane.call(m.Ping(), on_reply=on_reply, timeout_s=PING_S)

    def _beat(self, effect: Beat) -> None:
        if effect.voter is None or self._detours is None:
            self._following.beat(effect)
        else:
            on_reply = partial(self._following.on_beaten, effect.attempt)
            self._detours.call(effect.voter, effect.message, on_reply)

    def _start_actor(self, effect: Start) -> None:
        spec = ActorSpec(
            actor=effect.actor,
            kind=effect.kind,
            node=self.spec.node,
            incarnation=effect.incarnation,
            data_dir=self.spec.data_dir,
            config=self.spec.config,
            topic=effect.topic,
            topic_id=effect.topic_id,
            partition=effect.partition,
            epoch=effect.epoch,
            configs=effect.configs,
            group=effect.group,
            slice=effect.slice,
        )
        log.info("starting %s epoch=%s incarnation=%d", effect.actor, effect.epoch, effect.incarnation)
        self.tell_supervisor(
            m.StartActor(
                actor=effect.actor,
                kind=effect.kind,
                incarnation=effect.incarnation,
                spec=spec.encode(),
            )
        )

    def _registration(self) -> m.RegisterNode:
        addresses = [address for bound in self.machine.gateways.values() for address in bound]
        host, port = parse_address(addresses[0], 0) if addresses else (self.config.listeners.bind[0], 0)
        if self.config.listeners.advertise:
            host, port = parse_address(self.config.listeners.advertise, port)
        cluster_host, cluster_port = self.config.cluster_address()
        return m.RegisterNode(
            node=self.spec.node,
            incarnation=self._incarnation,
            directory_id=self.identity.directory_id,
            host=host,
            port=port or self.config.listeners.port,
            rack=self.config.node.rack,
            admin=self.admin.addresses[0],
            clean=self._clean,
            cluster_host=cluster_host,
            cluster_port=cluster_port,
            boot_id=self._boot_id,
            features=SUPPORTED,
        )

    # The actors of this host

    def _on_lane(self, lane: Lane) -> None:
        peer = lane.peer
        assert peer is not None
        lane.on_message = self._on_message
        lane.on_closed = self._on_closed
        self._lanes[peer.actor] = lane
        known = self.machine.fixed.get(peer.actor)
        if peer.kind in ("gateway", "controller"):
            self._pids[peer.actor] = peer.pid
            self._states[peer.actor] = "starting"
            if known is not None and known.pid != peer.pid:
                self.tell_supervisor(m.ListActors())
        self._step(Greeted(hello=peer))

    def _on_message(self, lane: Lane, request: int, message: m.AnyMessage, frame: Frame) -> None:
        peer = lane.peer
        assert peer is not None
        match message:
            case m.StateChanged():
                if peer.kind in ("gateway", "controller"):
                    self._states[peer.actor] = message.state
                if message.cause:
                    level = logging.WARNING if message.state == "failed" else logging.DEBUG
                    log.log(level, "%s is %s: %s", peer.actor, message.state, message.cause)
                self._step(Reported(actor=peer.actor, incarnation=peer.incarnation, change=message))
            case m.ListenersBound():
                self._step(Bound(actor=peer.actor, addresses=message.addresses))
            case m.EnsureCoordinator():
                self._step(Wanted(actor=peer.actor, wish=message))
            case m.AlterPartition():
                self._alter(lane, request, message)
            case m.Suspect():
                self._step(Suspected(actor=message.actor, incarnation=message.incarnation))
            case m.Drain():
                number = next(self._drains)
                self._draining[number] = (lane, request)
                log.info("draining")
                self._step(DrainAsked(request=number, timeout_s=message.timeout_ms / 1000))
            case m.Ping():
                lane.reply(request, m.Pong())
            case m.AwaitReady():
                self._awaiting.append((lane, request, message.nodes))
                self._answer_ready()
            case _:
                refusal = f"node does not answer {type(message).__name__}"
                lane.reply(request, m.Refused(code=InvalidRequestError.code, reason=refusal))

    def _alter(self, lane: Lane, request: int, message: m.AlterPartition) -> None:
        """A leader proposes: its Node says for which registration."""
        epoch = self.machine.broker_epoch
        if epoch is None:
            lane.reply(request, m.Refused(code=NOT_CONTROLLER, reason="this node is not registered"))
        else:
            proposal = msgspec.structs.replace(message, node=self.spec.node, broker_epoch=epoch)
            self._following.relay(lane, request, proposal)

    def _on_closed(self, lane: Lane, reason: str) -> None:
        peer = lane.peer
        assert peer is not None
        self._awaiting = [waiting for waiting in self._awaiting if waiting[0] is not lane]
        if self._lanes.get(peer.actor) is not lane:
            return
        del self._lanes[peer.actor]
        if peer.kind in ("gateway", "controller"):
            self._states[peer.actor] = "starting"
        self._step(Parted(actor=peer.actor, incarnation=peer.incarnation))

    def _answer_ready(self) -> None:
        image = self.machine.image
        nodes = [node for node in image.brokers if node not in image.fenced]
        answered = [waiting for waiting in self._awaiting if waiting[2] <= len(nodes)]
        if not answered or not self.machine.ready:
            return
        entries = list(self.machine.fixed.values())
        entries += (
            m.ActorEntry(
                actor=one.actor, kind=one.kind, incarnation=one.incarnation, pid=one.pid, restarts=one.restarts
            )
            for one in self.machine.processes.values()
        )
        ready = m.Ready(
            node=self.spec.node,
            cluster_id=image.cluster_id,
            listeners=[address for bound in self.machine.gateways.values() for address in bound],
            admin=self.admin.addresses,
            actors=entries,
            nodes=sorted(nodes),
            leads=sum(1 for local in self.machine.locals.values() if local.role == LEADER),
        )
        for lane, request, _ in answered:
            lane.reply(request, ready)
        self._awaiting = [waiting for waiting in self._awaiting if waiting not in answered]

    # Directories, off the loop

    async def _remove(self, effect: RemoveDirectory) -> None:
        """The name is free once the directory is renamed; its bytes may take their time."""
        aside: Path | None = None
        failed = False
        try:
            aside = await self.loop.run_in_executor(
                self._worker,
                directories.put_aside,
                self.data_dir,
                effect.topic,
                effect.topic_id,
                effect.partition,
                directories.FAILED if effect.keep else DELETED,
            )
        except OSError as error:
            failed = True
            log.error("%s-%d: cannot be put aside: %s", effect.topic, effect.partition, error)
        self._step(DirectoryRemoved(topic_id=effect.topic_id, partition=effect.partition, failed=failed))
        if aside is not None and effect.keep:
            log.error(
                "%s-%d: its log failed, and is begun afresh; set aside as %s", effect.topic, effect.partition, aside
            )
        elif aside is not None:
            await self.loop.run_in_executor(self._worker, directories.remove, aside)

    async def _sweep(self) -> None:
        """Once, at the start: what predecessors left, and directories of topics that nobody knows, or others have."""
        try:
            found = await self.loop.run_in_executor(self._worker, directories.partitions, self.data_dir)
            topics = self.machine.image.topics
            strays = [one for one in found if one.topic_id not in topics and not self._going(one)]
            await self.loop.run_in_executor(self._worker, directories.set_strays_aside, strays)
            for one in found:
                if one.topic_id in self.machine.image.topics and not self._going(one):
                    log.warning("%s: is assigned to other nodes by now, and removed", one.path)
                    self._step(Stray(topic_id=one.topic_id, partition=one.partition))
            for path in await self.loop.run_in_executor(self._worker, directories.leftovers, self.data_dir):
                await self.loop.run_in_executor(self._worker, directories.remove, path)
        except OSError as error:
            log.warning("%s: cannot be swept: %s", self.data_dir, error)

    def _going(self, found: directories.Found) -> bool:
        """Whether it is ours, or being removed anyway."""
        return (found.topic_id, found.partition) in self.machine.locals

    # HTTP

    def _serve_http(self) -> None:
        if self._http is None:
            self._http = self.loop.create_task(self.admin.serve(self))


def _incarnation(directory_id: str) -> str:
    """The same for as long as this Supervisor lives: a Node that restarts is not a broker that restarts."""
    supervisor = os.getppid()
    with open(f"/proc/{supervisor}/stat", encoding="utf-8", errors="replace") as source:
        # The process's name may hold anything, so count from its closing bracket; field 22 is the start time.
        started = source.read().rpartition(")")[2].split()[19]
    return f"{directory_id}:{Files().boot_id()}:{supervisor}:{started}"


class Node(ActorBase):
    """The Thespian actor around it."""

    shell: type[Shell] = NodeShell
