"""AlterPartition: what is checked, in Kafka's order, and that asking twice does no harm."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from logeion.actors import messages as m
from tests.actors.controller_world import World, refused


@pytest.fixture
def world() -> World:
    world = World(4)
    world.topic("t", [1, 2, 3])
    # Epochs that can be lower and higher.
    world.propose([1, 2])
    grant = m.GrantRequest(topic_id=world.state().topic_id, partition=0, seen_epoch=0)
    world.ask(m.GrantEpochs(node=1, broker_epoch=world.epochs[1], partitions=[grant]))
    assert (world.state().leader_epoch, world.state().partition_epoch) == (1, 2)
    return world


def test_the_isr_shrinks_and_expands_in_the_order_of_the_assignment(world: World) -> None:
    reply = world.propose([3, 1])
    assert reply == m.PartitionAltered(leader=1, leader_epoch=1, partition_epoch=3, isr=[1, 3])
    assert world.propose([3, 2, 1]).isr == [1, 2, 3]
    assert world.state().leader_epoch == 1, "the leader is the same (KAFKA-15021)"


def test_an_answer_tells_by_which_minimum_it_was_decided(world: World) -> None:
    raised = m.ConfigChange(key="min.insync.replicas", operation="set", value="2")
    world.ask(m.AlterConfigs(resource="topic", name="t", changes=[raised]))
    assert world.propose([1]).min_insync == 2
    assert world.shown() == (1, [1], [2])


# Each fault in the order in which it is found.
FAULTS: list[tuple[int, dict[str, object]]] = [
    (77, {"broker_epoch": 0}),
    (100, {"topic_id": "e" * 32}),
    (3, {"partition": 7}),
    (41, {"leader_epoch": 9}),
    (74, {"leader_epoch": 0}),
    (42, {"node": 2}),
    (95, {"partition_epoch": 1}),
    (42, {"isr": [1, 4], "isr_epochs": [-1, -1]}),
]


@pytest.mark.parametrize("at", range(len(FAULTS)))
def test_the_first_fault_decides(world: World, at: int) -> None:
    """A proposal with this fault and all later ones, as far as they can be had together."""
    code, fault = FAULTS[at]
    fields: dict[str, object] = {}
    for _, later in reversed(FAULTS[at + 1 :]):
        fields |= later
    fields |= fault
    if "node" in fields and at > 0:
        fields["broker_epoch"] = world.epochs[2]
    if at != 2:
        fields.pop("partition", None)
    before = len(world.log)
    assert refused(world.ask(msgspec.structs.replace(world.proposal([1, 2]), **fields))) == code
    assert len(world.log) == before


def test_a_higher_partition_epoch_is_of_another_controller(world: World) -> None:
    assert refused(world.ask(world.proposal([1], partition_epoch=9))) == 41
    assert refused(world.ask(world.proposal([1], partition_epoch=9, leader_epoch=0))) == 41


@pytest.mark.parametrize(
    ("isr", "epochs"),
    [([], []), ([2], [-1]), ([1, 1], [-1, -1]), ([1, 4], [-1, -1]), ([1, 99], [-1, -1]), ([1, 2], [-1]), ([1], [])],
)
def test_an_isr_that_cannot_be_is_refused(world: World, isr: list[int], epochs: list[int]) -> None:
    assert refused(world.ask(world.proposal(isr, isr_epochs=epochs))) == 42


def fence(world: World) -> None:
    world.kill(3)


def stop(world: World) -> None:
    world.beat(3, stopping=True)


def restart(world: World) -> None:
    world.register(3)


@pytest.mark.parametrize("happening", [fence, stop, restart])
def test_who_is_not_there_for_good_does_not_join(world: World, happening: Callable[[World], None]) -> None:
    """KAFKA-13916, KIP-841."""
    happening(world)
    assert refused(world.ask(world.proposal([1, 2, 3]))) == 107
    assert refused(world.ask(world.proposal([1, 2, 3], isr_epochs=[-1, -1, -1]))) == 107


def test_who_fetched_in_an_earlier_life_does_not_join(world: World) -> None:
    """KAFKA-14139: it came back with an empty disk, and the proposal was under way."""
    proposal = world.proposal([1, 2, 3])
    world.elapse(1.0, beating=[1, 2, 4])
    world.register(3, directory="new")
    world.beat(3)
    assert refused(world.ask(proposal)) == 107
    assert world.propose([1, 2, 3]).isr == [1, 2, 3]


def test_a_restart_of_a_member_makes_the_proposal_old(world: World) -> None:
    world.propose([1, 2, 3])
    proposal = world.proposal([1, 2, 3])
    world.up(3)
    assert refused(world.ask(proposal)) == 95


def test_a_proposal_equal_to_what_is_succeeds_without_a_record(world: World) -> None:
    before = len(world.log)
    reply = world.propose([2, 1])
    assert (reply.isr, reply.partition_epoch, len(world.log)) == ([1, 2], 2, before)


def test_a_proposal_sent_twice_is_applied_once(world: World) -> None:
    """KAFKA-14144: the answer got lost; the leader learns from the metadata log what became of it."""
    proposal = world.proposal([1])
    assert isinstance(world.ask(proposal), m.PartitionAltered)
    before = len(world.log)
    assert refused(world.ask(proposal)) == 95
    assert len(world.log) == before and world.state().isr == [1]


@pytest.fixture
def recovering() -> World:
    world = World()
    world.topic("t", [1, 2, 3], unclean_leader_election_enable=True)
    world.propose([1])
    world.kill(1)
    assert world.state().recovering and world.shown() == (2, [2], [])
    return world


@pytest.mark.parametrize("isr", [[2], [2, 3]])
def test_a_proposal_says_that_its_leader_has_recovered(recovering: World, isr: list[int]) -> None:
    recovering.propose(isr)
    assert recovering.state().isr == isr and not recovering.state().recovering
