"""The history of a run: one JSON object a line, one line a completed operation, read into per-partition events.

A line is ``{i, proc, f, type, t_inv, t_ret, value}`` and, where they apply, ``reb, gen, member, group, epoch, leader``.
Times are seconds of CLOCK_MONOTONIC, ``proc`` is unique over all files, ``i`` orders what a process asked at one time.

* ``send``, ``poll``, ``txn``: ``value`` is a list of ``["send", key, [offset | null, v]]`` and
  ``["poll", {key: [[offset, v], …]}]``; ``v`` null is a record whose payload failed its own checksum.
  ``epoch`` and ``leader`` (key -> number) say who answered a send; ``reb`` lists keys that changed hands meanwhile.
* ``assign``, ``subscribe``: a list of keys. ``seek``: a list of keys, or an object with a position for each.
* ``list_end``: key -> end offset. ``commit`` (``reset`` true where it may go back) and ``committed`` (read back):
  key -> position, with ``group``, ``gen``, ``member``.
* ``final``: key -> [log start, end]: between t_inv and t_ret this process read the key from its beginning to the end
  (its polls are lines of their own). A key that was compacted or holds control records gives the explained gaps as a
  third element: [[first, last], …].
* ``own``: the keys that a member of ``group`` has begun to own, in ``gen`` where its client shows it; ``disown``: those
  it has no more. A member that says nothing owns them to the end.
* ``replica``: ``{key, replica, start, hw, batches: [[base, last, digest, epoch], …]}``: one replica's raw log, after
  healing; the epoch may be left out.
* ``epochs``: ``{key, leaders: [[epoch, node], …], gone: [[offset, v, epoch, node | null], …]}``: who led when, as the
  cluster's metadata log says, and what stood in a replica's raw log once and does no more. Who answered a send that
  does not say it follows: the epoch is that of the batch that holds its value, the leader is that of the epoch.
* ``fault``: what was done to the cluster; an object has ``what`` and may have ``majority: false``.
* ``config``: the fields of `tests.checker.verdict.Config`. ``crash``: the process ends here.

``type`` is ok (acknowledged), fail (surely not appended) or info (not known).
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

Value: TypeAlias = "int | str"
# (t_inv, i, op, t_ret, proc, type, [[offset, v], …], epoch | None, leader | None)
Send: TypeAlias = "tuple[float, int, int, float, int | str, str, list[list[Any]], int | None, int | str | None]"
# (t_inv, i, op, t_ret, proc, type, [[offset, v], …], rebalanced, group, generation)
Poll: TypeAlias = "tuple[float, int, int, float, int | str, str, list[list[Any]], bool, str, int]"

SENDS, POLLS, ENDS, COMMITS, COMMITTED, FINALS, REPLICAS, SEEKS, OWNED, EPOCHS = range(KINDS := 10)
# What one shard may hold of the input, in bytes; a decoded operation takes about four times its line.
SHARD_BYTES = 64 << 20
SPILL_EVENTS = 50_000


def no_events() -> tuple[list[Any], ...]:
    """What a key has before its first event: a list for each kind."""
    return tuple([] for _ in range(KINDS))


class HistoryError(Exception):
    """The history is not one: says the file, the line, and what is wrong with it."""


class Op(msgspec.Struct, gc=False):
    """One line."""

    f: str
    type: str = "ok"
    proc: int | str = 0
    t_inv: float = 0.0
    t_ret: float = 0.0
    value: Any = None
    i: int = 0
    reb: list[str] = []
    gen: int = -1
    member: str = ""
    group: str = ""
    epoch: dict[str, int] | None = None
    leader: dict[str, int | str] | None = None
    reset: bool = False


class Fault(NamedTuple):
    """Something that was done to the cluster."""

    t: float
    until: float
    what: str
    majority: bool


class Assigned(NamedTuple):
    """A process chose its keys."""

    t: float
    proc: int | str
    keys: frozenset[str]
    subscribed: bool


Events: TypeAlias = "dict[str, tuple[list[Any], ...]]"


class History:
    """Events of each key, in shards that are held in memory one at a time, and the little that concerns every key."""

    def __init__(self, shards: int = 1, directory: Path | None = None) -> None:
        self.operations = 0
        self.faults: list[Fault] = []
        self.assigned: list[Assigned] = []
        self.config: dict[str, Any] = {}
        self.began: dict[int | str, float] = {}
        # An operation with several sends, or with a send and a poll: only these can close a cycle.
        self.rich: dict[int, tuple[float, float, int | str]] = {}
        self.rich_polls: dict[int, list[tuple[str, Value]]] = {}
        # An unanswered operation that wrote to several keys is committed everywhere if it is seen anywhere.
        self.unsure: set[int] = set()
        self.shards = shards
        self._directory = directory
        self._held: list[Events] = [{} for _ in range(shards)]
        self._count = 0

    def add(self, op: Op) -> None:
        """Takes one operation apart; operations are numbered in the order of this call, from 0."""
        number = self.operations
        self.operations += 1
        try:
            self._add(op, number)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise HistoryError(f"operation {number} ({op.f} of process {op.proc}, i {op.i}): {error!r}") from error

    def _add(self, op: Op, number: int) -> None:
        f = op.f
        if f == "send" or f == "poll" or f == "txn":
            if op.proc not in self.began:
                self.began[op.proc] = op.t_inv
            self._add_data(op, number)
        elif f == "assign" or f == "subscribe":
            self.began.setdefault(op.proc, op.t_inv)
            if op.type != "fail":
                self.assigned.append(Assigned(op.t_inv, op.proc, frozenset(op.value), f == "subscribe"))
        elif f == "fault":
            value = op.value if isinstance(op.value, dict) else {"what": str(op.value)}
            self.faults.append(
                Fault(op.t_inv, op.t_ret, str(value.get("what", "")), value.get("majority", True) is not False)
            )
        elif f == "config":
            self.config |= op.value
        elif f != "crash":
            self._add_control(op, number)

    def _add_data(self, op: Op, number: int) -> None:
        value = op.value
        group = op.group
        rebalanced = op.reb
        if len(value) == 1 and not rebalanced:
            micro = value[0]
            if micro[0] == "send":
                self._add_sends(op, number, micro[1], [micro[2]])
                return
            if len(micro[1]) == 1:
                for key, records in micro[1].items():
                    event = (op.t_inv, op.i, number, op.t_ret, op.proc, op.type, records, False, group, op.gen)
                    self._put(POLLS, key, event)
                return
        sends: dict[str, list[list[Any]]] = {}
        polls: dict[str, list[list[Any]]] = {key: [] for key in rebalanced}
        for micro in value:
            if micro[0] == "send":
                sends.setdefault(micro[1], []).append(micro[2])
            else:
                for key, records in micro[1].items():
                    polls.setdefault(key, []).extend(records)
        for key, pairs in sends.items():
            self._add_sends(op, number, key, pairs)
        for key, records in polls.items():
            event = (op.t_inv, op.i, number, op.t_ret, op.proc, op.type, records, key in rebalanced, group, op.gen)
            self._put(POLLS, key, event)
        if sends and op.type != "fail" and (len(value) > 1):
            self.rich[number] = (op.t_inv, op.t_ret, op.proc)
            self.rich_polls[number] = [(key, v) for key, records in polls.items() for _, v in records]
        if len(sends) > 1 and op.type == "info":
            self.unsure.add(number)

    def _add_sends(self, op: Op, number: int, key: str, pairs: list[list[Any]]) -> None:
        epoch = op.epoch.get(key) if op.epoch else None
        leader = op.leader.get(key) if op.leader else None
        self._put(SENDS, key, (op.t_inv, op.i, number, op.t_ret, op.proc, op.type, pairs, epoch, leader))

    def _add_control(self, op: Op, number: int) -> None:
        head = (op.t_inv, op.i, number, op.t_ret, op.proc)
        if op.f == "seek":
            for key in op.value:
                self._put(SEEKS, key, head)
        elif op.f == "commit":
            for key, position in op.value.items():
                self._put(COMMITS, key, (*head, op.type, position, op.group, op.gen, op.member, op.reset))
        elif op.type != "ok":
            return
        elif op.f == "own" or op.f == "disown":
            for key in op.value:
                self._put(OWNED, key, (*head, op.group, op.gen, op.member, op.f == "own"))
        elif op.f == "epochs":
            self._put(EPOCHS, op.value["key"], (*head, op.value["leaders"], op.value["gone"]))
        elif op.f == "list_end":
            for key, end in op.value.items():
                self._put(ENDS, key, (*head, end))
        elif op.f == "committed":
            for key, position in op.value.items():
                self._put(COMMITTED, key, (*head, position, op.group))
        elif op.f == "final":
            for key, (start, end, *gaps) in op.value.items():
                self._put(FINALS, key, (*head, start, end, gaps[0] if gaps else []))
        elif op.f == "replica":
            raw = op.value
            self._put(REPLICAS, raw["key"], (*head, raw["replica"], raw["start"], raw["hw"], raw["batches"]))
        else:
            raise HistoryError(f"unknown f {op.f!r}: it is a field of every line, see tests/checker/history.py")

    def _put(self, kind: int, key: str, event: tuple[Any, ...]) -> None:
        held = self._held[hash(key) % self.shards] if self.shards > 1 else self._held[0]
        events = held.get(key)
        if events is None:
            events = held[key] = no_events()
        events[kind].append(event)
        if self._directory is not None:
            self._count += 1
            if self._count >= SPILL_EVENTS:
                self.spill()

    def spill(self) -> None:
        """Moves what is held to the shards' files."""
        if self._directory is None:
            return
        encoder = msgspec.msgpack.Encoder()
        for number, held in enumerate(self._held):
            with open(self._directory / str(number), "ab") as file:
                for key, events in held.items():
                    block = encoder.encode((key, events))
                    file.write(len(block).to_bytes(8, "big") + block)
            held.clear()
        self._count = 0

    def load(self, shard: int) -> Events:
        """The events of every key of this shard, each kind in the order of invocation."""
        events = self._held[shard]
        if self._directory is not None:
            events = {}
            for key, part in self._blocks(self._directory / str(shard)):
                whole = events.setdefault(key, no_events())
                for mine, more in zip(whole, part, strict=True):
                    mine.extend(more)
        for kinds in events.values():
            for kind in kinds:
                kind.sort(key=_invoked)
        return events

    @staticmethod
    def _blocks(path: Path) -> Iterator[tuple[str, list[list[Any]]]]:
        decoder = msgspec.msgpack.Decoder(tuple[str, list[list[Any]]])
        if not path.exists():
            return
        with open(path, "rb") as file:
            while size := file.read(8):
                yield decoder.decode(file.read(int.from_bytes(size, "big")))


def _invoked(event: tuple[float, int, int]) -> tuple[float, int, int]:
    return event[0], event[1], event[2]


def read(paths: Iterable[Path]) -> Iterator[Op]:
    """Every operation of every file in turn; raises HistoryError where a line is not one."""
    decode = msgspec.json.Decoder(Op).decode
    for path in paths:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    op = decode(line)
                except msgspec.DecodeError as error:
                    raise HistoryError(f"{path}:{number}: {error}") from error
                yield op


def load(paths: list[Path], directory: str | None, *, shard_bytes: int = SHARD_BYTES) -> History:
    """All files; with more input than one shard may hold the events wait in files of ``directory``."""
    total = sum(path.stat().st_size for path in paths)
    shards = max(1, -(-total // shard_bytes))
    if shards > 1:
        history = History(shards, Path(tempfile.mkdtemp(dir=directory)))
    else:
        history = History()
    # Millions of small tuples and no cycle: every pass of the collector over them is lost time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        for op in read(paths):
            history.add(op)
        history.spill()
    finally:
        if enabled:
            gc.enable()
    return history
