"""Anything may happen to a cluster in any order, and its controller never elects who misses an acknowledged record.

Beside the controller runs a model that knows nothing of ISR and ELR but who holds all records that were ever
acknowledged: as long as somebody leads and the ISR is large enough, that may be the ISR and nobody else.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from logeion.actors import messages as m
from logeion.actors.controller.machine import ControllerMachine, Settings
from logeion.actors.metadata import PartitionChanged
from tests.actors.controller_world import World, where

NODES = st.integers(1, 4)
SOME = st.lists(NODES, unique=True, min_size=1, max_size=4)
TOPICS = st.sampled_from(["synced", "cached", "loose"])
PARTITIONS = st.integers(0, 2)
LEASTS = st.sampled_from(["1", "2", "3"])


class Storm(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(4, settings=Settings(rebalance_s=3))
        self.holders: dict[tuple[str, int], set[int]] = {}
        self.world.watchers.append(self.watch)
        self.world.topic("synced", [1, 2, 3], [2, 3, 4], [4, 3, 1], min_insync_replicas=2)
        self.world.topic("cached", [1, 2], [4, 3], [2, 1], min_insync_replicas=2, logeion_flush="os")
        self.world.topic("loose", [3, 2, 1], [2, 4, 1], [1, 2, 4], logeion_flush="os")

    # The model

    def watch(self, before: PartitionChanged | None, after: PartitionChanged) -> None:
        if after.leader == -1:
            return
        if before is None or (after.recovering and after.leader != before.leader):
            allowed = before is None or before.last_known == [after.leader] or self.unclean
            assert allowed, (before, after)
            self.holders[where(after)] = set(after.isr)
            return
        assert after.leader in self.holders[where(after)], (before, after)
        self.acknowledged(after)

    def acknowledged(self, state: PartitionChanged) -> None:
        """Who joins has caught up; what is written now may be in the ISR alone."""
        holders = self.holders[where(state)]
        holders |= set(state.isr)
        least = self.world.image.min_isr(self.world.image.topics[state.topic_id].name)
        if state.leader != -1 and len(state.isr) >= min(least, len(state.replicas)):
            holders &= set(state.isr)

    def lose(self, node: int, *topics: str) -> None:
        """This node does not have all of these topics any more."""
        for key, holders in self.holders.items():
            if self.world.image.topics[key[0]].name in topics:
                holders.discard(node)

    unclean = False

    # What happens to nodes

    @rule(node=NODES)
    def start_anew(self, node: int) -> None:
        self.world.register(node)

    @rule(node=NODES)
    def restart_the_node_process(self, node: int) -> None:
        known = self.world.image.brokers[node]
        self.world.register(node, incarnation=known.incarnation, boot=known.boot_id)

    @rule(node=NODES, boot=st.sampled_from("abc"))
    def lose_power(self, node: int, boot: str) -> None:
        if self.world.image.brokers[node].boot_id != boot:
            self.lose(node, "cached", "loose")
        self.world.register(node, boot=boot)

    @rule(node=NODES)
    def lose_the_directory(self, node: int) -> None:
        if node in self.world.image.fenced:
            self.lose(node, "synced", "cached", "loose")
            self.world.register(node, directory=f"directory-{next(self.world.fresh)}")

    @rule(node=NODES)
    def beat(self, node: int) -> None:
        self.world.beat(node)

    @rule(node=NODES)
    def stop(self, node: int) -> None:
        self.world.beat(node, stopping=True)

    @rule(seconds=st.sampled_from([0.3, 1.1, 2.2, 4.0]), nodes=SOME)
    def wait(self, seconds: float, nodes: list[int]) -> None:
        self.world.elapse(seconds, beating=nodes)

    @rule(node=NODES, topic=TOPICS, number=PARTITIONS, lost=st.booleans())
    def replica_down(self, node: int, topic: str, number: int, lost: bool) -> None:
        state = self.world.state(number, topic)
        if lost:
            self.holders[where(state)].discard(node)
        one = m.DownReplica(topic_id=state.topic_id, partition=number, leader_epoch=state.leader_epoch, lost=lost)
        self.world.ask(m.ReplicasDown(node=node, broker_epoch=self.world.epochs[node], replicas=[one]))

    # What leaders and clients ask for

    @rule(topic=TOPICS, number=PARTITIONS, isr=SOME)
    def propose(self, topic: str, number: int, isr: list[int]) -> None:
        state = self.world.state(number, topic)
        members = [node for node in state.replicas if node in {*isr, state.leader}]
        # Only whoever has caught up is proposed.
        holders = self.holders[where(state)]
        before = set(holders)
        holders |= set(members)
        proposal = self.world.proposal(members, number, topic)
        if isinstance(self.world.ask(proposal), m.Refused):
            holders &= before

    @rule(topic=TOPICS, number=PARTITIONS)
    def catch_up(self, topic: str, number: int) -> None:
        state = self.world.state(number, topic)
        if state.leader != -1:
            members = [node for node in state.replicas if node == state.leader or self.world.image.eligible(node)]
            self.holders[where(state)] |= set(members)
            self.world.propose(members, number, topic)

    @rule(node=NODES, topic=TOPICS, number=PARTITIONS)
    def start_a_leader(self, node: int, topic: str, number: int) -> None:
        state = self.world.state(number, topic)
        asked = [m.GrantRequest(topic_id=state.topic_id, partition=number, seen_epoch=state.leader_epoch)]
        self.world.ask(m.GrantEpochs(node=node, broker_epoch=self.world.epochs[node], partitions=asked))

    @rule(topic=TOPICS, number=PARTITIONS, replicas=st.one_of(st.none(), SOME))
    def reassign(self, topic: str, number: int, replicas: list[int] | None) -> None:
        wanted = m.PartitionToReassign(topic=topic, partition=number, replicas=replicas)
        self.world.ask(m.ReassignPartitions(partitions=[wanted]))

    @rule(unclean=st.sampled_from([False, False, False, True]))
    def elect(self, unclean: bool) -> None:
        self.unclean = unclean
        self.world.ask(m.ElectLeaders(unclean=unclean))
        self.unclean = False

    @rule(topic=TOPICS, least=LEASTS)
    def change_min_isr(self, topic: str, least: str) -> None:
        self.world.configure(topic, "min.insync.replicas", least)
        known = self.world.image.topic(topic)
        assert known is not None
        for state in known.partitions.values():
            self.acknowledged(state)

    # What happens to the controller

    @rule()
    def another_controller_leads(self) -> None:
        world = self.world
        machine = ControllerMachine(
            world.machine.defaults, world.machine.new_id, world.image.restored(world.image.records()), Settings()
        )
        machine.next_offset = world.machine.next_offset
        machine.lead(world.now)
        world.machine = machine

    @precondition(lambda self: not self.world.image.fenced)
    @rule()
    def settle(self) -> None:
        """With all nodes there, all that have an heir are led, and everything can be in sync."""
        for node in self.world.image.brokers:
            self.world.beat(node)
        for state in list(self.world.image.partitions()):
            name = self.world.image.topics[state.topic_id].name
            if state.leader != -1:
                self.holders[where(state)] |= set(state.replicas)
                self.world.propose(state.replicas, state.partition, name)
            else:
                assert not state.elr, state
        assert all(state.leader == -1 or not state.adding for state in self.world.image.partitions())


TestStorm = Storm.TestCase
TestStorm.settings = settings(
    max_examples=50, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
