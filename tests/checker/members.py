"""Anomalies of consumer groups: records nobody got, two owners, positions that go back, records given again."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.checker.history import COMMITS, COMMITTED, FINALS, OWNED
from tests.checker.tables import Tables
from tests.checker.verdict import Finding

# (t_inv, i, op, t_ret, proc, type, position, group, generation, member, reset)
Commit = tuple[float, int, int, float, int | str, str, int, str, int, str, bool]
# (from, to, member, op)
Interval = tuple[float, float, str, int]


def judge(tables: Tables, events: tuple[list[Any], ...], began: dict[int | str, float]) -> Iterator[Finding]:
    """All of them, for each group that committed a position of this key."""
    groups: dict[str, list[Commit]] = defaultdict(list)
    for commit in events[COMMITS]:
        groups[commit[7]].append(tuple(commit))  # a tuple again after a shard's file
    read_back: dict[str, list[Any]] = defaultdict(list)
    for entry in events[COMMITTED]:
        read_back[entry[6]].append(entry)
    owned: dict[str, list[Any]] = defaultdict(list)
    for entry in events[OWNED]:
        owned[entry[5]].append(entry)
    for group in groups.keys() | read_back.keys() | owned.keys():
        accepted = [commit for commit in groups[group] if commit[5] == "ok"]
        yield from _skips(tables, events, group, accepted, read_back[group])
        yield from _owners(tables.key, accepted)
        yield from _assigned_twice(tables.key, owned[group])
        yield from _committed_late(tables.key, accepted, _intervals(owned[group]))
        yield from _regressions(tables.key, accepted, read_back[group])
        yield from _redeliveries(tables, group, accepted, began)


def _skips(
    tables: Tables, events: tuple[list[Any], ...], group: str, accepted: list[Commit], read_back: list[Any]
) -> Iterator[Finding]:
    """Members are taken to begin at the log's start where nothing is committed (auto.offset.reset=earliest)."""
    if read_back:
        final = max(read_back, key=lambda entry: float(entry[3]))[5]
    else:
        final = max(accepted, key=lambda commit: commit[3], default=(0.0, 0, 0, 0.0, 0, "", 0))[6]
    start = max((entry[5] for entry in events[FINALS]), default=0)
    given = {offset for poll in tables.polls if poll[8] == group for offset, _ in poll[6]}
    for offset in tables.order:
        if offset >= final:
            break
        if offset >= start and offset not in given:
            note = f"below the committed {final} of group {group}, and no member got it"
            yield Finding("group-skip", tables.key, note, (offset,), (tables.log[offset],))


def _owners(key: str, accepted: list[Commit]) -> Iterator[Finding]:
    owners: dict[int, Commit] = {}
    newest: Commit | None = None
    told: set[tuple[int, str]] = set()
    for commit in sorted(accepted, key=lambda commit: commit[3]):
        generation, member = commit[8], commit[9]
        if generation < 0:
            continue
        owner = owners.setdefault(generation, commit)
        late = newest is not None and newest[8] > generation and newest[3] < commit[0]
        if (owner[9] != member or late) and (generation, member) not in told:
            told.add((generation, member))
            other = newest if late and newest is not None else owner
            note = f"{member} committed in generation {generation}, {other[9]} had in generation {other[8]}"
            yield Finding("group-double-owner", key, note, (commit[6],), (), (other[2], commit[2]))
        if newest is None or newest[8] <= generation:
            newest = commit


def _assigned_twice(key: str, owned: list[Any]) -> Iterator[Finding]:
    owners: dict[int, tuple[str, int]] = {}
    for _, _, op, _, _, _, generation, member, begins in owned:
        if begins and generation >= 0:
            other, first = owners.setdefault(generation, (member, op))
            if other != member:
                note = f"generation {generation} gave it to {other} and to {member}"
                yield Finding("group-double-owner", key, note, (), (), (first, op))


def _intervals(owned: list[Any]) -> list[Interval]:
    """When each member owned the key; to the end where it never said that it does no more."""
    found: list[Interval] = []
    begun: dict[str, tuple[float, int]] = {}
    for t_inv, _, op, t_ret, _, _, _, member, begins in owned:
        if begins:
            begun[member] = (t_inv, op)
        elif member in begun:
            since, first = begun.pop(member)
            found.append((since, t_ret, member, first))
    found += [(since, float("inf"), member, first) for member, (since, first) in begun.items()]
    return sorted(found)


def _committed_late(key: str, accepted: list[Commit], intervals: list[Interval]) -> Iterator[Finding]:
    """Where a client shows no generation: the owner before committed after the next one had."""
    newest: tuple[Interval, Commit] | None = None
    told: set[str] = set()
    for commit in sorted(accepted, key=lambda commit: commit[3]):
        held = [one for one in intervals if one[2] == commit[9] and one[0] <= commit[0] and commit[3] <= one[1]]
        if commit[8] >= 0 or not held:
            continue
        if newest is None or newest[0][0] <= held[-1][0]:
            newest = held[-1], commit
        elif newest[0][2] != commit[9] and newest[1][3] < commit[0] and commit[9] not in told:
            told.add(commit[9])
            note = f"{commit[9]}, which owns it since {held[-1][0]:.3f}, committed after its next owner {newest[0][2]}"
            yield Finding("group-double-owner", key, note, (commit[6],), (), (newest[1][2], commit[2]))


def _regressions(key: str, accepted: list[Commit], read_back: list[Any]) -> Iterator[Finding]:
    """Both commits and read-backs, against the highest position that was accepted before they were asked."""
    asked = [(c[0], c[6], c[2], c[10]) for c in accepted] + [(e[0], e[5], e[2], False) for e in read_back]
    answered = sorted((commit[3], commit[6], commit[2]) for commit in accepted)
    resets = sorted(commit[0] for commit in accepted if commit[10])
    at, high, high_op = 0, -1, -1
    reset_at = 0
    for t, position, op, reset in sorted(asked):
        while reset_at < len(resets) and resets[reset_at] < t:
            reset_at += 1
            high, high_op = -1, -1
        since = resets[reset_at - 1] if reset_at else float("-inf")
        while at < len(answered) and answered[at][0] < t:
            if answered[at][1] > high and answered[at][0] >= since:
                high, high_op = answered[at][1], answered[at][2]
            at += 1
        if position < high and not reset:
            note = f"{position}, after {high} had been accepted"
            yield Finding("commit-regress", key, note, (position, high), (), (high_op, op))


def _redeliveries(
    tables: Tables, group: str, accepted: list[Commit], began: dict[int | str, float]
) -> Iterator[Finding]:
    """A member must not start below what had been accepted before the key came to it."""
    if any(commit[10] for commit in accepted):
        return
    times: list[float] = []
    floors: list[int] = []
    for commit in sorted(accepted, key=lambda commit: commit[3]):
        times.append(commit[3])
        floors.append(max(commit[6], floors[-1] if floors else -1))
    came: dict[int | str, float] = {}
    for t_inv, _, op, _, proc, _, records, rebalanced, of, _ in tables.polls:
        if of != group:
            continue
        if rebalanced:
            came[proc] = t_inv
        since = came.setdefault(proc, began.get(proc, t_inv))
        known = bisect_left(times, since)
        floor = floors[known - 1] if known else -1
        for offset, value in records:
            if offset < floor:
                note = f"process {proc}, which got the key after {since:.3f}, although {floor} was committed by then"
                yield Finding("over-redelivery", tables.key, note, (offset,), (value,), (op,))
