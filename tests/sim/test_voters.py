"""Quorums whose voters come and go, in the whole cluster's simulator."""

from __future__ import annotations

from tests.sim.cluster_world import MOVING, ClusterWorld, drawn, run_seed
from tests.sim.quorum_judge import newest_set

SEEDS = range(3, 3 + 16 * MOVING, MOVING)


def test_a_seed_of_the_class_moves_voters_and_no_other_does() -> None:
    assert [seed for seed in range(100) if drawn(seed).moves_voters] == [seed for seed in range(100) if seed % 16 == 3]


def test_the_quorum_moves_and_ends_whole() -> None:
    worlds: list[ClusterWorld] = [run_seed(seed) for seed in SEEDS]
    words = "\n".join("\n".join(world.engine.trace) for world in worlds)
    for what in (
        "becomes a voter",
        "is to be removed: done at",
        "is to be added: done at",
        "another change of the metadata quorum is under way",
        "its directory is lost, and its voter's",
        "each sync of its voter fails",
        "who leads the quorum, is cut off",
    ):
        assert what in words, what
    ends = [world.quorum.voters for world in worlds]
    assert sum(len(world.quorum.sets) > 1 for world in worlds) > len(worlds) // 2
    assert any(set(end).isdisjoint(world.voters) for world, end in zip(worlds, ends, strict=True)) or len(set(ends)) > 3
    for world in worlds:
        assert world.quorum.is_whole()
        for process in world.controllers():
            raft = process.member.raft
            if raft is not None and process.host in world.quorum.voters:
                assert set(newest_set(raft.log, raft.log.end)[1]) == set(world.quorum.voters)


def test_one_seed_is_one_history() -> None:
    first, second = run_seed(SEEDS[1]), run_seed(SEEDS[1])
    assert first.engine.trace == second.engine.trace
    assert first.digest() == second.digest()
