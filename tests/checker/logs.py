"""Anomalies of the log itself: what was written, what stood where, and what was never read (2.3 and part of 2.4)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

from tests.checker.history import FINALS, REPLICAS
from tests.checker.tables import Tables
from tests.checker.verdict import Finding


def conflicts(tables: Tables) -> Iterator[Finding]:
    """inconsistent-offsets, duplicate and ack-rebind."""
    key = tables.key
    for offset, values in tables.conflicts.items():
        some = tuple(sorted(values, key=str))
        ops = tuple(tables.writer[value][2] for value in some if value in tables.writer)
        yield Finding("inconsistent-offsets", key, f"{len(values)} values at one offset", (offset,), some, ops)
    for value, places in tables.places.items():
        yield Finding("duplicate", key, f"one value at {len(places)} offsets", tuple(sorted(places)), (value,))
    for offset, value, op, at in tables.rebound:
        note = f"acknowledged at {offset}, read at {at}"
        yield Finding("ack-rebind", key, note, (offset, at), (value,), (op,))
    if not tables.conflicts:
        return
    acked: dict[int, tuple[Any, int]] = {}
    for send in tables.sends:
        if send[5] == "ok":
            for offset, value in send[6]:
                if offset is not None:
                    before, op = acked.setdefault(offset, (value, send[2]))
                    if before != value:
                        note = "one offset was acknowledged to two values"
                        yield Finding("ack-rebind", key, note, (offset,), (before, value), (op, send[2]))


def reads(tables: Tables) -> Iterator[Finding]:
    """phantom, G1a and precommitted-read: values that a poll must not return."""
    key, writer = tables.key, tables.writer
    suspects = (tables.read_values - writer.keys()) | (tables.read_values & tables.failed)
    both = tables.rich & {send[2] for send in tables.sends}
    if not (suspects or both or tables.corrupt):
        return
    for poll in tables.polls:
        op, kind, records = poll[2], poll[5], poll[6]
        if op in both:
            for offset, value in records:
                if value in writer and writer[value][2] == op:
                    note = "a transaction read what it wrote itself"
                    yield Finding("precommitted-read", key, note, (offset,), (value,), (op,))
        for offset, value in records:
            if value is None:
                yield Finding("phantom", key, "a record whose payload fails its checksum", (offset,), (), (op,))
            elif suspects and value in suspects:
                if value not in writer:
                    note = "nobody sent this value to this key"
                    yield Finding("phantom", key, note, (offset,), (value,), (op,))
                elif kind == "ok":
                    note = "the send of this value had failed"
                    yield Finding("G1a", key, note, (offset,), (value,), (writer[value][2], op))


def lost(tables: Tables, *, final: bool) -> Iterator[Finding]:
    """lost-write below what was read, and after a final read every acknowledged value that no poll returned."""
    key, seen, index, last = tables.key, tables.seen, tables.index, tables.last
    if tables.writer.keys() <= seen.keys():
        return
    bound = max((index[value] for value in seen), default=-1)
    for send in tables.sends:
        for offset, value in send[6]:
            if value in seen:
                continue
            offsets = () if offset is None else (offset,)
            place = last.get(value, index.get(value))
            if place is not None and place <= bound and tables.committed(send):
                note = f"place {place}, although place {bound} was read"
                yield Finding("lost-write", key, note, offsets, (value,), (send[2],))
            if final and send[5] == "ok":
                yield Finding("unseen", key, "acknowledged, and no poll returned it", offsets, (value,), (send[2],))


def unseen_series(tables: Tables, points: int = 100) -> list[tuple[float, int]]:
    """How many acknowledged values nobody had read yet, after each change: at most ``points`` (time, count)."""
    acked: list[float] = []
    read: list[float] = []
    seen = tables.seen
    for send in tables.sends:
        if send[5] == "ok":
            t = send[3]
            for _, value in send[6]:
                acked.append(t)
                if value in seen:
                    read.append(max(seen[value], t))
    acked.sort()
    read.sort()
    times = sorted(acked + read)
    step = -(-len(times) // (points - 1)) or 1
    shown = dict.fromkeys([*times[::step], *times[-1:]])
    return [(t, bisect_right(acked, t) - bisect_right(read, t)) for t in shown]


def ends(tables: Tables, events: tuple[list[Any], ...]) -> Iterator[Finding]:
    """missed-tail and hole: what a read from the beginning to the end should have met."""
    key = tables.key
    for t_inv, _, number, t_ret, proc, start, end, gaps in events[FINALS]:
        explained = {offset for first, last in gaps for offset in range(first, last + 1)}
        got: set[Any] = set()
        for poll in tables.polls:
            if poll[4] == proc and poll[0] >= t_inv and poll[3] <= t_ret:
                got.update([value for _, value in poll[6]])
        for send in () if tables.writer.keys() <= got else tables.sends:
            if send[5] == "ok" and send[3] < t_inv:
                for offset, value in send[6]:
                    if value in got or (offset is not None and (offset < start or offset in explained)):
                        continue
                    note = f"process {proc} read {start} to {end} after this was acknowledged, and did not get it"
                    offsets = () if offset is None else (offset,)
                    yield Finding("missed-tail", key, note, offsets, (value,), (send[2], number))
        order = tables.order
        whole = bisect_left(order, end) - bisect_left(order, start) == end - start
        for offset in () if whole else range(start, end):
            if offset not in tables.log and offset not in explained:
                note = f"nothing was written to or read from this offset of {start} to {end}"
                yield Finding("hole", key, note, (offset,), (), (number,))


def replicas(tables: Tables, events: tuple[list[Any], ...]) -> Iterator[Finding]:
    """split-replica: raw logs that differ below the highest watermark, where each of them should have it."""
    raw = events[REPLICAS]
    if len(raw) < 2:
        return
    watermark = max(entry[7] for entry in raw)
    floor = max(entry[6] for entry in raw)
    batches: dict[tuple[int, int], dict[str, str]] = {}
    for entry in raw:
        for base, last, digest, *_ in entry[8]:
            if last >= floor and base < watermark:
                batches.setdefault((base, last), {})[str(entry[5])] = digest
    names = {str(entry[5]) for entry in raw}
    for (base, last), digests in sorted(batches.items()):
        if len(digests) < len(names) or len(set(digests.values())) > 1:
            shown = ", ".join(f"{name}: {digests.get(name, 'nothing')}" for name in sorted(names))
            ops = tuple(entry[2] for entry in raw)
            yield Finding("split-replica", tables.key, f"batch {base} to {last}: {shown}", (base, last), (), ops)
