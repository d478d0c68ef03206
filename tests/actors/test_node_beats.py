"""A node's heartbeats, the way they take, controlled shutdown, and the pings that tell a hung actor from a busy one."""

from __future__ import annotations

import pytest

from logeion.actors import messages as m
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.node.beats import AGAIN_S, DETOUR_S, PATIENCE_S, Beats
from logeion.actors.node.events import AnyEffect, Beat, DrainAsked, Drained, Elapsed, SendPing, Stop, Suspected
from logeion.actors.node.pings import LATE_S, ROUTINE_S, SUSPECT_S

from .host_world import GATEWAY, Host

LEADER = "partition/orders-0"


class Sender:
    """Heartbeats alone, and the effects that they have had."""

    def __init__(self, *voters: int) -> None:
        self.effects: list[AnyEffect] = []
        self.beats = Beats(1, 0.1, voters, self.effects.append)
        self.now = 0.0
        self.beats.start(self.now)

    def elapse(self, seconds: float) -> list[Beat]:
        """What is sent until then."""
        before = len(self.effects)
        end = self.now + seconds
        while (due := min(self.beats.deadlines)) <= end:
            self.now = max(self.now, due)
            self.beats.elapsed(self.now, 7, 100)
        self.now = end
        return [effect for effect in self.effects[before:] if isinstance(effect, Beat)]

    def answer(self, *, may_stop: bool = False) -> None:
        last = next(one for one in reversed(self.effects) if isinstance(one, Beat))
        self.beats.answered(last.attempt, may_stop, self.now)


def test_one_is_sent_an_interval_and_one_is_outstanding() -> None:
    sender = Sender()
    [first] = sender.elapse(PATIENCE_S / 2)
    assert first.message == m.Heartbeat(node=1, broker_epoch=7, applied=100)
    sender.answer()
    [second] = sender.elapse(0)
    assert second.attempt > first.attempt
    sender.answer()
    assert not sender.elapse(0.09)
    assert len(sender.elapse(0.01)) == 1


def test_who_votes_by_now_is_asked_before_those_of_the_configuration() -> None:
    sender = Sender(2, 3)
    sender.beats.know({5: ("host5", 9645), 1: ("host1", 9645), 2: ("host2", 9645)})
    assert [beat.voter for beat in sender.elapse(4 * PATIENCE_S)] == [None, 2, 5, 3, None]
    sender.beats.know({7: ("host7", 9645)})
    assert [beat.voter for beat in sender.elapse(2.5 * PATIENCE_S)] == [7, 2]


def test_unanswered_they_go_by_another_voter_and_come_home_later() -> None:
    sender = Sender(1, 2, 3)
    ways = [beat.voter for beat in sender.elapse(3 * PATIENCE_S)]
    assert ways == [None, 2, 3, None]
    sender.elapse(PATIENCE_S)
    sender.answer()
    ways = []
    for _ in range(int(DETOUR_S / 0.1) + 2):
        ways += [beat.voter for beat in sender.elapse(0.1)]
        sender.answer()
    assert ways[:40] == [2] * 40 and ways[-1] is None, "a way that works is kept for a while"


def test_a_refusal_is_answered_by_another_way_at_once() -> None:
    sender = Sender(1, 2)
    [first] = sender.elapse(0)
    sender.beats.failed(first.attempt, sender.now)
    [second] = sender.elapse(AGAIN_S)
    assert (first.voter, second.voter) == (None, 2)
    sender.beats.failed(first.attempt, sender.now)
    assert not sender.elapse(AGAIN_S), "what an older one met is no news"


def test_an_answer_to_an_older_attempt_counts_but_not_one_to_the_last_round() -> None:
    sender = Sender(1, 2)
    [first] = sender.elapse(0)
    [second] = sender.elapse(PATIENCE_S)
    sender.beats.answered(first.attempt, False, sender.now)
    [third] = sender.elapse(0)
    sender.beats.answered(second.attempt, False, sender.now)
    [fourth] = sender.elapse(PATIENCE_S)
    assert fourth.attempt == third.attempt + 1, "it is still unanswered"


@pytest.fixture
def host() -> Host:
    host = Host()
    host.connect()
    host.settle()
    host.create("orders")
    host.settle()
    return host


def test_a_node_is_let_in_once_clients_can_reach_it_and_it_has_read_its_registration() -> None:
    host = Host()
    host.catch_up()
    host.register()
    host.list_actors()
    host.elapse(1)
    assert not host.beats and "no gateway listens" in host.node.unready()
    host.connect()
    assert host.node.unready() == ["the controller has not let this node in yet"]
    host.settle()
    assert host.node.ready


def test_a_node_that_was_cut_off_is_fenced_and_let_in_again(host: Host) -> None:
    host.cut = True
    host.elapse(2)
    host.settle()
    assert host.node.unready() == ["the controller has not let this node in yet"]
    host.cut = False
    host.elapse(1)
    host.settle()
    assert host.node.ready and LEADER in host.processes


def test_a_node_whose_registration_is_replaced_registers_again(host: Host) -> None:
    epoch = host.node.broker_epoch
    other = m.RegisterNode(node=1, incarnation="other", directory_id="d", host="h", port=1, features=SUPPORTED)
    host.ask(other)
    host.elapse(0.2)
    assert host.registering
    host.settle()
    assert host.node.broker_epoch is not None and epoch is not None and host.node.broker_epoch > epoch
    assert host.node.ready


