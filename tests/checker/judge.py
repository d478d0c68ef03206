"""The judgement of a whole history, one shard of keys after the other."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from tests.checker import cycles, gaps, history, logs, members, orders
from tests.checker.history import FINALS, History, Op
from tests.checker.tables import Processes, Tables, seen_unsure
from tests.checker.verdict import Config, Finding, Findings


class Judgement:
    """What is known after all shards: `findings`, and per key and per fault how long answers took."""

    def __init__(self, events: History, config: Config) -> None:
        self.events = events
        self.findings = Findings(config)
        self.processes = Processes(events.assigned)
        self.faults = sorted(events.faults)
        self.keys: dict[str, dict[str, Any]] = {}
        self.fault_gaps: list[dict[str, float]] = [{} for _ in self.faults]
        # Keys with acknowledged sends that no final read covered: whether all was there at the end is not known.
        self.unfinished: list[str] = []
        self._graph = cycles.Graph(events.rich)
        self._polled: dict[str, list[tuple[int, list[Any]]]] = {}
        self._committed: set[int] = set()
        self._run()

    def _run(self) -> None:
        for op, polled in self.events.rich_polls.items():
            for key, value in polled:
                if value is not None:
                    self._polled.setdefault(key, []).append((op, [value]))
        if self.events.unsure:
            for shard in range(self.events.shards):
                for kinds in self.events.load(shard).values():
                    self._committed |= seen_unsure(kinds, self.events.unsure)
        for shard in range(self.events.shards):
            held = self.events.load(shard)
            while held:
                self._judge_key(*held.popitem())
        self.findings.extend(self._graph.findings())

    def _judge_key(self, key: str, kinds: tuple[list[Any], ...]) -> None:
        tables = Tables(key, kinds, committed=self._committed, unsure=self.events.unsure, rich=self.events.rich.keys())
        found = self.findings
        finals = kinds[FINALS]
        found.extend(logs.conflicts(tables))
        found.extend(logs.reads(tables))
        found.extend(logs.lost(tables, final=bool(finals)))
        found.extend(logs.ends(tables, kinds))
        found.extend(logs.replicas(tables, kinds))
        found.extend(orders.polls(tables, self.processes, kinds))
        found.extend(orders.sends(tables, self.processes))
        found.extend(orders.acks(tables, kinds))
        found.extend(members.judge(tables, kinds, self.events.began))
        pauses = gaps.gaps(tables)
        found.extend(gaps.stuck(key, pauses, self.faults, found.config.stuck_after_s))
        if self.events.rich:
            self._graph.add(tables, self._polled.get(key, ()))
        self._note(tables, pauses, finals)

    def _note(self, tables: Tables, pauses: list[gaps.Gap], finals: list[Any]) -> None:
        key = tables.key
        acked = sum([len(send[6]) for send in tables.sends if send[5] == "ok"])
        if tables.acked and not any(final[0] >= tables.acked[-1][0] for final in finals):
            self.unfinished.append(key)
        for number, seconds in gaps.after_faults(pauses, self.faults).items():
            self.fault_gaps[number][key] = round(seconds * 1000, 3)
        entry: dict[str, Any] = {
            "acked": acked,
            # Of so many acknowledged sends it is known in which epoch, and by whom, they were answered.
            "epochs_known": sum([send[7] is not None for send in tables.sends if send[5] == "ok"]),
            "leaders_known": sum([send[8] is not None for send in tables.sends if send[5] == "ok"]),
            "read": len(tables.seen),
            "log": len(tables.order),
            "gap_ms": gaps.percentiles([end - start for start, end in pauses]),
            "realtime_lag_ms": gaps.percentiles(gaps.lags(tables)),
            "unseen": logs.unseen_series(tables),
        }
        if counts := gaps.consumed(tables, self.processes):
            entry["consume_counts"] = counts
        self.keys[key] = entry

    @property
    def valid(self) -> bool | None:
        """Strict: false with a fault, None where the history does not reach the end of a key, else true."""
        if self.findings.strict:
            return False
        return None if self.unfinished else True


def judge_ops(ops: Iterable[Op], config: Config | None = None) -> Judgement:
    """Judges operations at hand."""
    events = History()
    for op in ops:
        events.add(op)
    return Judgement(events, config or msgspec.convert(events.config, Config))


def judge_files(
    paths: list[Path], config: Config | None = None, *, shard_bytes: int = history.SHARD_BYTES
) -> Judgement:
    """Judges the files of one run; a history larger than a shard is split by key into temporary files.

    Raises HistoryError where a line is not one, OSError where a file is not there.
    """
    directory = tempfile.mkdtemp(prefix="checker-")
    enabled = gc.isenabled()
    try:
        events = history.load(paths, directory, shard_bytes=shard_bytes)
        gc.disable()
        return Judgement(events, config or msgspec.convert(events.config, Config))
    finally:
        if enabled:
            gc.enable()
        shutil.rmtree(directory)


def slice_around(finding: Finding, ops: Iterable[tuple[int, Op]], reach: int = 3) -> list[dict[str, Any]]:
    """The operations a finding names, and of all others what touches its key within ``reach`` offsets or its values."""
    near = {offset + step for offset in finding.offsets for step in range(-reach, reach + 1)}
    shown: list[dict[str, Any]] = []
    for number, op in ops:
        value = op.value
        if op.f in ("send", "poll", "txn"):
            value = [part for micro in op.value if (part := _near(micro, finding, near))]
            if not value and number not in finding.ops:
                continue
        elif number not in finding.ops:
            continue
        shown.append({"op": number, **_brief(op), "value": value})
    return sorted(shown, key=lambda one: (one["t_inv"], one["op"]))


def _near(micro: list[Any], finding: Finding, near: set[int]) -> list[Any] | None:
    if micro[0] == "send":
        offset, value = micro[2]
        return micro if micro[1] == finding.key and (offset in near or value in finding.values) else None
    records = [one for one in micro[1].get(finding.key, ()) if one[0] in near or one[1] in finding.values]
    return ["poll", {finding.key: records}] if records else None


def _brief(op: Op) -> dict[str, Any]:
    brief: dict[str, Any] = {"f": op.f, "type": op.type, "proc": op.proc, "t_inv": op.t_inv, "t_ret": op.t_ret}
    for name in ("reb", "member", "group", "epoch", "leader"):
        if getattr(op, name):
            brief[name] = getattr(op, name)
    return brief
