"""Which Coordinators and group indexes a node runs, beside a supervisor of a few lines."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logeion.actors import messages as m
from logeion.actors.groups import OFFSETS_TOPIC, coordinator_socket, partition_of
from logeion.actors.node.events import Wanted

from .host_world import GATEWAY, Host

INDEX = f"index/{OFFSETS_TOPIC}-0"


def want(host: Host, group: str, *, upkeep: bool = False) -> None:
    topic = host.controller.image.topic(OFFSETS_TOPIC)
    assert topic is not None
    wish = m.EnsureCoordinator(group=group, topic_id=topic.topic_id, partition=0, upkeep=upkeep)
    host.step(Wanted(actor=GATEWAY.actor, wish=wish))


def create_offsets(host: Host) -> None:
    wanted = [m.TopicToCreate(name=OFFSETS_TOPIC, partitions=1)]
    reply = host.ask(m.CreateTopics(topics=wanted, internal=True))
    assert isinstance(reply, m.TopicsChanged) and not reply.results[0].code


def hosting(*groups: str, heartbeat_s: float = 0.1) -> Host:
    host = Host(heartbeat_s=heartbeat_s)
    host.connect()
    create_offsets(host)
    host.settle()
    for group in groups:
        want(host, group)
    host.settle()
    return host


def told(host: Host, kind: type) -> list[Any]:
    return [message for message in host.told if isinstance(message, kind)]


def test_an_index_runs_beside_the_leader_of_the_offsets_and_a_coordinator_when_wanted() -> None:
    host = hosting()
    assert INDEX in host.processes and "coordinator/g" not in host.processes
    want(host, "g")
    want(host, "g")
    host.settle()
    start = host.processes["coordinator/g"]
    assert (start.kind, start.group, start.epoch) == ("coordinator", "g", host.processes[INDEX].epoch)
    assert [one.group for one in told(host, m.CoordinatorRunning)] == ["g"]
    want(host, "g")
    assert told(host, m.CoordinatorRunning)[-1].incarnation == start.incarnation, "who asks again is told again"
    assert len(host.starts) == 3


def test_a_killed_coordinator_is_back_at_once_and_an_idle_one_when_wanted() -> None:
    host = hosting("g")
    before = host.processes["coordinator/g"].incarnation
    host.kill("coordinator/g")
    host.settle()
    assert host.processes["coordinator/g"].incarnation > before
    host.run("coordinator/g", "stopping", "idle")
    assert told(host, m.CoordinatorStopped)[-1].group == "g"
    host.kill("coordinator/g")
    host.settle()
    assert "coordinator/g" not in host.processes and "coordinator/g" not in host.node.companions.all
    want(host, "g")
    host.settle()
    assert "coordinator/g" in host.processes


def test_one_that_is_wanted_while_it_goes_is_started_again_when_it_is_gone() -> None:
    host = hosting("g")
    host.run("coordinator/g", "stopping", "idle")
    want(host, "g")
    assert not told(host, m.CoordinatorRunning)[1:], "nobody is sent to one that goes"
    host.kill("coordinator/g")
    host.settle()
    assert "coordinator/g" in host.processes


def test_a_new_epoch_of_the_partition_is_a_new_start_of_all() -> None:
    host = hosting("a", "b")
    before = {actor: one.incarnation for actor, one in host.processes.items()}
    host.kill(f"partition/{OFFSETS_TOPIC}-0")
    host.settle()
    epoch = host.processes[f"partition/{OFFSETS_TOPIC}-0"].epoch
    for actor in (INDEX, "coordinator/a", "coordinator/b"):
        assert host.processes[actor].epoch == epoch and host.processes[actor].incarnation > before[actor]


def test_a_fresh_node_adopts_who_runs() -> None:
    host = hosting("g")
    before = {actor: one.incarnation for actor, one in host.processes.items()}
    host.boot()
    host.connect()
    host.settle()
    assert {actor: one.incarnation for actor, one in host.processes.items()} == before
    assert {type(message) for message in host.told} >= {m.CoordinatorRunning, m.IndexRunning, m.PartitionRunning}
    host.kill("coordinator/g")
    host.settle()
    assert "coordinator/g" in host.processes


def test_one_that_fails_again_and_again_waits_and_says_why() -> None:
    host = hosting("g")
    host.kill("coordinator/g")
    for _ in range(8):
        while host.to_supervisor:
            host.supervise()
        host.run("coordinator/g", "failed", "the disk is full")
        host.kill("coordinator/g")
        host.elapse(6)
    assert told(host, m.CoordinatorStopped)[-1].cause == "the disk is full"
    host.elapse(30)
    host.settle()
    assert "coordinator/g" in host.processes, "it is tried again"


def test_there_is_a_limit_to_how_many_run_at_once() -> None:
    host = hosting("a", "b")
    host.node.companions.coordinators_max = 3
    want(host, "one too many")
    host.settle()
    assert "groups.coordinators_max" in told(host, m.CoordinatorStopped)[-1].cause
    assert "coordinator/one too many" not in host.processes
    host.run("coordinator/a", "stopping", "idle")
    host.kill("coordinator/a")
    want(host, "one too many")
    host.settle()
    assert "coordinator/one too many" in host.processes


def test_upkeep_is_a_start_that_says_so() -> None:
    host = hosting()
    want(host, "due", upkeep=True)
    host.settle()
    assert host.processes["coordinator/due"].configs == {"upkeep": "true"}
    host.kill("coordinator/due")
    host.settle()
    assert host.processes["coordinator/due"].configs == {}


class Storm(RuleBasedStateMachine):
    """Whatever dies in whatever order: never two processes of one group, and all that is wanted runs in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.host = hosting(heartbeat_s=1.5)
        self.wanted: set[str] = set()

    @rule(group=st.sampled_from("abc"))
    def ask(self, group: str) -> None:
        want(self.host, group)
        self.wanted.add(f"coordinator/{group}")

    @precondition(lambda self: self.host.processes)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        self.host.kill(data.draw(st.sampled_from(sorted(self.host.processes))))

    @precondition(lambda self: self.wanted & self.host.processes.keys())
    @rule(data=st.data())
    def idle(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from(sorted(self.wanted & self.host.processes.keys())))
        self.host.greet(actor)
        self.host.run(actor)
        self.host.run(actor, "stopping", "idle")
        if self.host.node.companions.all[actor].process is not None:
            self.wanted.discard(actor)

    @precondition(lambda self: self.host.to_supervisor)
    @rule()
    def supervise(self) -> None:
        self.host.supervise()

    @precondition(lambda self: self.host.to_controller)
    @rule()
    def grant(self) -> None:
        self.host.answer_grant()

    @rule(seconds=st.sampled_from((0.05, 1.0, 20.0)))
    def wait(self, seconds: float) -> None:
        self.host.elapse(seconds)

    @rule()
    def the_node_restarts(self) -> None:
        # What nobody runs now, its successor hears of only when it is wanted again.
        self.host.to_controller.clear()
        self.host.to_supervisor.clear()
        self.host.boot()
        self.host.connect()
        self.wanted &= self.host.processes.keys()

    @invariant()
    def incarnations_are_never_used_twice(self) -> None:
        used = [one.incarnation for one in self.host.forked]
        assert len(used) == len(set(used))

    def teardown(self) -> None:
        for actor in self.wanted:
            want(self.host, actor.partition("/")[2])
        for _ in range(12):
            self.host.settle()
            for actor in list(self.host.processes):
                self.host.greet(actor)
                self.host.run(actor)
            self.host.elapse(31)
        self.host.settle()
        assert self.host.processes.keys() >= {INDEX, *self.wanted}
        epoch = self.host.processes[f"partition/{OFFSETS_TOPIC}-0"].epoch
        assert {one.epoch for one in self.host.processes.values()} == {epoch}


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_group_lies_where_kafka_puts_it() -> None:
    # By Java: Math.abs("…".hashCode()) % 50
    assert [partition_of(group, 50) for group in ("", "g", "group", "polygenelubricants")] == [0, 3, 47, 0]
    assert partition_of("anything", 1) == 0
    assert len(coordinator_socket("x" * 30_000)) < 60
