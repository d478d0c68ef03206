"""A host in one thread: the node's machine with a supervisor, a controller and processes that are a few dictionaries.

The controller is the real machine; its log is a list. What the node asks for is queued, and a test decides in which
order what happens: it delivers, crashes, or forgets. Heartbeats and pings are answered at once, unless ``cut`` or
``hung`` says otherwise. Other nodes (``join``) are nothing but their registrations.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Any

import msgspec

from logeion.actors import messages as m
from logeion.actors.controller import brokers
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.controller.machine import ControllerMachine, Request, Settings
from logeion.actors.controller.topics import Defaults
from logeion.actors.metadata import MetadataImage, MetadataRecord
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
    Ponged,
    Register,
    RemoveDirectory,
    Reported,
    SendPing,
    Start,
    Stop,
    Tell,
    ToGateways,
)
from logeion.actors.node.machine import NodeMachine

GATEWAY = m.Hello(actor="gateway/1", kind="gateway", node=1, pid=9)


class Host:
    def __init__(self, starts_max: int = 4, *, heartbeat_s: float = 0.1) -> None:
        self.now = 0.0
        self.heartbeat_s = heartbeat_s
        self.starts_max = starts_max
        self._ids = (f"{number:032x}" for number in count(100))
        self.controller = ControllerMachine(
            Defaults(), lambda: next(self._ids), MetadataImage(), Settings(session_s=10 * heartbeat_s)
        )
        self.log: list[MetadataRecord] = list(self.controller.found("test"))
        self.processes: dict[str, Start] = {}
        self.pids = count(1000)
        self.incarnations = count(1)
        self.highest = 0
        # Every start that was ever asked for, and every one that became a process.
        self.starts: list[Start] = []
        self.forked: list[Start] = []
        self.told: list[m.Message] = []
        self.removing: deque[RemoveDirectory] = deque()
        self.removed: list[RemoveDirectory] = []
        self.to_controller: deque[m.GrantEpochs | m.ReplicasDown] = deque()
        self.to_supervisor: deque[AnyEffect] = deque()
        # Starts of an actor whose directory another one holds.
        self.collisions: list[Start] = []
        self.asked: list[m.Message] = []
        self.registering = False
        self.soon: deque[Beat | SendPing] = deque()
        self.beats: list[Beat] = []
        self.pings: list[SendPing] = []
        # What was told to actors, and who was told that the host may be stopped.
        self.tells: list[Tell] = []
        self.drained: list[int] = []
        # Whether heartbeats by the local Controller are lost; the actors that answer no ping.
        self.cut = False
        self.hung: set[str] = set()
        self.boot_id = "b"
        self.controller.lead(self.now)
        self.boot()

    # The node

    def boot(self) -> None:
        """A fresh Node: what its predecessor had asked of others may still be under way."""
        self.node = NodeMachine(
            1,
            starts_max=self.starts_max,
            first_incarnation=next(self.incarnations) * 1_000_000,
            image=MetadataImage(),
            heartbeat_s=self.heartbeat_s,
            voters=(1, 2, 3),
        )
        self.told.clear()
        self.soon.clear()
        self.registering = False

    def connect(self, *, snapshot: bool = False, silent: bool = False) -> None:
        """Follow the log, register, meet the supervisor, the gateway and (unless they are ``silent``) whoever runs."""
        if snapshot:
            records = self.controller.image.records()
            self.step(m.Committed(offset=0, next_offset=len(self.log), records=records, snapshot=True))
        self.catch_up()
        self.register()
        self.list_actors()
        self.step(Greeted(hello=GATEWAY))
        self.step(Bound(actor=GATEWAY.actor, addresses=["127.0.0.1:9092"]))
        self.register()
        self.elapse(0)
        for actor in [] if silent else list(self.processes):
            self.greet(actor)
            self.run(actor)

    def step(self, event: AnyEvent) -> None:
        for effect in self.node.step(event, self.now):
            match effect:
                case Start():
                    self.starts.append(effect)
                    directory = effect.actor.partition("/")[2]
                    held = effect.kind != "coordinator" and directory in map(_directory, self.processes)
                    self.collisions += [effect] * held
                    self.to_supervisor.append(effect)
                case Stop() | List():
                    self.to_supervisor.append(effect)
                case Ask():
                    self.to_controller.append(effect.message)
                case ToGateways():
                    self.told.append(effect.message)
                case RemoveDirectory():
                    self.removing.append(effect)
                case Tell():
                    self.tells.append(effect)
                case Register():
                    self.registering = True
                case Drained():
                    self.drained.append(effect.request)
                case Beat():
                    self.beats.append(effect)
                    self.soon.append(effect)
                case SendPing():
                    self.pings.append(effect)
                    self.soon.append(effect)
        while self.soon:
            self.answer(self.soon.popleft())

    def answer(self, effect: Beat | SendPing) -> None:
        """What is answered at once, if at all."""
        if isinstance(effect, SendPing):
            if effect.actor not in self.hung:
                self.step(Ponged(actor=effect.actor, incarnation=effect.incarnation))
        elif not self.cut:
            self.beat(effect)

    def beat(self, effect: Beat) -> None:
        reply = self.ask(effect.message)
        if isinstance(reply, m.HeartbeatAnswered):
            self.step(BeatAnswered(attempt=effect.attempt, may_stop=reply.may_stop))
        else:
            assert isinstance(reply, m.Refused)
            self.step(BeatFailed(attempt=effect.attempt, code=reply.code))

    def elapse(self, seconds: float) -> None:
        """Time passes, with the node's timer going off whenever it is set."""
        end = self.now + seconds
        for _ in range(1000):
            deadline = self.node.deadline
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.tick()
            self.step(Elapsed())
        else:
            raise AssertionError("the timer goes off again and again")
        self.now = end
        self.tick()

    def tick(self) -> None:
        """The controller's timer; the other nodes live as long as nobody says otherwise."""
        image = self.controller.image
        for node in image.brokers.keys() - image.fenced - {1}:
            self.ask(m.Heartbeat(node=node, broker_epoch=image.brokers[node].broker_epoch, applied=len(self.log)))
        self.log += self.controller.tick(self.now)

    # The controller

    def ask(self, request: Request) -> m.Message:
        self.asked.append(request)
        decision = self.controller.handle(request, self.now)
        self.log += decision.records
        return decision.reply

    def register(self) -> None:
        self.registering = False
        reply = self.ask(
            m.RegisterNode(
                node=1,
                incarnation="a",
                directory_id="d",
                host="127.0.0.1",
                port=9092,
                boot_id=self.boot_id,
                features=SUPPORTED,
            )
        )
        assert isinstance(reply, m.NodeRegistered)
        self.catch_up()
        self.step(reply)

    def join(self, node: int) -> None:
        """Another node is there, and stays until ``fence``."""
        host = f"host{node}"
        reply = self.ask(
            m.RegisterNode(
                node=node,
                incarnation=f"a{node}",
                directory_id=f"d{node}",
                host=host,
                port=9092,
                cluster_host=host,
                cluster_port=9645,
                boot_id=f"b{node}",
                features=SUPPORTED,
            )
        )
        assert isinstance(reply, m.NodeRegistered)
        self.ask(m.Heartbeat(node=node, broker_epoch=reply.broker_epoch, applied=reply.committed))

    def fence(self, node: int) -> None:
        """Another node is gone."""
        records = list(brokers.fenced(self.controller.image, [node]))
        self.controller.image.apply_all(records)
        self.controller.next_offset += len(records)
        self.log += records

    def elect(self, name: str, leader: int, partition: int = 0) -> None:
        """The controller moves leadership, as if it were the preferred replica's turn."""
        topic = self.controller.image.topic(name)
        assert topic is not None
        state = topic.partitions[partition]
        self.change(name, partition, leader=leader, leader_epoch=state.leader_epoch + 1)

    def change(self, name: str, partition: int = 0, **fields: Any) -> None:
        """Something of a partition is committed."""
        topic = self.controller.image.topic(name)
        assert topic is not None
        state = topic.partitions[partition]
        fields.setdefault("partition_epoch", state.partition_epoch + 1)
        record = msgspec.structs.replace(state, **fields)
        self.controller.image.apply(record)
        self.controller.next_offset += 1
        self.log.append(record)

    def catch_up(self, records: int = 1_000_000) -> None:
        at = self.node.applied
        new = self.log[at : at + records]
        if new:
            self.step(m.Committed(offset=at, next_offset=at + len(new), records=new))

    def answer_grant(self, *, first_the_log: bool = True) -> None:
        """The oldest request to the controller: epochs, or replicas that are down."""
        request = self.to_controller.popleft()
        reply = self.ask(request)
        if first_the_log:
            self.catch_up()
        if isinstance(reply, m.EpochsGranted | m.Recorded):
            self.step(reply)
        else:
            assert isinstance(reply, m.Refused)
            self.step(_failed(request, reply.code))

    def lose_grant(self, *, committed: bool) -> None:
        request = self.to_controller.popleft()
        if committed:
            self.ask(request)
        self.step(_failed(request, 0))

    def create(self, name: str, partitions: int = 1, replicas: list[int] | None = None) -> str:
        topic = m.TopicToCreate(name=name, partitions=partitions)
        if replicas is not None:
            topic = m.TopicToCreate(name=name, assignments=dict.fromkeys(range(partitions), replicas))
        reply = self.ask(m.CreateTopics(topics=[topic]))
        assert isinstance(reply, m.TopicsChanged) and not reply.results[0].code
        return reply.results[0].topic_id

    def delete(self, name: str) -> None:
        self.ask(m.DeleteTopics(names=[name]))

    # The supervisor and its processes

    def supervise(self) -> None:
        """The oldest thing the node asked of it."""
        effect = self.to_supervisor.popleft()
        if isinstance(effect, Start):
            self.highest = max(self.highest, effect.incarnation)
            if effect.actor in self.processes:
                self.step(m.ActorExited(actor=effect.actor, incarnation=effect.incarnation))
            else:
                self.processes[effect.actor] = effect
                self.forked.append(effect)
                self.step(m.ActorStarted(actor=effect.actor, incarnation=effect.incarnation, pid=next(self.pids)))
        elif isinstance(effect, Stop):
            process = self.processes.get(effect.actor)
            if process is not None and process.incarnation == effect.incarnation:
                self.kill(effect.actor)
        elif isinstance(effect, List):
            self.list_actors(effect.number)

    def list_actors(self, number: int = 0) -> None:
        entries = [
            m.ActorEntry(actor=one.actor, kind=one.kind, incarnation=one.incarnation, pid=1)
            for one in self.processes.values()
        ]
        self.step(m.ActorsListed(actors=entries, number=number, highest=self.highest))

    def kill(self, actor: str, status: int = -9) -> None:
        process = self.processes.pop(actor)
        self.step(m.ActorExited(actor=actor, incarnation=process.incarnation, status=status))

    def greet(self, actor: str) -> None:
        process = self.processes[actor]
        self.step(
            Greeted(
                hello=m.Hello(
                    actor=actor,
                    kind=process.kind,
                    node=1,
                    pid=1,
                    incarnation=process.incarnation,
                    topic_id=process.topic_id,
                    partition=process.partition,
                    epoch=process.epoch,
                )
            )
        )

    def run(self, actor: str, state: str = "running", cause: str = "", code: int = 0) -> None:
        process = self.processes.get(actor)
        if process is not None:
            change = m.StateChanged(state=state, cause=cause, code=code, epoch=process.epoch)
            self.step(Reported(actor=actor, incarnation=process.incarnation, change=change))

    def run_fixed(self, actor: str, incarnation: int) -> None:
        """A gateway or the controller says that it runs."""
        self.step(Reported(actor=actor, incarnation=incarnation, change=m.StateChanged(state="running")))

    def remove(self, *, failed: bool = False) -> None:
        effect = self.removing.popleft()
        self.removed.append(effect)
        self.step(DirectoryRemoved(topic_id=effect.topic_id, partition=effect.partition, failed=failed))

    def settle(self) -> None:
        """Everything that is under way comes to its good end, without time passing."""
        for _ in range(10_000):
            if self.node.applied < len(self.log):
                self.catch_up()
            elif self.to_controller:
                self.answer_grant()
            elif self.to_supervisor:
                before = set(self.processes)
                self.supervise()
                for actor in set(self.processes) - before:
                    self.greet(actor)
                    self.run(actor)
            elif self.removing:
                self.remove()
            elif self.registering:
                self.register()
            elif self.node.deadline is not None and self.node.deadline <= self.now:
                self.step(Elapsed())
            else:
                return
        raise AssertionError("the host does not come to rest")


def _directory(actor: str) -> str:
    kind, _, name = actor.partition("/")
    return name if kind in ("partition", "replica") else ""


def _failed(request: m.GrantEpochs | m.ReplicasDown, code: int) -> GrantFailed | DownFailed:
    kind = GrantFailed if isinstance(request, m.GrantEpochs) else DownFailed
    return kind(code=code, reason="the lane closed")
