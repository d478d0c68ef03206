"""A host in one thread: the node's machine with a supervisor, a controller and processes that are a few dictionaries.

The controller is the real machine; its log is a list. What the node asks for is queued, and a test decides in which
order what happens: it delivers, crashes, or forgets.
"""

from __future__ import annotations

from collections import deque
from itertools import count

from logeion.actors import messages as m
from logeion.actors.controller.machine import ControllerMachine, Request
from logeion.actors.controller.topics import Defaults
from logeion.actors.metadata import MetadataImage, MetadataRecord
from logeion.actors.node.events import (
    AnyEffect,
    AnyEvent,
    Ask,
    Bound,
    DirectoryRemoved,
    Elapsed,
    GrantFailed,
    Greeted,
    List,
    RemoveDirectory,
    Reported,
    Start,
    Stop,
    ToGateways,
)
from logeion.actors.node.machine import NodeMachine

GATEWAY = m.Hello(actor="gateway/1", kind="gateway", node=1, pid=9)


class Host:
    def __init__(self, starts_max: int = 4) -> None:
        self.now = 0.0
        self.starts_max = starts_max
        self._ids = (f"{number:032x}" for number in count(100))
        self.controller = ControllerMachine(Defaults(), lambda: next(self._ids), MetadataImage())
        self.log: list[MetadataRecord] = list(self.controller.found("test"))
        self.processes: dict[str, Start] = {}
        self.pids = count(1000)
        self.incarnations = count(1)
        # Every start that was ever asked for, and every one that became a process.
        self.starts: list[Start] = []
        self.forked: list[Start] = []
        self.told: list[m.Message] = []
        self.removing: deque[RemoveDirectory] = deque()
        self.removed: list[RemoveDirectory] = []
        self.to_controller: deque[m.GrantEpochs] = deque()
        self.to_supervisor: deque[AnyEffect] = deque()
        self.boot()

    # The node

    def boot(self) -> None:
        """A fresh Node: what its predecessor had asked of others may still be under way."""
        self.node = NodeMachine(
            1, starts_max=self.starts_max, first_incarnation=next(self.incarnations) * 1_000_000, image=MetadataImage()
        )
        self.told.clear()

    def connect(self, *, snapshot: bool = False) -> None:
        """Follow the log, register, meet the supervisor, the gateway and whoever runs."""
        if snapshot:
            records = self.controller.image.records()
            self.step(m.Committed(offset=0, next_offset=len(self.log), records=records, snapshot=True))
        self.catch_up()
        self.register()
        self.list_actors()
        self.step(Greeted(hello=GATEWAY))
        self.step(Bound(actor=GATEWAY.actor, addresses=["127.0.0.1:9092"]))
        for actor in list(self.processes):
            self.greet(actor)
            self.run(actor)

    def step(self, event: AnyEvent) -> None:
        for effect in self.node.step(event, self.now):
            match effect:
                case Start():
                    self.starts.append(effect)
                    self.to_supervisor.append(effect)
                case Stop() | List():
                    self.to_supervisor.append(effect)
                case Ask():
                    self.to_controller.append(effect.message)
                case ToGateways():
                    self.told.append(effect.message)
                case RemoveDirectory():
                    self.removing.append(effect)
                case _:
                    pass

    def elapse(self, seconds: float) -> None:
        """Time passes, with the node's timer going off whenever it is set."""
        end = self.now + seconds
        for _ in range(1000):
            deadline = self.node.deadline
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.step(Elapsed())
        else:
            raise AssertionError("the timer goes off again and again")
        self.now = end

    # The controller

    def ask(self, request: Request) -> m.Message:
        decision = self.controller.handle(request)
        self.log += decision.records
        return decision.reply

    def register(self) -> None:
        reply = self.ask(
            m.RegisterNode(node=1, incarnation="a", directory_id="d", host="127.0.0.1", port=9092, admin="")
        )
        assert isinstance(reply, m.NodeRegistered)
        self.catch_up()
        self.step(reply)

    def catch_up(self, records: int = 1_000_000) -> None:
        at = self.node.applied
        new = self.log[at : at + records]
        if new:
            self.step(m.Committed(offset=at, next_offset=at + len(new), records=new))

    def answer_grant(self, *, first_the_log: bool = True) -> None:
        reply = self.ask(self.to_controller.popleft())
        if first_the_log:
            self.catch_up()
        self.step(reply if isinstance(reply, m.EpochsGranted) else GrantFailed(code=77, reason="stale"))

    def lose_grant(self, *, committed: bool) -> None:
        request = self.to_controller.popleft()
        if committed:
            self.ask(request)
        self.step(GrantFailed(code=0, reason="the lane closed"))

    def create(self, name: str, partitions: int = 1) -> str:
        reply = self.ask(m.CreateTopics(topics=[m.TopicToCreate(name=name, partitions=partitions)]))
        assert isinstance(reply, m.TopicsChanged) and not reply.results[0].code
        return reply.results[0].topic_id

    def delete(self, name: str) -> None:
        self.ask(m.DeleteTopics(names=[name]))

    # The supervisor and its processes

    def supervise(self) -> None:
        """The oldest thing the node asked of it."""
        effect = self.to_supervisor.popleft()
        if isinstance(effect, Start):
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
        else:
            self.list_actors()

    def list_actors(self) -> None:
        entries = [
            m.ActorEntry(actor=one.actor, kind=one.kind, incarnation=one.incarnation, pid=1)
            for one in self.processes.values()
        ]
        self.step(m.ActorsListed(actors=entries))

    def kill(self, actor: str) -> None:
        process = self.processes.pop(actor)
        self.step(m.ActorExited(actor=actor, incarnation=process.incarnation))

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

    def remove(self) -> None:
        effect = self.removing.popleft()
        self.removed.append(effect)
        self.step(DirectoryRemoved(topic_id=effect.topic_id, partition=effect.partition))

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
            else:
                return
        raise AssertionError("the host does not come to rest")
