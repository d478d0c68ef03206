"""Anomalies of order: what one process polled or sent after what, and what was acknowledged before what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.checker.history import ENDS, EPOCHS, SEEKS, Value
from tests.checker.tables import Processes, Tables
from tests.checker.verdict import Finding

NO_TRAITS: frozenset[str] = frozenset()


def polls(tables: Tables, processes: Processes, events: tuple[list[Any], ...]) -> Iterator[Finding]:
    """int-poll-skip, int-nonmonotonic-poll, poll-skip and nonmonotonic-poll."""
    key, index, doubled = tables.key, tables.index, bool(tables.places)
    # process -> (place, op, value, how often it had chosen keys, when)
    state: dict[int | str, tuple[int, int, Value, int, float]] = {}
    unchosen = processes.none
    moved: set[int | str] = set()
    seeks: dict[int | str, list[float]] = {}
    for t, _, _, _, proc in events[SEEKS]:
        seeks.setdefault(proc, []).append(t)
    for t_inv, _, op, _, proc, kind, records, rebalanced, _, _ in tables.polls:
        if rebalanced:
            moved.add(proc)
        first = before = -1
        value: Value | None = None
        for offset, value in records:
            place = index.get(value, -1) if not doubled else tables.place_of(offset, value)
            if place < 0:
                continue
            if before < 0:
                first = place
            elif place != before + 1:
                traits = frozenset({"rebalanced"}) if rebalanced else NO_TRAITS
                yield _jump("int-", tables, before, place, (op,), traits)
            before = place
        if before < 0:
            continue
        choices = 0 if unchosen else processes.count(proc, t_inv)
        last = state.get(proc)
        if last is not None and first != last[0] + 1:
            sought = proc in seeks and any(last[4] <= t <= t_inv for t in seeks[proc])
            if not sought and processes.kept(proc, key, last[3], choices):
                yield _jump("", tables, last[0], first, (last[1], op), _traits(processes, proc, t_inv, moved))
        if kind == "ok":
            state[proc] = (before, op, tables.log[tables.order[before]], choices, t_inv)
            if moved:
                moved.discard(proc)


def _traits(processes: Processes, proc: int | str, t: float, moved: set[int | str]) -> frozenset[str]:
    traits = {"subscribe"} if processes.subscribed(proc, t) else set()
    if proc in moved:
        traits.add("rebalanced")
    return frozenset(traits)


def _jump(
    prefix: str, tables: Tables, before: int, place: int, ops: tuple[int, ...], traits: frozenset[str]
) -> Finding:
    order, log = tables.order, tables.log
    if place > before + 1:
        values = tables.between(before, place)
        offsets = tuple(order[before + 1 : min(place, before + 11)])
        note = f"from offset {order[before]} to {order[place]}, over {place - before - 1} records"
        return Finding(f"{prefix}poll-skip", tables.key, note, offsets, values, ops, traits)
    note = f"from offset {order[before]} to {order[place]}, delta {place - before}"
    both = (order[before], order[place])
    values = (log[order[before]], log[order[place]])
    return Finding(f"{prefix}nonmonotonic-poll", tables.key, note, both, values, ops, traits)


def sends(tables: Tables, processes: Processes) -> Iterator[Finding]:
    """int-send-skip, int-nonmonotonic-send and nonmonotonic-send."""
    key, index, order = tables.key, tables.index, tables.order
    unchosen = processes.none
    # process -> (place, op, value, how often it had chosen keys)
    state: dict[int | str, tuple[int, int, Value, int]] = {}
    for t_inv, _, op, _, proc, kind, pairs, _, _ in tables.sends:
        first = before = -1
        value: Value = ""
        for _, value in pairs:
            place = index.get(value, -1)
            if place < 0:
                continue
            if before < 0:
                first = place
            elif place > before + 1:
                offsets = (order[before], order[place])
                yield Finding("int-send-skip", key, "another writer came between", offsets, (value,), (op,))
            elif place <= before:
                offsets = (order[before], order[place])
                note = f"delta {place - before}"
                yield Finding("int-nonmonotonic-send", key, note, offsets, (value,), (op,))
            before = place
        if before < 0:
            continue
        choices = 0 if unchosen else processes.count(proc, t_inv)
        last = state.get(proc)
        if last is not None and first <= last[0]:
            traits = frozenset({"reassigned"}) if choices != last[3] else NO_TRAITS
            note = f"sent after offset {order[last[0]]}, stands at {order[first]}"
            offsets = (order[last[0]], order[first])
            yield Finding("nonmonotonic-send", key, note, offsets, (last[2], value), (last[1], op), traits)
        if kind != "fail":
            state[proc] = (before, op, value, choices)


def acks(tables: Tables, events: tuple[list[Any], ...]) -> Iterator[Finding]:
    """realtime-order, stale-end and zombie-ack: every question is held against what had been answered before it."""
    key = tables.key
    answered = tables.acked
    leaders: dict[int, tuple[int | str, int]] = {}
    at, high, high_op, newest, newest_op = 0, -1, -1, -1, -1
    for t_inv, _, op, _, _, kind, pairs, epoch, leader in tables.sends:
        if kind != "ok":
            continue
        if epoch is not None and leader is not None:
            other, first = leaders.setdefault(epoch, (leader, op))
            if other != leader:
                note = f"{other} and {leader} both acknowledged in epoch {epoch}"
                offsets = tuple(offset for offset, _ in pairs if offset is not None)
                yield Finding("zombie-ack", key, note, offsets, tuple(value for _, value in pairs), (first, op))
        while at < len(answered) and answered[at][0] < t_inv:
            _, by, offset, age = answered[at]
            if offset > high:
                high, high_op = offset, by
            if age > newest:
                newest, newest_op = age, by
            at += 1
        for offset, value in pairs:
            if offset is not None and offset <= high:
                note = f"offset {high} was acknowledged before this was sent, it got {offset}"
                yield Finding("realtime-order", key, note, (high, offset), (value,), (high_op, op))
            if epoch is not None and epoch < newest and value not in tables.read_values:
                note = f"acknowledged in epoch {epoch} after one of epoch {newest}, and not in the log"
                offsets = () if offset is None else (offset,)
                yield Finding("zombie-ack", key, note, offsets, (value,), (newest_op, op))
    elected: dict[int, tuple[int | str, int]] = {}
    for entry in events[EPOCHS]:
        for epoch, node in entry[5]:
            other, first = elected.setdefault(epoch, (node, entry[2]))
            if other != node:
                note = f"the metadata log names {other} and {node} as leader of epoch {epoch}"
                yield Finding("zombie-ack", key, note, (), (), (first, entry[2]))
    yield from _stale_ends(tables, events[ENDS], answered)


def _stale_ends(tables: Tables, asked: list[Any], answered: list[tuple[float, int, int, int]]) -> Iterator[Finding]:
    at, high, high_op = 0, -1, -1
    told = sorted((t_ret, op, end) for _, _, op, t_ret, _, end in asked)
    heard, best, best_op = 0, -1, -1
    for t_inv, _, op, _, _, end in asked:
        while at < len(answered) and answered[at][0] < t_inv:
            if answered[at][2] > high:
                high, high_op = answered[at][2], answered[at][1]
            at += 1
        while heard < len(told) and told[heard][0] < t_inv:
            if told[heard][2] > best:
                best, best_op = told[heard][2], told[heard][1]
            heard += 1
        if end <= high:
            note = f"end {end}, although offset {high} had been acknowledged"
            yield Finding("stale-end", tables.key, note, (end, high), (), (high_op, op))
        elif end < best:
            note = f"end {end}, after {best} had been told"
            yield Finding("stale-end", tables.key, note, (end, best), (), (best_op, op))
