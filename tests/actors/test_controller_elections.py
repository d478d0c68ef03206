"""Elections: from the ISR, from the ELR, of the last known leader, unclean; and what they leave behind (KIP-966)."""

from __future__ import annotations

import pytest

from logeion.actors import messages as m
from tests.actors.controller_world import World, refused

# Who is elected


def test_the_first_of_the_assignment_that_lives_and_is_in_sync_leads() -> None:
    world = World()
    world.topic("t", [2, 3, 1])
    world.kill(2)
    assert world.shown() == (3, [3, 1], [])


def test_a_leader_that_may_lead_is_kept_though_another_comes_first() -> None:
    world = World()
    world.topic("t", [1, 2, 3])
    world.kill(1)
    epoch = world.state().leader_epoch
    world.up(1)
    world.propose([1, 2, 3])
    assert (world.state().leader, world.state().leader_epoch) == (2, epoch)


def test_who_left_the_isr_while_it_was_large_enough_does_not_lead() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2)
    world.kill(3)
    assert world.shown() == (1, [1, 2], [])
    world.kill(1)
    assert world.shown() == (2, [2], [1])
    world.kill(2)
    assert world.shown() == (-1, [], [1, 2])
    world.up(3)
    assert world.state().leader == -1
    world.up(1)
    assert world.shown() == (1, [1], [2])


def test_an_election_from_the_elr_empties_it_if_one_is_enough() -> None:
    world = World()
    world.topic("t", [1, 2], min_insync_replicas=1)
    world.propose([1])
    world.kill(1)
    assert world.shown() == (-1, [], [1])
    world.up(1)
    assert world.shown() == (1, [1], [])
    assert world.state().last_known == [] and not world.state().recovering


def test_a_single_replica_comes_back_by_itself() -> None:
    world = World(1)
    world.topic("t", [1])
    epoch = world.state().leader_epoch
    world.kill(1)
    assert world.shown() == (-1, [], [1])
    world.beat(1)
    assert world.shown() == (1, [1], []) and world.state().leader_epoch == epoch + 2


def test_an_isr_that_is_large_enough_again_ends_the_elr() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2)
    world.propose([1, 2])
    world.propose([1])
    assert world.shown() == (1, [1], [2])
    world.propose([1, 3])
    assert world.shown() == (1, [1, 3], [])


def test_whoever_may_serve_the_elr_is_no_larger_than_the_replicas() -> None:
    """min.insync.replicas above the replication factor counts as the factor."""
    world = World(2)
    world.topic("t", [1, 2], min_insync_replicas=5)
    world.propose([1])
    assert world.shown() == (1, [1], [2])
    world.propose([1, 2])
    assert world.shown() == (1, [1, 2], [])


# The last known leader


def powerless(world: World) -> None:
    """Node 1 was the last in sync, and its host went down without its last writes."""
    world.topic("t", [1, 2, 3], min_insync_replicas=1, logeion_flush="os")
    world.propose([1])
    world.kill(1)
    assert world.shown() == (-1, [], [1]) and world.state().last_known == [1]
    world.register(1, boot="another")
    assert world.shown() == (-1, [], []) and world.state().last_known == [1]


def test_the_last_known_leader_is_elected_once_it_lives_and_recovers() -> None:
    world = World()
    powerless(world)
    world.beat(2)
    assert world.state().leader == -1
    world.beat(1)
    assert world.shown() == (1, [1], [])
    assert world.state().recovering and world.state().last_known == []
    world.propose([1, 2])
    assert not world.state().recovering


def test_the_last_known_leader_is_not_elected_dead() -> None:
    """Kafka's source of 2024-10 says that it is not alive, and elects it all the same."""
    world = World()
    powerless(world)
    world.kill(2)
    world.up(2)
    assert world.state().leader == -1


def test_another_directory_makes_no_last_known_leader() -> None:
    world = World()
    world.topic("t", [1, 2, 3])
    world.propose([1])
    world.kill(1)
    world.register(1, directory="new")
    world.beat(1)
    assert world.shown() == (-1, [], []) and world.state().last_known == []


# Unclean


def test_nobody_is_elected_uncleanly_unless_the_topic_says_so() -> None:
    world = World()
    world.topic("t", [1, 2, 3])
    world.propose([1])
    world.kill(1)
    assert world.state().leader == -1
    world.configure("t", "unclean.leader.election.enable", "true")
    assert world.shown() == (2, [2], []) and world.state().recovering


def test_an_unclean_election_is_the_last_resort() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2, unclean_leader_election_enable=True)
    world.propose([1, 2])
    world.propose([1])
    world.kill(1)
    assert world.shown() == (2, [2], [1]) and not world.state().recovering
    world.kill(2)
    assert world.shown() == (3, [3], []) and world.state().recovering


def test_recovery_outlasts_a_restart_of_the_leader() -> None:
    world = World()
    world.topic("t", [1, 2], unclean_leader_election_enable=True)
    world.propose([1])
    world.kill(1)
    assert world.state().recovering
    world.register(2)
    world.beat(2)
    assert world.shown() == (2, [2], []) and world.state().recovering


