"""What whoever leads tells of the quorum: who votes, how far each is, and when it was heard last. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..messages import QuorumDescribed, VoterState
from .raft.machine import Raft
from .raft.roles import LONG_AGO, Leader


def described(
    raft: Raft, nodes: Iterable[int], followed: Mapping[int, tuple[int, float]], now: float
) -> QuorumDescribed:
    """The answer to ``DescribeQuorum``; ``nodes`` are all that are registered, ``followed`` says how far those without
    a vote have come, and when: they follow some voter, but their heartbeats tell."""
    assert isinstance(raft.role, Leader)
    found = []
    for voter in raft.log.voters:
        progress = raft.role.progress.get(voter)
        if progress is None:
            found.append(VoterState(voter=voter, end=raft.log.end, contact_ms=0))
            continue
        found.append(VoterState(voter=voter, end=progress.match, contact_ms=_silent(progress.contact, now)))
    observers = []
    for node in nodes:
        if node not in raft.log.voters:
            end, at = followed.get(node, (-1, LONG_AGO))
            observers.append(VoterState(voter=node, end=end, contact_ms=_silent(at, now)))
    return QuorumDescribed(
        leader=raft.me,
        term=raft.term,
        committed=raft.committed,
        voters=found,
        observers=observers,
    )


def _silent(since: float, now: float) -> int:
    return -1 if since == LONG_AGO else int((now - since) * 1000)
