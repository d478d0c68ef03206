"""What one controller answers, and when: three members in one thread, with a network that the test stops and starts."""

from __future__ import annotations

from collections import deque

import msgspec
import pytest

from logeion.actors import messages as m
from logeion.actors.controller import member as module
from logeion.actors.controller import voters
from logeion.actors.controller.entries import pack_records, pack_snapshot
from logeion.actors.controller.events import Ask, Asks, Event, Learned, NotRelayed, Question, Relay, Relayed
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.controller.machine import ControllerMachine
from logeion.actors.controller.member import Member, Surroundings
from logeion.actors.controller.raft.effects import Send
from logeion.actors.controller.raft.messages import (
    AddVoter,
    AppendEntries,
    Elapsed,
    EntriesAppended,
    Entry,
    RemoveVoter,
    Snapshot,
)
from logeion.actors.controller.raft.state import Settings, Stored
from logeion.actors.controller.topics import Defaults
from logeion.actors.metadata import BrokerRegistered, MetadataImage, MetadataRecord, ProducerIdsReserved
from logeion.wire.errors import DuplicateVoterError, RequestTimedOutError, VoterNotFoundError

VOTERS = (1, 2, 3)


class Net:
    """Messages arrive in order and at once, unless their sender or receiver is cut off; writes always succeed."""

    def __init__(self, voters: tuple[int, ...] = VOTERS) -> None:
        self.now = 0.0
        self.cut: set[int] = set()
        self.lost: tuple[type[m.Message], ...] = ()
        self.answers: dict[int, m.Message] = {}
        self.relays: list[Relay] = []
        self.published: dict[int, list[MetadataRecord]] = {}
        self.queue: deque[tuple[int, Send]] = deque()
        self.ticket = 0
        self.ids = 0
        self.members = {voter: self.member(voter) for voter in voters}
        for voter, member in self.members.items():
            member.join(Stored(0, None, Snapshot(0, 0, voters)), Settings(), voter, self.now)

    def member(self, node: int) -> Member:
        self.published[node] = []
        around = Surroundings(
            machine=lambda image: ControllerMachine(Defaults(partitions=1, replication_factor=1), self.new_id, image),
            reachable=lambda voter: True,
            cluster_id=lambda: "c",
            pack=lambda records: pack_records(records, 0),
            pack_image=lambda records: pack_snapshot(records, 0),
            snapshot_bytes=1 << 30,
        )
        return Member(node, MetadataImage(), around)

    def new_id(self) -> str:
        self.ids += 1
        return f"{self.ids:032x}"

    def step(self, node: int, event: Event) -> None:
        member = self.members[node]
        acts = member.step(event, self.now)
        for answer in acts.answers:
            assert answer.ticket not in self.answers, "answered twice"
            self.answers[answer.ticket] = answer.message
        self.relays += acts.relays
        for commit in acts.publish:
            self.published[node] += commit.records
        self.queue += [(node, send) for send in (*acts.raft.before, *acts.raft.after)]

    def settle(self) -> None:
        """Until nobody has anything to say or to do at this time."""
        while True:
            for node, member in self.members.items():
                while member.deadline <= self.now:
                    self.step(node, Elapsed())
            if not self.queue:
                return
            sender, send = self.queue.popleft()
            if send.to in self.members and not {sender, send.to} & self.cut and not isinstance(send.message, self.lost):
                self.step(send.to, send.message)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            due = min((member.deadline for member in self.members.values()), default=until)
            self.now = min(max(due, self.now + 0.001), until)
            self.settle()

    def ask(self, node: int, *questions: Question, relayed: bool = False) -> list[int]:
        asks = []
        for question in questions:
            self.ticket += 1
            asks.append(Ask(self.ticket, question, relayed))
        self.step(node, Asks(asks))
        return [ask.ticket for ask in asks]

    def lead(self) -> int:
        self.pass_time(3.0)
        [leader] = [node for node, member in self.members.items() if member.decides]
        return leader


def ids(node: int = 1) -> m.AllocateProducerIds:
    return m.AllocateProducerIds(node=node)


