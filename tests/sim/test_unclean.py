"""Unclean elections in the simulator: what they may lose, and who has to decide."""

from __future__ import annotations

import pytest

from logeion.actors import messages as m
from logeion.actors.controller import brokers
from tests.sim.engine import Stuck
from tests.sim.permitted_loss import UncleanJudge
from tests.sim.stage import Stage
from tests.sim.unclean import run_some

ELECTED_S = 5.0


def test_seeds_of_this_class_lose_what_they_may_and_nothing_else() -> None:
    tally = run_some((0, 12))
    assert tally.failed == []
    assert {f"mode {mode}" for mode in ("on", "switched", "asked")} <= tally.counts.keys()
    for what in ("unclean", "lost_acks", "resets", "acks", "fault leave_behind", "fault strike"):
        assert tally.counts[what] > 2, what


def alone(unclean: str) -> Stage:
    """Node 2 leads and is alone in the ISR, with five batches that nobody else has."""
    stage = Stage(nodes=4, voters=1, assigned=[2, 3, 4], min_isr=1, lag_time_max_s=0.5, session_s=0.6, unclean=unclean)
    producer = stage.producer()
    stage.send(producer, 5)
    for node in (3, 4):
        stage.down(node)
    stage.wait(lambda: stage.isr == [2] and not stage.truth.newest.elr, "the others are still waited for")
    stage.send(producer, 5)
    assert stage.truth.end == 10
    return stage


def lose(stage: Stage, node: int) -> None:
    """All that this host holds, and for good: it does not come back by itself."""
    stage.down(node).lose_directory()
    stage.directory_lost(stage.hosts[node])


def test_nobody_leads_until_an_admin_decides() -> None:
    """The only one left in the ISR has lost its storage, and nothing says that others may lead."""
    stage = alone("asked")
    lose(stage, 2)
    for node in (2, 3, 4):
        stage.hosts[node].start()
    stage.run(stage.engine.time + ELECTED_S)
    newest, judge = stage.truth.newest, stage.judge
    assert newest is not None and (newest.leader, newest.isr, newest.elr) == (-1, [], [])
    assert isinstance(judge, UncleanJudge) and not judge.unclean
    controller = stage.hosts[1].processes["controller"]
    wish = m.PartitionToElect(topic="t", partition=0)
    answer = stage.ask(controller, m.ElectLeaders(partitions=[wish], unclean=True))
    assert isinstance(answer, m.PartitionsDecided) and [one.code for one in answer.results] == [0]
    leader = stage.leader()
    assert (judge.unclean, judge.wishes_granted) == (1, 1)
    stage.append(leader)
    stage.calm()
    # In the order of the assignment, as in Kafka: nothing says that the first of them has come back empty.
    assert (leader.host, judge.lost_batches, judge.lost_acks) == (2, 10, 10)


def test_where_it_is_allowed_whoever_lives_leads_at_once_and_the_old_leader_cuts_its_log() -> None:
    stage = alone("on")
    stage.hosts[3].start()
    stage.wait(lambda: stage.judge.image.eligible(3), "node 3 is not back")
    # It may have fetched what it missed: node 2 goes before.
    stage.isolate(2)
    stage.wait(lambda: stage.leads(3), "node 3 does not lead", ELECTED_S)
    judge = stage.judge
    assert isinstance(judge, UncleanJudge) and judge.unclean == 1 and not judge.wishes_granted
    stage.append(stage.leader())
    stage.calm()
    assert stage.isr == [2, 3, 4]


def test_an_election_that_is_allowed_and_does_not_come_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = alone("on")
    stage.down(2)
    stage.wait(lambda: stage.truth.newest is not None and stage.truth.newest.leader == -1, "node 2 still leads")
    monkeypatch.setattr(brokers, "returned", lambda image, node: [])
    stage.hosts[3].start()
    with pytest.raises(Stuck, match=r"although \[3\] could"):
        stage.run(stage.engine.time + ELECTED_S)
