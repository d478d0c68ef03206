"""What a leader does: append, send, count, commit, keep its majority, change who votes (paper 5.3-5.4, thesis 4, 6)."""

from __future__ import annotations

from logeion.wire.errors import (
    DuplicateVoterError,
    RequestTimedOutError,
    ThrottlingQuotaExceededError,
    VoterNotFoundError,
)

from .effects import AppendLog, Effects, Send, send
from .messages import (
    AppendEntries,
    EntriesAppended,
    Entry,
    InstallSnapshot,
    Proposal,
    SnapshotReceived,
    TakeOver,
    VoterId,
)
from .roles import LONG_AGO, Candidate, Leader, Progress
from .state import Voter


def begin(voter: Voter, now: float, out: Effects) -> None:
    """Lead: an entry of the new term at once, for only with it can earlier ones be committed (paper 5.4.2)."""
    log = voter.log
    leader = Leader(began=now, term_end=log.end + 1, beat_at=now + voter.settings.heartbeat_s)
    won = voter.role
    leader.founding = isinstance(won, Candidate) and not voter.is_majority(won.granted - won.blank)
    leader.progress = {peer: Progress(next=log.end) for peer in voter.peers}
    voter.role = leader
    _append(voter, [Entry(log.end, voter.term)], out)
    # The vote for ourselves is written in this step, or was in the last one; entries must not travel before it.
    _send_to_all(voter, leader, now, out.after)
    advance(voter, leader, now, out)


def propose(voter: Voter, leader: Leader, proposals: list[Proposal], now: float, out: Effects) -> None:
    """Append all in one write; they travel while it is on its way to the disk, and count from its sync on."""
    log = voter.log
    if len(log.entries) + len(proposals) > voter.settings.undecided_max:
        undecided = len(log.read(voter.committed, log.end))
        if undecided + len(proposals) > voter.settings.undecided_max:
            raise ThrottlingQuotaExceededError(f"{undecided} metadata proposals wait for a majority of voters")
    entries = []
    end = log.end
    for proposal in proposals:
        entries.append(Entry(end, voter.term, proposal.count, proposal.data))
        end += proposal.count
    _append(voter, entries, out)
    _send_to_all(voter, leader, now, out.before)
    advance(voter, leader, now, out)


def appended(voter: Voter, leader: Leader, message: EntriesAppended, now: float, out: Effects) -> None:
    """A follower's log equals ours up to ``match``; or it does not, and we go back as far as both could agree."""
    progress = leader.progress.get(message.voter)
    if progress is None or not _note_disk(progress, message, now):
        return
    expected = _note_answer(progress, message.sent)
    if message.match >= 0:
        progress.match = max(progress.match, message.match)
        progress.next = max(progress.next, progress.match)
        advance(voter, leader, now, out)
        if voter.committed >= leader.term_end:
            voter.blank = False
            _note_founded(voter, leader)
    elif expected:
        if message.hint_end < progress.match:
            # It has lost what it had said was on its disk.
            progress.match = 0
            if message.blank:
                # Once more, so what we have proved since the first time may be older than what it was needed for.
                progress.blank_since = now
        common = voter.log.newest(message.hint_end, message.hint_term)
        # None: only the snapshot knows, and any place before its end says so.
        progress.next = max(progress.match, common[0] if common is not None else -1)
    _send_news(voter, message.voter, now, out)


def received(voter: Voter, leader: Leader, message: SnapshotReceived, now: float, out: Effects) -> None:
    """A follower wants the next piece of the snapshot."""
    progress = leader.progress.get(message.voter)
    if progress is None or not _note_disk(progress, message, now) or not _note_answer(progress, message.sent):
        return
    if message.end == progress.snapshot_end:
        progress.position = message.position
    _send_news(voter, message.voter, now, out)


def beat(voter: Voter, leader: Leader, now: float, out: Effects) -> None:
    """Time for a heartbeat, and to ask whether a majority still answers (check-quorum, thesis 6.2)."""
    settings = voter.settings
    if now >= max(quorum_contact(voter, leader, now), leader.began) + settings.election_min_s:
        voter.follow(voter.term, None, now)
        return
    if leader.joining is not None and now >= leader.join_until:
        _forget(leader, leader.joining)
        leader.joining = None
    leader.beat_at = now + settings.heartbeat_s
    for peer in leader.progress:
        replicate(voter, leader, peer, now, out.after, beat=True)