def registration(node: int) -> m.RegisterNode:
    return m.RegisterNode(node=node, incarnation="i", directory_id=f"{node:032x}", host="h", port=1, features=SUPPORTED)


def registration_with_port(node: int) -> m.RegisterNode:
    return msgspec.structs.replace(registration(node), cluster_host=f"host-{node}", cluster_port=9645)


def registered(node: int, host: str) -> BrokerRegistered:
    return BrokerRegistered(
        node=node,
        broker_epoch=1,
        directory_id=f"{node:032x}",
        incarnation="i",
        host=host,
        port=1,
        cluster_host=host,
        cluster_port=9645,
    )


def record(at: int) -> MetadataRecord:
    return ProducerIdsReserved(next_id=at + 1)


def refused(message: m.Message) -> int:
    assert isinstance(message, m.Refused)
    return message.code


def test_an_answer_waits_for_a_majority() -> None:
    net = Net()
    leader = net.lead()
    others = [node for node in VOTERS if node != leader]
    net.cut = set(others)
    [ticket] = net.ask(leader, ids())
    net.settle()
    assert ticket not in net.answers
    before = net.members[leader].applied
    net.cut = {others[0]}
    net.pass_time(0.3)
    assert isinstance(net.answers[ticket], m.ProducerIdsAllocated)
    assert net.members[leader].applied == before + 1


def test_an_answer_without_records_waits_for_what_it_rests_on() -> None:
    net = Net()
    leader = net.lead()
    net.cut = {node for node in VOTERS if node != leader}
    register, again = net.ask(leader, registration(7), registration(7))
    net.settle()
    assert not {register, again} & net.answers.keys(), "the second one found a registration that is not committed"
    net.cut = set()
    net.pass_time(0.3)
    assert net.answers[register] == net.answers[again]


def test_nothing_is_decided_before_the_terms_first_entry_is_committed() -> None:
    net = Net()
    old = net.lead()
    net.cut = {old}
    net.lost = (EntriesAppended,)
    for _ in range(100):
        net.pass_time(0.02)
        elected = [node for node in VOTERS if node != old and net.members[node].leader == node]
        if elected:
            break
    [leader] = elected
    [ticket] = net.ask(leader, ids())
    net.pass_time(0.1)
    assert not net.members[leader].decides and ticket not in net.answers
    net.lost = ()
    net.pass_time(1.0)
    assert isinstance(net.answers[ticket], m.ProducerIdsAllocated)


def test_a_leader_that_is_replaced_says_that_it_does_not_know() -> None:
    net = Net()
    old = net.lead()
    net.cut = {old}
    [ticket] = net.ask(old, ids())
    net.pass_time(3.0)
    assert refused(net.answers[ticket]) == 7
    assert not net.members[old].decides
    net.cut = set()
    new = net.lead()
    [other] = net.ask(new, ids())
    net.settle()
    assert net.answers[other] == m.ProducerIdsAllocated(first=0, count=1000), "what the old one decided is gone"
    net.pass_time(0.3)
    assert net.published[old] == net.published[new]


def test_what_is_asked_without_a_leader_is_refused_in_time_and_surely_not_done() -> None:
    net = Net()
    leader = net.lead()
    net.cut = set(VOTERS)
    net.pass_time(2.0)
    other = next(node for node in VOTERS if node != leader)
    net.pass_time(2.0)
    [ticket] = net.ask(other, ids())
    net.pass_time(module.LEADERLESS_S - 0.5)
    assert ticket not in net.answers
    net.pass_time(1.0)
    assert refused(net.answers[ticket]) == 41


def test_a_follower_relays_once() -> None:
    net = Net()
    leader = net.lead()
    other, third = (node for node in VOTERS if node != leader)
    [ticket] = net.ask(other, ids())
    assert [(relay.to, relay.ticket) for relay in net.relays] == [(leader, ticket)]
    [hop] = net.ask(third, ids(), relayed=True)
    assert refused(net.answers[hop]) == 41, "it came from a voter that takes us for the leader"
    net.step(other, NotRelayed(ticket))
    assert ticket not in net.answers
    net.pass_time(0.1)
    assert [relay.ticket for relay in net.relays] == [ticket, ticket], "again, a little later"
    net.step(other, Relayed(ticket, m.Done()))
    assert net.answers[ticket] == m.Done()
    net.step(other, Relayed(ticket, m.Done()))