# The configuration


@pytest.mark.parametrize("least", ["1", "3"])
def test_another_min_isr_ends_the_elr_where_somebody_leads(least: str) -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2)
    world.propose([1])
    assert world.state().elr == [2, 3]
    world.configure("t", "min.insync.replicas", least)
    assert world.shown() == (1, [1], [])


def test_another_min_isr_leaves_the_elr_to_those_that_wait_for_it() -> None:
    """Nobody leads, so nothing was acknowledged that they could miss."""
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2)
    world.propose([1])
    world.kill(1, 2, 3)
    world.configure("t", "min.insync.replicas", "1")
    assert world.state().elr == [1, 2, 3]
    world.up(3)
    assert world.shown() == (3, [3], [])


def test_another_key_leaves_the_elr_alone() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2)
    world.propose([1])
    world.configure("t", "retention.ms", "5")
    world.configure("t", "min.insync.replicas", "2")
    assert world.state().elr == [2, 3]


# On request


def elect(world: World, *partitions: tuple[str, int], unclean: bool = False, everything: bool = False) -> list[int]:
    wanted = [m.PartitionToElect(topic=topic, partition=number) for topic, number in partitions]
    reply = world.ask(m.ElectLeaders(partitions=None if everything else wanted, unclean=unclean))
    assert isinstance(reply, m.PartitionsDecided) and reply.committed == len(world.log)
    assert all(bool(one.reason) == bool(one.code) for one in reply.results)
    return [one.code for one in reply.results]


def moved_off() -> World:
    """Node 2 leads what node 1 should lead, and node 1 is in sync again."""
    world = World()
    world.topic("t", [1, 2, 3], [2, 3, 1])
    world.kill(1)
    world.up(1)
    return world


def test_the_preferred_leader_is_elected_on_request() -> None:
    world = moved_off()
    assert elect(world, ("t", 0)) == [80]
    world.propose([1, 2, 3])
    epoch = world.state().leader_epoch
    assert elect(world, ("t", 0), ("t", 0), ("t", 1), ("t", 9), ("no", 0)) == [0, 84, 84, 3, 3]
    assert (world.state().leader, world.state().leader_epoch) == (1, epoch + 1)


def test_asked_for_all_only_those_that_need_it_are_answered_for() -> None:
    world = moved_off()
    world.propose([1, 2, 3])
    assert elect(world, everything=True) == [0]
    assert elect(world, everything=True) == []
    assert elect(world, everything=True, unclean=True) == []


def test_an_unclean_election_on_request_needs_no_setting_but_a_partition_without_leader() -> None:
    world = World()
    world.topic("t", [1, 2, 3])
    world.propose([1])
    assert elect(world, ("t", 0), unclean=True) == [84]
    world.kill(1)
    assert elect(world, ("t", 0), unclean=True) == [0]
    assert world.shown() == (2, [2], []) and world.state().recovering
    world.kill(2, 3)
    assert elect(world, ("t", 0), unclean=True) == [83]


def test_an_unclean_election_passes_over_a_log_that_is_lost() -> None:
    world = World()
    world.topic("t", [1, 2, 3])
    world.propose([1])
    world.down(1, lost=True)
    assert world.shown() == (-1, [], []) and world.state().last_known == [1]
    assert elect(world, ("t", 0), unclean=True) == [0]
    assert world.shown() == (2, [2], [])


def test_an_unclean_election_takes_the_lost_log_if_it_is_the_only_one() -> None:
    world = World(1)
    world.topic("t", [1])
    world.down(1, lost=True)
    assert world.state().leader == -1
    assert elect(world, ("t", 0), unclean=True) == [0]
    assert world.state().leader == 1


# Leaders that start anew


def test_a_start_of_a_leader_gets_an_epoch_of_its_own_and_nothing_else_changes() -> None:
    world = World()
    topic_id = world.topic("t", [1, 2, 3], min_insync_replicas=3)
    world.propose([1, 2])
    before = world.state()
    asked = [m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=before.leader_epoch)] * 2
    reply = world.ask(m.GrantEpochs(node=1, broker_epoch=world.epochs[1], partitions=asked))
    assert isinstance(reply, m.EpochsGranted)
    after = world.state()
    assert (after.leader_epoch, after.elr, after.isr) == (before.leader_epoch + 1, [3], [1, 2])


def test_a_fenced_node_is_granted_nothing() -> None:
    world = World(1)
    topic_id = world.topic("t", [1])
    world.kill(1)
    asked = [m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=99)]
    before = len(world.log)
    assert isinstance(world.ask(m.GrantEpochs(node=1, broker_epoch=world.epochs[1], partitions=asked)), m.EpochsGranted)
    assert len(world.log) == before
    assert refused(world.ask(m.GrantEpochs(node=1, broker_epoch=0, partitions=asked))) == 77
