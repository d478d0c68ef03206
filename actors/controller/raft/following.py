"""What a follower does with its leader's entries and snapshots (paper 5.3, 7)."""

from __future__ import annotations

from .effects import AppendLog, Effects, SaveSnapshot, TruncateLog, send
from .messages import AppendEntries, EntriesAppended, Entry, InstallSnapshot, Snapshot, SnapshotReceived
from .roles import Follower, Incoming, Leader
from .state import Voter


def append(voter: Voter, message: AppendEntries, now: float, out: Effects) -> None:
    """Make our log equal to the leader's up to the message's end, and say so once it is durable."""
    answer = EntriesAppended(term=voter.term, voter=voter.me, sent=message.sent, blank=voter.blank)
    if message.term < voter.term:
        send(out.after, message.voter, answer)
        return
    role = _heed(voter, message.term, message.voter, now)
    if role.whole:
        _be_whole(voter, message.voter)
    log = voter.log
    prev_end, prev_term, entries = message.prev_end, message.prev_term, message.entries
    if prev_end < log.start:
        # What is compacted is committed, so the leader has it and it is the same.
        entries = [entry for entry in entries if entry.end > log.start]
        prev_end, prev_term = log.start, log.term_at(log.start) or 0
    if log.term_at(prev_end) != prev_term:
        hint = log.newest(prev_end, prev_term) or (log.start, log.term_at(log.start) or 0)
        refused = EntriesAppended(
            term=voter.term,
            voter=voter.me,
            sent=message.sent,
            hint_end=hint[0],
            hint_term=hint[1],
            blank=voter.blank,
        )
        send(out.after, message.voter, refused)
        return
    match = entries[-1].end if entries else prev_end
    take(voter, entries, out)
    voter.commit(min(message.committed, match), out)
    complete = match >= message.committed and log.term_at(message.committed) == message.term
    if voter.blank and message.sure and complete:
        # All that the leader knows of is here, and it leads indeed. What is written just now is on the disk when its
        # next message comes: there may be something to write for every one of them.
        role.whole = True
        if not out.writes:
            _be_whole(voter, message.voter)
    done = EntriesAppended(term=voter.term, voter=voter.me, sent=message.sent, match=match, blank=voter.blank)
    send(out.after, message.voter, done)


def _be_whole(voter: Voter, leader: int) -> None:
    """Blank no more; and in this term nobody else is to get our vote again."""
    if voter.blank:
        voter.blank, voter.voted_for = False, leader


def take(voter: Voter, entries: list[Entry], out: Effects) -> None:
    """Append what is missing. Only an entry that contradicts ours cuts the log: a late, shorter message must not
    take back what was acknowledged."""
    log = voter.log
    for at, entry in enumerate(entries):
        if log.term_at(entry.end) == entry.term:
            continue
        if entry.offset < log.end:
            cut(voter, entry.offset, out)
        log.append(entries[at:])
        out.writes.append(AppendLog(entries[at:]))
        return


def cut(voter: Voter, end: int, out: Effects) -> None:
    assert end >= voter.committed, f"voter {voter.me} was told to cut its log at {end}, before {voter.committed}"
    voter.log.truncate(end)
    out.writes.append(TruncateLog(end))


def install(voter: Voter, message: InstallSnapshot, now: float, out: Effects) -> None:
    """Collect the pieces in order; the last one makes the snapshot ours."""
    if message.term < voter.term:
        answer = EntriesAppended(term=voter.term, voter=voter.me, sent=message.sent, blank=voter.blank)
        send(out.after, message.voter, answer)
        return
    role = _heed(voter, message.term, message.voter, now)
    if message.end <= voter.committed:
        role.incoming = None
        known = voter.committed
        match = EntriesAppended(term=voter.term, voter=voter.me, sent=message.sent, match=known, blank=voter.blank)
        send(out.after, message.voter, match)
        return
    incoming = role.incoming
    if incoming is None or (incoming.end, incoming.term) != (message.end, message.last_term):
        incoming = role.incoming = Incoming(message.end, message.last_term, bytearray())
    fits = len(incoming.data) + len(message.data) <= min(message.size, voter.settings.snapshot_bytes_max)
    if message.position == len(incoming.data) and fits:
        incoming.data += message.data
    if len(incoming.data) < message.size:
        received = SnapshotReceived(
            term=voter.term,
            voter=voter.me,
            sent=message.sent,
            end=message.end,
            position=len(incoming.data),
            blank=voter.blank,
        )
        send(out.after, message.voter, received)
        return
    role.incoming = None
    snapshot = Snapshot(message.end, message.last_term, message.voters, bytes(incoming.data))
    kept = voter.log.install(snapshot, snapshot.end)
    voter.committed = snapshot.end
    out.writes.append(SaveSnapshot(snapshot, start=voter.log.start, reset=not kept))
    out.committed.append(snapshot)
    done = EntriesAppended(term=voter.term, voter=voter.me, sent=message.sent, match=snapshot.end, blank=voter.blank)
    send(out.after, message.voter, done)


def _heed(voter: Voter, term: int, leader: int, now: float) -> Follower:
    """A leader of our term or a later one has spoken."""
    role = voter.role
    assert term > voter.term or not isinstance(role, Leader), f"voters {voter.me} and {leader} both lead term {term}"
    if term > voter.term or not isinstance(role, Follower):
        return voter.follow(term, leader, now, heard=True)
    role.leader, role.heard, role.elect_at = leader, now, now + voter.election_timeout()
    return role