def test_a_relayed_question_is_given_up_when_another_one_leads() -> None:
    net = Net()
    old = net.lead()
    other = next(node for node in VOTERS if node != old)
    [ticket] = net.ask(other, ids())
    net.cut = {old}
    net.pass_time(3.0)
    assert refused(net.answers[ticket]) == 7


def test_what_is_too_large_for_an_entry_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    leader = net.lead()
    monkeypatch.setattr(module, "ENTRY_BYTES_MAX", 400)
    [registered] = net.ask(leader, registration(1))
    net.settle()
    answer = net.answers[registered]
    assert isinstance(answer, m.NodeRegistered)
    net.ask(leader, m.Heartbeat(node=1, broker_epoch=answer.broker_epoch, applied=answer.committed))
    net.settle()
    before = net.ask(
        leader, ids(), m.CreateTopics(topics=[m.TopicToCreate(name="t", partitions=50)]), ids(), registration(9)
    )
    net.settle()
    first, large, second, register = (net.answers[ticket] for ticket in before)
    assert first == m.ProducerIdsAllocated(first=0, count=1000)
    assert refused(large) == 44
    assert second == m.ProducerIdsAllocated(first=1000, count=1000)
    assert isinstance(register, m.NodeRegistered)
    image = net.members[leader].image
    assert not image.topics and 9 in image.brokers


def test_what_the_quorum_writes_for_itself_shifts_the_broker_epochs() -> None:
    net = Net()
    leader = net.lead()
    net.members[4] = net.member(4)
    net.members[4].join(Stored(0, None, Snapshot(0, 0, ())), Settings(), 4, net.now)
    [change] = net.ask(leader, m.ChangeVoters(add=4))
    net.pass_time(0.5)
    assert isinstance(net.answers[change], m.Recorded)
    [register] = net.ask(leader, registration(8))
    net.settle()
    member = net.members[leader]
    answer = net.answers[register]
    assert isinstance(answer, m.NodeRegistered)
    assert answer.broker_epoch == member.applied - 1 == answer.committed - 1
    [record] = [record for record in net.published[leader] if isinstance(record, BrokerRegistered)]
    assert record.broker_epoch == answer.broker_epoch
    [remove] = net.ask(leader, m.ChangeVoters(remove=leader))
    net.pass_time(2.0)
    assert isinstance(net.answers[remove], m.Recorded)
    assert not member.decides and not member.votes


def test_a_change_of_voters_that_comes_to_nothing_is_said() -> None:
    net = Net()
    leader = net.lead()
    [change] = net.ask(leader, m.ChangeVoters(add=9))
    [second] = net.ask(leader, m.ChangeVoters(remove=1))
    assert refused(net.answers[second]) == 7, "one at a time"
    net.pass_time(Settings().join_s + 1)
    assert refused(net.answers[change]) == 7
    both, none = net.ask(leader, m.ChangeVoters(add=1, remove=2), m.ChangeVoters())
    net.settle()
    assert refused(net.answers[both]) == refused(net.answers[none]) == 44


def test_who_leads_is_told_only_under_a_lease() -> None:
    net = Net()
    leader = net.lead()
    others = {node for node in VOTERS if node != leader}
    [described] = net.ask(leader, m.DescribeQuorum())
    answer = net.answers[described]
    assert isinstance(answer, m.QuorumDescribed) and answer.leader == leader
    assert {voter.voter for voter in answer.voters} == set(VOTERS)
    net.cut = others
    net.pass_time(0.47)
    if net.members[leader].decides:
        [late] = net.ask(leader, m.DescribeQuorum())
        net.settle()
        assert late not in net.answers
        net.pass_time(6.0)
        assert refused(net.answers[late]) == 41


