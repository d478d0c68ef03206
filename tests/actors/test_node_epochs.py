"""Whatever crashes and in whatever order things arrive: no leader epoch is ever used by two starts, no process started
where another is, and once the storm is over everything runs. Hypothesis looks for the counter-example."""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logeion.actors import messages as m
from logeion.actors.node.events import AnyEffect, Start

from .host_world import Host

NAMES = ("a", "b")
REPLICAS = ([1], [1, 2], [2, 1], [2])


class Storm(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.host = Host(starts_max=2, heartbeat_s=1.5)
        self.host.connect()
        self.host.join(2)
        # What dead Nodes had asked for and has not arrived yet.
        self.late_grants: deque[m.GrantEpochs | m.ReplicasDown] = deque()
        self.late_orders: deque[AnyEffect] = deque()

    @rule(name=st.sampled_from(NAMES), partitions=st.integers(1, 3), replicas=st.sampled_from(REPLICAS))
    def create(self, name: str, partitions: int, replicas: list[int]) -> None:
        if self.host.controller.image.topic(name) is None:
            reply = self.host.ask(
                m.CreateTopics(
                    topics=[m.TopicToCreate(name=name, assignments=dict.fromkeys(range(partitions), replicas))]
                )
            )
            assert isinstance(reply, m.TopicsChanged)

    @rule(name=st.sampled_from(NAMES), leader=st.sampled_from((1, 2)))
    def elect(self, name: str, leader: int) -> None:
        topic = self.host.controller.image.topic(name)
        if topic is not None and leader in topic.partitions[0].isr:
            self.host.elect(name, leader)

    @rule(name=st.sampled_from(NAMES), replicas=st.sampled_from(REPLICAS))
    def reassign(self, name: str, replicas: list[int]) -> None:
        """Node 2 is always fast enough; what node 1 has it keeps only while it is assigned."""
        topic = self.host.controller.image.topic(name)
        if topic is not None:
            state = topic.partitions[0]
            leader = state.leader if state.leader in replicas else 2 if 2 in replicas else -1
            epoch = state.leader_epoch + (leader != state.leader)
            isr = [node for node in state.isr if node in replicas] or [node for node in (2,) if node in replicas]
            self.host.change(name, replicas=replicas, isr=isr, elr=[], leader=leader, leader_epoch=epoch)

    @rule(name=st.sampled_from(NAMES))
    def join_the_isr(self, name: str) -> None:
        topic = self.host.controller.image.topic(name)
        if topic is not None:
            state = topic.partitions[0]
            self.host.change(name, isr=state.replicas, elr=[])

    @rule(cut=st.booleans())
    def cut_heartbeats(self, cut: bool) -> None:
        self.host.cut = cut

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        if self.host.controller.image.topic(name) is not None:
            self.host.delete(name)

    @rule(records=st.integers(1, 4))
    def hear_of_what_is_committed(self, records: int) -> None:
        self.host.catch_up(records)

    @precondition(lambda self: self.host.to_controller)
    @rule(first_the_log=st.booleans())
    def grant(self, first_the_log: bool) -> None:
        self.host.answer_grant(first_the_log=first_the_log)

    @precondition(lambda self: self.host.to_controller)
    @rule(committed=st.booleans())
    def lose_the_grant(self, committed: bool) -> None:
        self.host.lose_grant(committed=committed)

    @precondition(lambda self: self.host.to_supervisor)
    @rule()
    def supervise(self) -> None:
        self.host.supervise()

    @precondition(lambda self: self.host.to_supervisor)
    @rule()
    def lose_an_order(self) -> None:
        self.host.to_supervisor.popleft()

    @precondition(lambda self: self.host.removing)
    @rule()
    def remove(self) -> None:
        self.host.remove()

    @precondition(lambda self: self.host.processes)
    @rule(data=st.data(), status=st.sampled_from((-9, 70, 74)))
    def kill(self, data: st.DataObject, status: int) -> None:
        self.host.kill(data.draw(st.sampled_from(sorted(self.host.processes))), status)

    @precondition(lambda self: self.host.processes)
    @rule(data=st.data(), state=st.sampled_from(("running", "failed")))
    def report(self, data: st.DataObject, state: str) -> None:
        actor = data.draw(st.sampled_from(sorted(self.host.processes)))
        self.host.greet(actor)
        self.host.run(actor, state)

    @rule()
    def the_node_dies(self) -> None:
        self.late_grants.extend(self.host.to_controller)
        self.late_orders.extend(self.host.to_supervisor)
        self.host.to_controller.clear()
        self.host.to_supervisor.clear()
        self.host.removing.clear()
        self.host.boot()

    @rule(snapshot=st.booleans())
    def the_node_connects(self, snapshot: bool) -> None:
        self.host.connect(snapshot=snapshot and self.host.node.applied == 0)

    @precondition(lambda self: self.late_grants)
    @rule()
    def a_dead_node_is_granted_epochs(self) -> None:
        self.host.ask(self.late_grants.popleft())

    @precondition(lambda self: self.late_orders)
    @rule()
    def a_dead_node_s_order_is_carried_out(self) -> None:
        self.host.to_supervisor.appendleft(self.late_orders.popleft())
        self.host.supervise()

    @rule(seconds=st.sampled_from((0.05, 0.3, 3.0, 20.0)))
    def wait(self, seconds: float) -> None:
        self.host.elapse(seconds)

    @invariant()
    def no_epoch_is_used_by_two_starts(self) -> None:
        used = [(one.topic_id, one.partition, one.epoch) for one in self.host.forked if one.epoch is not None]
        assert len(used) == len(set(used))

    @invariant()
    def no_process_is_started_where_another_is(self) -> None:
        """As far as a Node can know; a dead one's late order may collide, and the directory's lock decides."""
        assert not self.host.collisions

    @invariant()
    def no_start_overtakes_the_removal_of_its_predecessor_s_directory(self) -> None:
        # Ids grow in this world. An order that a stuck Supervisor still holds for an older topic is no successor: the
        # process that comes of it is a stranger, and cleared away.
        going = {(one.topic, one.partition): one.topic_id for one in self.host.removing}
        for order in self.host.to_supervisor:
            if isinstance(order, Start):
                assert going.get((order.topic, order.partition), order.topic_id) >= order.topic_id

    def teardown(self) -> None:
        """The storm is over: everything that should run comes to run."""
        self.host.cut = False
        self.host.connect()
        for _ in range(20):
            self.host.settle()
            for actor in list(self.host.processes):
                self.host.greet(actor)
                self.host.run(actor)
            self.host.elapse(31)
        self.host.settle()
        image = self.host.controller.image
        wanted = {
            (topic_id, partition, state.leader_epoch if state.leader == 1 else None)
            for topic_id, topic in image.topics.items()
            for partition, state in topic.partitions.items()
            if state.leader == 1 or (1 in state.replicas and state.leader >= 0)
        }
        # A Replica that ran when its leader went stays.
        idle = {
            (topic_id, partition, None)
            for topic_id, topic in image.topics.items()
            for partition, state in topic.partitions.items()
            if 1 in state.replicas and state.leader < 0
        }
        found = {(one.topic_id, one.partition, one.epoch) for one in self.host.processes.values()}
        assert found - idle == wanted
        assert self.host.node.ready, self.host.node.unready()
        self.no_epoch_is_used_by_two_starts()


TestStorm = Storm.TestCase
TestStorm.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
)
