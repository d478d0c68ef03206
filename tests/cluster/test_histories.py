"""The harness notices what it is there for: a replica's damaged byte, a value that nobody sent."""

from __future__ import annotations

import os
from pathlib import Path

from logeion.wire.records import Record, build_batch
from tests.checker.history import Op
from tests.checker.judge import judge_ops
from tests.cluster.actors import Processes, lives
from tests.cluster.histories import batches
from tests.cluster.loads.common import Value, read_value


def replica(folder: Path, parts: list[bytes]) -> Path:
    folder.mkdir()
    (folder / f"{0:020d}.log").write_bytes(b"".join(parts))
    return folder


def one_batch(base: int, count: int) -> bytes:
    records = [Record(number, 1_700_000_000_000, None, b"value") for number in range(count)]
    return base.to_bytes(8, "big") + build_batch(records)[8:]


def test_every_whole_batch_of_a_log_is_read_and_a_torn_one_is_not(tmp_path: Path) -> None:
    whole = [one_batch(0, 3), one_batch(3, 1)]
    found = list(batches(replica(tmp_path / "a", [*whole, one_batch(4, 9)[:-1]])))
    assert [(base, last) for base, last, _ in found] == [(0, 2), (3, 3)]


def test_replicas_that_differ_in_one_byte_are_found(tmp_path: Path) -> None:
    whole = [one_batch(0, 3), one_batch(3, 1)]
    damaged = bytearray(whole[1])
    damaged[-1] ^= 1
    ops = []
    for number, parts in enumerate(([*whole], [whole[0], bytes(damaged)])):
        found = list(batches(replica(tmp_path / str(number), parts)))
        raw = {"key": "t-0", "replica": number, "start": 0, "hw": 4, "batches": found}
        ops.append(Op("replica", "ok", 1, 1.0, 2.0, raw))
    assert set(judge_ops(ops).findings.strict) == {"split-replica"}
    ops[1].value["batches"] = ops[0].value["batches"]
    assert not judge_ops(ops).findings.strict


def test_a_value_is_read_back_and_a_damaged_one_is_not() -> None:
    value, record = Value(7, 100).make()
    assert (value, len(record)) == (7 << 40, 100)
    assert read_value(record) == value
    assert read_value(record[:3] + b"x" + record[4:]) is None
    assert read_value(b"") is None and read_value(None) is None


def test_a_process_is_told_from_a_later_one_of_the_same_number() -> None:
    pid, now = os.getpid(), Processes()
    assert pid in now.below(os.getppid())
    assert lives(pid, now.started(pid))
    assert not lives(pid, now.started(pid) + 1)