def test_an_observer_learns_in_order_and_never_goes_back() -> None:
    net = Net()
    observer = net.members[9] = net.member(9)
    topic_ids = [m.Committed(offset=at, next_offset=at + 1, records=[record(at)], leader=2) for at in range(4)]
    net.step(9, Learned(topic_ids[0]))
    net.step(9, Learned(m.Committed(offset=0, next_offset=3, records=[record(0), record(1), record(2)], leader=2)))
    net.step(9, Learned(topic_ids[1]))
    net.step(9, Learned(m.Committed(offset=0, next_offset=2, records=[record(0)], snapshot=True, leader=2)))
    assert observer.applied == 3 and net.published[9] == [record(0), record(1), record(2)]
    net.step(9, Learned(m.Committed(offset=0, next_offset=7, records=[record(6)], snapshot=True, leader=3)))
    assert (observer.applied, observer.leader, observer.image.next_producer_id) == (7, 3, 7)
    [ticket] = net.ask(9, ids())
    assert net.relays[-1].to == 3 and net.relays[-1].ticket == ticket
    assert ticket not in net.answers


def test_of_an_observer_is_told_what_its_heartbeats_say() -> None:
    net = Net()
    leader = net.lead()
    tickets = net.ask(leader, registration(7), registration(8))
    net.settle()
    seven = net.answers[tickets[0]]
    assert isinstance(seven, m.NodeRegistered)
    net.ask(leader, m.Heartbeat(node=7, broker_epoch=seven.broker_epoch, applied=seven.committed))
    net.pass_time(0.25)
    [ticket] = net.ask(leader, m.DescribeQuorum())
    net.settle()
    described = net.answers[ticket]
    assert isinstance(described, m.QuorumDescribed)
    known, silent = described.observers
    assert (known.voter, known.end) == (7, seven.committed) and known.contact_ms >= 250
    assert silent == m.VoterState(voter=8, end=-1)


def test_whoever_was_removed_while_it_was_away_learns_of_it_from_a_voter() -> None:
    net = Net()
    leader = net.lead()
    away = next(voter for voter in VOTERS if voter != leader)
    net.ask(leader, *(registration_with_port(voter) for voter in VOTERS))
    net.settle()
    net.cut = {away}
    [change] = net.ask(leader, m.ChangeVoters(remove=away))
    net.pass_time(0.2)
    assert isinstance(net.answers[change], m.Recorded)
    net.cut = set()
    lonely = net.members[away]
    net.pass_time(module.lonely_s(Settings()) + 2.0)
    assert net.members[leader].decides, "nobody is disturbed"
    # No leader speaks to it, so it looks for somebody who knows more.
    assert lonely.votes and lonely.leader == -1 and lonely.follows
    published = net.published[leader]
    told = m.Committed(
        offset=0, next_offset=net.members[leader].applied, records=published, snapshot=True, leader=leader
    )
    net.step(away, Learned(told))
    assert not lonely.votes and lonely.leader == leader and lonely.follows
    [ticket] = net.ask(away, ids())
    assert net.relays[-1].to == leader and net.relays[-1].ticket == ticket
    # It is added again like anybody else.
    [back] = net.ask(leader, m.ChangeVoters(add=away))
    net.pass_time(1.0)
    assert isinstance(net.answers[back], m.Recorded)
    assert lonely.votes and not lonely.follows


def test_whoever_stands_on_an_addition_that_came_to_nothing_learns_of_it() -> None:
    net = Net()
    leader = net.lead()
    four = net.members[4] = net.member(4)
    founding = Snapshot(0, 0, ())
    four.join(Stored(0, None, founding, [Entry(0, 1), Entry(1, 1, voters=(1, 2, 3, 4))]), Settings(), 4, net.now)
    net.pass_time(module.lonely_s(Settings()) + 2.0)
    assert four.votes and four.follows
    net.ask(leader, ids())
    net.settle()
    applied = net.members[leader].applied
    assert applied > 2
    net.step(4, Learned(m.Committed(offset=0, next_offset=applied, records=[], snapshot=True, leader=leader)))
    assert not four.votes and four.leader == leader and four.follows