def resign(voter: Voter, leader: Leader, now: float, out: Effects) -> None:
    """Lead no longer, at once, and let the voter that is furthest stand now: what it asks for rests on our lease being
    over. If that word is lost, an election timeout is."""
    peers = [peer for peer in voter.peers if peer in leader.progress]
    if not peers:
        return
    heir = max(peers, key=lambda peer: (leader.progress[peer].match, leader.progress[peer].contact))
    send(out.after, heir, TakeOver(term=voter.term, voter=voter.me))
    voter.follow(voter.term, None, now)


def quorum_contact(voter: Voter, leader: Leader, now: float) -> float:
    """When a majority, ourselves included, was last surely ours."""
    heard = {peer: each.contact for peer, each in leader.progress.items() if _counts(voter, leader, each)}
    return _majority([now if peer == voter.me else heard.get(peer, LONG_AGO) for peer in voter.log.voters])


def lease_until(voter: Voter, leader: Leader, now: float) -> float:
    """Until then nobody else can lead: a majority has heard us and elects nobody (thesis 6.4.1).

    None before an entry of this term is committed, for until then what is committed is not known.
    """
    if voter.committed < leader.term_end:
        return LONG_AGO
    return quorum_contact(voter, leader, now) + voter.settings.lease_s


def advance(voter: Voter, leader: Leader, now: float, out: Effects) -> None:
    """Commit what a majority has on disk, and what follows from it."""
    end = committable(voter, leader)
    if end <= voter.committed:
        _join(voter, leader, now, out)
        return
    voter.commit(end, out)
    for peer in leader.progress:
        _send_news(voter, peer, now, out)
    if voter.me not in voter.log.voters and voter.committed >= voter.log.voters_end:
        # Our own removal is decided; until then we led without counting ourselves (thesis 4.2.2).
        voter.follow(voter.term, None, now)
        return
    _join(voter, leader, now, out)


def committable(voter: Voter, leader: Leader) -> int:
    """The end that a majority has synced, if that is an entry of this term: an earlier term's, though on a majority,
    can still be replaced (paper 5.4.2, figure 8), and is committed by the one that follows it."""
    log = voter.log
    synced = {peer: each.match for peer, each in leader.progress.items() if _counts(voter, leader, each)}
    end = _majority([log.end if peer == voter.me else synced.get(peer, 0) for peer in log.voters])
    return int(end) if log.term_at(int(end)) == voter.term else voter.committed


def add_voter(voter: Voter, leader: Leader, peer: VoterId, now: float, out: Effects) -> None:
    """Begin to send it the log; ``advance`` makes it a voter when it has caught up.

    Raises ``DuplicateVoterError``, or ``RequestTimedOutError`` while another change is under way.
    """
    _check_settled(voter, leader)
    if peer in voter.log.voters:
        raise DuplicateVoterError(f"node {peer} is a voter of the metadata quorum already")
    leader.joining, leader.join_until = peer, now + voter.settings.join_s
    leader.progress[peer] = Progress(next=voter.log.end)
    replicate(voter, leader, peer, now, out.after)


def remove_voter(voter: Voter, leader: Leader, peer: VoterId, now: float, out: Effects) -> None:
    """Append the set without it. Raises ``VoterNotFoundError`` (also for the last voter), or ``RequestTimedOutError``
    while another change is under way."""
    _check_settled(voter, leader)
    voters = tuple(other for other in voter.log.voters if other != peer)
    if peer not in voter.log.voters or not voters:
        raise VoterNotFoundError(f"node {peer} is not a voter of the metadata quorum, or its only one")
    _change(voter, leader, voters, now, out)
    _forget(leader, peer)


def _check_settled(voter: Voter, leader: Leader) -> None:
    """One change at a time, and none before this term's first commit: two sets that are each one step from a third
    can have majorities without a common voter (thesis 4.1 and its correction of 2015). Nor may anybody be told that a
    change was made already while that can still be undone."""
    if voter.committed < max(voter.log.voters_end, leader.term_end) or leader.joining is not None:
        raise RequestTimedOutError("another change of the metadata quorum is under way: try again when it is done")


def _join(voter: Voter, leader: Leader, now: float, out: Effects) -> None:
    """The node that joins has what is committed: let it vote."""
    peer = leader.joining
    if peer is None or leader.progress[peer].match < max(voter.committed, leader.term_end):
        return
    if leader.progress[peer].blank_since is not None:
        return
    leader.joining = None
    _change(voter, leader, tuple(sorted((*voter.log.voters, peer))), now, out)


def _change(voter: Voter, leader: Leader, voters: tuple[VoterId, ...], now: float, out: Effects) -> None:
    _append(voter, [Entry(voter.log.end, voter.term, voters=voters)], out)
    _send_to_all(voter, leader, now, out.after)
    advance(voter, leader, now, out)