def test_a_single_node_is_drained_at_once(host: Host) -> None:
    host.step(DrainAsked(request=5, timeout_s=10))
    assert host.drained == [5]


def test_a_draining_node_goes_when_it_leads_nothing_any_more(host: Host) -> None:
    host.join(2)
    host.create("pair", 2, [1, 2])
    host.settle()
    host.step(DrainAsked(request=5, timeout_s=10))
    assert not host.drained
    host.elapse(0.3)
    host.settle()
    assert host.controller.image.shutting_down == {1}
    host.elapse(0.3)
    host.settle()
    assert host.drained == [5]
    pair = host.controller.image.topic("pair")
    assert pair is not None and {one.leader for one in pair.partitions.values()} == {2}
    assert not any(actor.startswith("replica/") for actor in host.processes), "nobody counts on them any more"


def test_a_drain_ends_in_time_though_no_controller_answers(host: Host) -> None:
    host.join(2)
    host.settle()
    host.cut = True
    host.step(DrainAsked(request=5, timeout_s=3))
    host.elapse(2.9)
    assert not host.drained
    host.elapse(0.2)
    assert host.drained == [5]


# Pings


def suspect(host: Host, actor: str) -> int:
    incarnation = host.processes[actor].incarnation
    host.step(Suspected(actor=actor, incarnation=incarnation))
    return incarnation


def kills(host: Host) -> list[str]:
    return [one.actor for one in host.to_supervisor if isinstance(one, Stop) and one.force]


def test_a_suspect_that_answers_lives(host: Host) -> None:
    suspect(host, LEADER)
    assert [ping.actor for ping in host.pings] == [LEADER]
    host.elapse(2)
    assert not kills(host)


def test_a_suspect_that_does_not_answer_is_killed_and_started_again(host: Host) -> None:
    host.hung.add(LEADER)
    suspect(host, LEADER)
    host.elapse(SUSPECT_S - 0.01)
    assert not kills(host)
    host.elapse(0.02)
    assert kills(host) == [LEADER]
    host.hung.clear()
    host.settle()
    assert host.processes[LEADER].epoch == 1 and host.node.ready


def test_everybody_is_pinged_now_and_then(host: Host) -> None:
    host.create("many", 300)
    host.settle()
    host.elapse(10)
    host.pings.clear()
    began = host.now
    for _ in range(200):
        host.elapse(0.1)
        assert len(host.pings) <= (host.now - began) * 40 + 10, "spread evenly"
    pinged = {ping.actor for ping in host.pings}
    assert pinged == {*host.processes}


def test_one_that_hangs_unsuspected_is_found(host: Host) -> None:
    host.hung.add(LEADER)
    host.elapse(25)
    assert LEADER in kills(host)


def test_gateways_and_the_controller_are_pinged_too(host: Host) -> None:
    host.run_fixed("gateway/1", 9)
    host.hung.add("gateway/1")
    host.step(Suspected(actor="gateway/1", incarnation=9))
    host.elapse(SUSPECT_S + 0.01)
    assert kills(host) == ["gateway/1"]
    host.step(m.ActorExited(actor="gateway/1", incarnation=9))
    host.elapse(30)
    assert kills(host) == ["gateway/1"], "its successor is the Supervisor's business"


def test_who_does_not_run_yet_is_not_pinged(host: Host) -> None:
    host.create("slow")
    host.catch_up()
    host.supervise()
    host.greet("partition/slow-0")
    host.hung.add("partition/slow-0")
    suspect(host, "partition/slow-0")
    host.elapse(60)
    assert "partition/slow-0" not in {ping.actor for ping in host.pings} and not kills(host)


def test_a_node_that_was_late_itself_gives_everybody_more_time(host: Host) -> None:
    host.hung.add(LEADER)
    incarnation = suspect(host, LEADER)
    host.now += SUSPECT_S + LATE_S + 5
    host.step(Elapsed())
    assert LEADER not in kills(host)
    host.hung.clear()
    host.answer(SendPing(actor=LEADER, incarnation=incarnation))
    host.elapse(ROUTINE_S)
    assert not kills(host)


def test_one_that_will_not_die_is_reported(host: Host) -> None:
    host.join(2)
    topic_id = host.create("pair", 1, [1, 2])
    host.settle()
    host.hung.add("partition/pair-0")
    suspect(host, "partition/pair-0")
    host.elapse(2 * SUSPECT_S + 0.1)
    assert kills(host) == ["partition/pair-0"] * 2
    [asked] = host.to_controller
    assert isinstance(asked, m.ReplicasDown) and asked.replicas[0].topic_id == topic_id
    host.answer_grant()
    state = host.controller.image.partition(topic_id, 0)
    assert state is not None and state.leader == 2


def test_a_drained_request_is_answered_once() -> None:
    sender = Sender()
    sender.beats.drain(3, 1.0, sender.now)
    [beat] = sender.elapse(0)
    assert beat.message.stopping
    sender.answer(may_stop=True)
    sender.elapse(2)
    assert [one.request for one in sender.effects if isinstance(one, Drained)] == [3]


def test_the_gateway_of_this_world_is_no_actor_that_runs(host: Host) -> None:
    host.step(Suspected(actor=GATEWAY.actor, incarnation=GATEWAY.incarnation))
    assert not host.pings
