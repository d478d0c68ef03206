"""Elections: who asks, who grants, who wins (paper 5.2, 5.4.1; pre-vote: thesis 9.6)."""

from __future__ import annotations

from . import leading
from .effects import Effects, send
from .log import RaftLog
from .messages import AskVote, Restarted, TakeOver, VoteAnswered, VoterId
from .roles import LONG_AGO, Candidate, Follower, Leader, PreCandidate
from .state import Voter


def campaign(voter: Voter, now: float, out: Effects) -> None:
    """No leader is heard: ask whether anybody would vote for us."""
    if not may_stand(voter):
        voter.follow(voter.term, None, now)
        return
    if voter.wins({voter.me}, voter.own_vote()):
        stand(voter, now, out)
        return
    voter.role = PreCandidate({voter.me}, voter.own_vote(), now + voter.retry_timeout())
    _ask(voter, voter.term + 1, out, pre=True)


def take_over(voter: Voter, message: TakeOver, now: float, out: Effects) -> None:
    """The leader of our own term has resigned: stand without asking first whether anybody would mind."""
    if message.term == voter.term and may_stand(voter) and isinstance(voter.role, Follower | PreCandidate):
        stand(voter, now, out, transfer=True)


def miss_leader(voter: Voter, peer: VoterId, now: float) -> None:
    """Our leader's process has most likely ended: stand as soon as its lease must be over."""
    role = voter.role
    if isinstance(role, Follower) and role.leader == peer:
        settings = voter.settings
        role.elect_at = min(role.elect_at, max(now, role.heard + settings.election_min_s) + voter.short_wait())


def tell_restart(voter: Voter, out: Effects) -> None:
    for peer in voter.peers:
        send(out.after, peer, Restarted(term=voter.term, voter=voter.me))


def forget_leader(voter: Voter, message: Restarted, now: float) -> None:
    """Our leader has died and is back: nobody leads this term any more, and nobody has a lease in it."""
    role = voter.role
    if message.term == voter.term and isinstance(role, Follower) and role.leader == message.voter:
        role.leader, role.heard = None, LONG_AGO
        role.elect_at = min(role.elect_at, now + voter.short_wait())


def may_stand(voter: Voter) -> bool:
    """A voter, or one whose removal is in its log but perhaps not committed: the others may need its longer log, and
    would wait for each other forever. It leads without counting itself until the removal is (thesis 4.2.2)."""
    log = voter.log
    return voter.me in log.voters or (voter.committed < log.voters_end and voter.me in log.voters_before)


def stand(voter: Voter, now: float, out: Effects, *, transfer: bool = False) -> None:
    """Take a new term and vote for ourselves in it."""
    voter.term += 1
    voter.voted_for = voter.me
    voter.role = Candidate({voter.me}, voter.own_vote(), now + voter.retry_timeout())
    if voter.wins({voter.me}, voter.own_vote()):
        leading.begin(voter, now, out)
    else:
        _ask(voter, voter.term, out, transfer=transfer)


def asked(voter: Voter, message: AskVote, now: float, out: Effects) -> None:
    """Grant or refuse.

    Who hears a leader refuses, and does not even take the higher term: the leader's lease rests on that. A leader
    refuses while it is one; check-quorum ends that if it has lost the others. After a ``transfer`` there is no lease
    in the terms before the candidate's.
    """
    if hears_leader(voter, now) and not (message.transfer and message.term > voter.term):
        granted = False
    elif message.pre:
        granted = message.term > voter.term and is_fresh(voter, message)
    else:
        if message.term > voter.term:
            voter.follow(message.term, None, now)
        granted = (
            message.term == voter.term
            and isinstance(voter.role, Follower | PreCandidate)
            and voter.voted_for in (None, message.voter)
            and is_fresh(voter, message)
        )
        if granted:
            voter.voted_for = message.voter
            voter.follow(voter.term, None, now)
    answer = VoteAnswered(
        term=voter.term,
        voter=voter.me,
        pre=message.pre,
        asked=message.term,
        granted=granted,
        blank=voter.blank,
        voters=list(voter.log.voters) if voter.blank else [],
    )
    send(out.after, message.voter, answer)


def hears_leader(voter: Voter, now: float) -> bool:
    role = voter.role
    if isinstance(role, Follower):
        return now < role.heard + voter.settings.election_min_s
    return isinstance(role, Leader)


def is_fresh(voter: Voter, message: AskVote) -> bool:
    """Only who has at least our log may lead: so a leader has every committed entry (paper 5.4.1)."""
    return (message.last_term, message.end) >= (voter.log.last_term, voter.log.end)


def answered(voter: Voter, message: VoteAnswered, now: float, out: Effects) -> None:
    """Count a grant, if it answers what we ask now."""
    if message.term > voter.term:
        voter.follow(message.term, None, now)
        return
    role = voter.role
    if not message.granted:
        return
    if isinstance(role, PreCandidate) and message.pre and message.asked == voter.term + 1:
        if _counted(voter, role, message):
            stand(voter, now, out)
    elif (
        isinstance(role, Candidate)
        and not message.pre
        and message.asked == voter.term
        and _counted(voter, role, message)
    ):
        leading.begin(voter, now, out)


def _counted(voter: Voter, role: PreCandidate | Candidate, message: VoteAnswered) -> bool:
    """Whether with this vote the election is won."""
    log = voter.log
    if message.blank and log.end and len(log.voters) == 2 and not _voters_ever(log).issuperset(message.voters):
        # It was told of a voter that we do not know. Were we more, whoever else agrees would know that one, too; but
        # these two may have changed the set, and decided since, with what was on the lost disk and without us.
        return False
    role.granted.add(message.voter)
    if message.blank:
        role.blank.add(message.voter)
    return voter.wins(role.granted, role.blank)


def _voters_ever(log: RaftLog) -> set[VoterId]:
    """Whoever votes or has voted, as far as our log tells."""
    found = {*log.voters, *log.voters_before, *log.snapshot.voters}
    return found.union(*(entry.voters for entry in log.read(log.start, log.end) if entry.voters is not None))


def _ask(voter: Voter, term: int, out: Effects, *, pre: bool = False, transfer: bool = False) -> None:
    log = voter.log
    question = AskVote(term=term, voter=voter.me, pre=pre, transfer=transfer, end=log.end, last_term=log.last_term)
    for peer in voter.peers:
        send(out.after, peer, question)