def _forget(leader: Leader, peer: VoterId) -> None:
    leader.progress.pop(peer, None)


def _append(voter: Voter, entries: list[Entry], out: Effects) -> None:
    voter.log.append(entries)
    out.writes.append(AppendLog(entries))


def _send_to_all(voter: Voter, leader: Leader, now: float, out: list[Send]) -> None:
    for peer in leader.progress:
        replicate(voter, leader, peer, now, out)


def _send_news(voter: Voter, peer: VoterId, now: float, out: Effects) -> None:
    """Send to it what it has not, be it only that more is committed."""
    leader = voter.role
    if not isinstance(leader, Leader) or peer not in leader.progress:
        return
    progress = leader.progress[peer]
    if progress.sent is None and (progress.next < voter.log.end or progress.told < voter.committed):
        replicate(voter, leader, peer, now, out.after)


def replicate(voter: Voter, leader: Leader, peer: VoterId, now: float, out: list[Send], *, beat: bool = False) -> None:
    """Send what follows ``next``, unless an answer is awaited: then only a heartbeat, if it is time for one."""
    log, progress, settings = voter.log, leader.progress[peer], voter.settings
    waiting = progress.sent is not None and now < progress.sent + settings.answer_s
    if waiting and not beat:
        return
    if not waiting:
        progress.sent, progress.told = now, voter.committed
        if progress.next < log.start:
            _send_snapshot(voter, progress, peer, now, out)
            return
    entries = [] if waiting else log.read(progress.next, log.end, settings.append_bytes_max)
    prev_end = max(progress.next, log.start)
    since = progress.blank_since
    message = AppendEntries(
        term=voter.term,
        voter=voter.me,
        sent=now,
        prev_end=prev_end,
        prev_term=log.term_at(prev_end) or 0,
        entries=entries,
        committed=voter.committed,
        sure=leader.founding
        or (since is not None and (_is_needed(voter, leader) or quorum_contact(voter, leader, now) >= since)),
    )
    send(out, peer, message)


def _send_snapshot(voter: Voter, progress: Progress, peer: VoterId, now: float, out: list[Send]) -> None:
    snapshot = voter.log.snapshot
    if progress.snapshot_end != snapshot.end:
        progress.snapshot_end, progress.position = snapshot.end, 0
    piece = snapshot.data[progress.position : progress.position + voter.settings.append_bytes_max]
    message = InstallSnapshot(
        term=voter.term,
        voter=voter.me,
        sent=now,
        end=snapshot.end,
        last_term=snapshot.term,
        voters=snapshot.voters,
        size=len(snapshot.data),
        position=progress.position,
        data=piece,
    )
    send(out, peer, message)


def _note_answer(progress: Progress, sent: float) -> bool:
    """Whether this answers the message with content that is under way."""
    progress.contact = max(progress.contact, sent)
    if progress.sent != sent:
        return False
    progress.sent = None
    return True


def _note_disk(progress: Progress, message: EntriesAppended | SnapshotReceived, now: float) -> bool:
    """Whether this is the word of the disk that the voter has now, which may be a new one."""
    if message.blank:
        if progress.blank_since is None:
            progress.blank_since, progress.match = now, 0
    elif progress.blank_since is not None:
        if message.sent < progress.blank_since:
            return False
        progress.blank_since = None
    return True


def _note_founded(voter: Voter, leader: Leader) -> None:
    """Once a majority is blank no more, whoever comes with an empty disk has lost one."""
    heard = {peer for peer, each in leader.progress.items() if each.contact > LONG_AGO and each.blank_since is None}
    if leader.founding and voter.is_majority({voter.me, *heard}):
        leader.founding = False


def _counts(voter: Voter, leader: Leader, progress: Progress) -> bool:
    """A blank voter knows no term: a leader that was deposed long ago could have its word for anything."""
    return leader.founding or progress.blank_since is None or _is_needed(voter, leader)


def _is_needed(voter: Voter, leader: Leader) -> bool:
    """Whether nobody can have been elected after us without our vote: two voters are a majority only together.

    Not while their set, or that this term has begun, could still be undone: another set may have a majority then.
    """
    log = voter.log
    settled = voter.committed >= max(log.voters_end, leader.term_end)
    return settled and len(log.voters) == 2 and voter.me in log.voters


def _majority(values: list[float] | list[int]) -> float:
    """The highest value that a majority reaches."""
    return sorted(values, reverse=True)[len(values) // 2]