def test_a_voter_follows_nobody_while_it_is_led() -> None:
    net = Net()
    leader = net.lead()
    net.pass_time(module.lonely_s(Settings()) + 2.0)
    assert all(member.votes and not member.follows for member in net.members.values())
    one = next(voter for voter in VOTERS if voter != leader)
    net.cut = {one}
    net.pass_time(1.5)
    assert not net.members[one].follows, "an election may be all it takes"
    net.pass_time(module.lonely_s(Settings()))
    assert net.members[one].follows
    net.cut = set()
    net.pass_time(2.0)
    assert not net.members[one].follows


def test_a_voter_finds_one_that_was_added_by_its_own_log() -> None:
    """Nothing is known to be committed after a start, and the two must find each other to elect anybody."""
    net = Net()
    alone = net.member(1)
    seven = registered(7, "host-7")
    entries = [Entry(0, 1), Entry(1, 1, 1, pack_records([seven], 0)), Entry(2, 1, voters=(1, 7))]
    alone.join(Stored(1, 1, Snapshot(0, 0, (1,)), entries), Settings(), 1, 0.0)
    assert alone.applied == 0 and alone.image.brokers == {}
    assert alone.where(7) == ("host-7", 9645) and alone.where(8) is None
    moved = Entry(3, 1, 1, pack_records([registered(7, "elsewhere")], 0))
    append = AppendEntries(term=2, voter=7, sent=0.0, prev_end=3, prev_term=1, entries=[moved])
    alone.step(append, 0.1)
    assert alone.where(7) == ("elsewhere", 9645)
    # What comes after a cut is read anew, and what is committed counts first.
    other = Entry(3, 3, 1, pack_records([registered(8, "host-8")], 0))
    append = AppendEntries(term=3, voter=7, sent=0.0, prev_end=3, prev_term=1, entries=[other], committed=4)
    alone.step(append, 0.2)
    assert alone.applied == 4
    assert (alone.where(7), alone.where(8)) == (("host-7", 9645), ("host-8", 9645))


def test_one_that_does_not_know_who_voted_first_makes_no_snapshot() -> None:
    net = Net()
    joined = net.member(4)
    joined._around = msgspec.structs.replace(joined._around, snapshot_bytes=1)
    joined.join(Stored(0, None, Snapshot(0, 0, ()), blank=True), Settings(), 4, 0.0)
    first = [Entry(0, 1), Entry(1, 1, 1, pack_records([record(1)], 0))]
    append = AppendEntries(term=1, voter=1, sent=0.0, prev_end=0, prev_term=0, entries=first, committed=2)
    joined.step(append, 0.1)
    assert joined.applied == 2 and joined.snapshot() is None
    then = [Entry(2, 1, voters=(1, 2, 3, 4)), Entry(3, 1, 1, pack_records([record(2)], 0))]
    append = AppendEntries(term=1, voter=1, sent=0.1, prev_end=2, prev_term=1, entries=then, committed=4)
    joined.step(append, 0.2)
    snapshot = joined.snapshot()
    assert snapshot is not None and (snapshot.end, snapshot.voters) == (4, (1, 2, 3, 4))


def test_nobody_is_told_that_a_change_was_made_already_while_it_can_be_undone() -> None:
    net = Net()
    leader = net.lead()
    gone = next(voter for voter in VOTERS if voter != leader)
    net.cut = set(VOTERS) - {leader}
    net.ask(leader, m.ChangeVoters(remove=gone))
    raft = net.members[leader].raft
    assert raft is not None and gone not in raft.log.voters and raft.committed < raft.log.voters_end
    with pytest.raises(RequestTimedOutError):
        raft.step(RemoveVoter(gone), net.now)
    with pytest.raises(RequestTimedOutError):
        raft.step(AddVoter(leader), net.now)
    net.cut = set()
    net.pass_time(1.0)
    with pytest.raises(VoterNotFoundError):
        raft.step(RemoveVoter(gone), net.now)
    with pytest.raises(DuplicateVoterError):
        raft.step(AddVoter(leader), net.now)


def test_whom_to_follow_is_who_votes_then_who_did_then_anybody() -> None:
    assert voters.to_follow(2, {5: 0, 2: 0}, {1: 0, 2: 0, 5: 0}, {9: 0, 1: 0, 4: 0}) == [5, 1, 4, 9]
