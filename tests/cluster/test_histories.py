"""The harness notices what it is there for: a damaged replica, a value nobody sent, an answer of a deposed leader."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from logeion.actors.controller.entries import pack_records
from logeion.actors.metadata import PartitionChanged, TopicCreated
from logeion.wire.records import Record, build_batch
from tests.checker.history import Op
from tests.checker.judge import judge_ops
from tests.cluster import epochs
from tests.cluster.actors import Processes, lives
from tests.cluster.chaos import Chaos
from tests.cluster.histories import Load, Run, batches
from tests.cluster.loads.common import History, Value, begun, read_value


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
    assert [(batch.base, batch.last) for batch, _ in found] == [(0, 2), (3, 3)]


def test_replicas_that_differ_in_one_byte_are_found(tmp_path: Path) -> None:
    whole = [one_batch(0, 3), one_batch(3, 1)]
    damaged = bytearray(whole[1])
    damaged[-1] ^= 1
    ops = []
    for number, parts in enumerate(([*whole], [whole[0], bytes(damaged)])):
        folder = replica(tmp_path / str(number), parts)
        found = [[batch.base, batch.last, digest, batch.epoch] for batch, digest in batches(folder)]
        raw = {"key": "t-0", "replica": number, "start": 0, "hw": 4, "batches": found}
        ops.append(Op("replica", "ok", 1, 1.0, 2.0, raw))
    assert set(judge_ops(ops).findings.strict) == {"split-replica"}
    ops[1].value["batches"] = ops[0].value["batches"]
    assert not judge_ops(ops).findings.strict


KEY = "t-0"


class Nodes:
    """Two replicas of a partition on disk, written as leaders write them, and the history of clients beside them."""

    def __init__(self, folder: Path) -> None:
        self.folders = [folder / "node-1", folder / "node-2"]
        for each in self.folders:
            (each / KEY).mkdir(parents=True)
        self.tail = epochs.Tail((number, KEY, each / KEY) for number, each in enumerate(self.folders, 1))
        self.values = Value(7, 100)
        self.ops: list[Op] = []
        self.log: list[list[int]] = []

    def metadata(self, *led: tuple[int, int]) -> None:
        """The metadata log: who led in which epoch."""
        records: list[Any] = [TopicCreated(topic_id="1" * 32, name="t")]
        for epoch, leader in led:
            change = PartitionChanged(
                topic_id="1" * 32,
                partition=0,
                replicas=[1, 2],
                isr=[1, 2],
                leader=leader,
                leader_epoch=epoch,
                partition_epoch=epoch,
            )
            records.append(change)
        for each in self.folders:
            path = each / epochs.METADATA / f"{0:020d}.log"
            path.parent.mkdir()
            data = pack_records(records, 0)
            path.write_bytes(bytes(8) + (len(data) + 4).to_bytes(4, "big") + bytes(4) + data)

    def append(self, node: int, offset: int, epoch: int, record: bytes) -> None:
        batch = build_batch([Record(0, 1_700_000_000_000, None, record)], leader_epoch=epoch)
        with (self.folders[node - 1] / KEY / f"{0:020d}.log").open("ab") as file:
            file.write(offset.to_bytes(8, "big") + batch[8:])
        self.tail.look()

    def acked(self, offset: int, t: float, epoch: int, *nodes: int, read: bool = True) -> None:
        """A record that these nodes have, acknowledged and, unless it gets lost, read in the end."""
        value, record = self.values.make()
        for node in nodes:
            self.append(node, offset, epoch, record)
        self.ops.append(Op("send", "ok", 7, t, t + 0.5, [["send", KEY, [offset, value]]]))
        if read:
            self.log.append([offset, value])

    def truncate(self, node: int) -> None:
        """The newest batch goes."""
        path = self.folders[node - 1] / KEY / f"{0:020d}.log"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - len(data) // (path.stat().st_size // SIZE)])
        self.tail.look()

    def history(self) -> list[Op]:
        """What a run writes after the load."""
        self.tail.end()
        ops, final = [*self.ops], set()
        for number, each in enumerate(self.folders, 1):
            found = list(batches(each / KEY))
            final |= {batch for batch, _ in found}
            raw = [[batch.base, batch.last, digest, batch.epoch] for batch, digest in found]
            whole = {"key": KEY, "replica": number, "start": 0, "hw": len(self.log), "batches": raw}
            ops.append(Op("replica", "ok", 1, 100.0, 101.0, whole))
        of = sorted(epochs.leaders(self.folders).get(KEY, ()))
        gone = self.tail.strays(KEY, final, dict(of))
        ops.append(Op("epochs", "ok", 1, 100.0, 101.0, {"key": KEY, "leaders": of, "gone": gone}))
        ops.append(Op("poll", "ok", 2, 90.0, 91.0, [["poll", {KEY: self.log}]]))
        ops.append(Op("final", "ok", 2, 80.0, 92.0, {KEY: [0, len(self.log)]}))
        return ops


SIZE = len(build_batch([Record(0, 1_700_000_000_000, None, Value(7, 100).make()[1])]))


def test_an_acknowledgement_of_a_deposed_leader_is_found_though_no_client_tells_the_epoch(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    nodes.metadata((1, 1), (2, 2))
    nodes.acked(0, 0.0, 1, 1, 2)
    nodes.acked(1, 10.0, 2, 2)
    # Node 1 was stopped, does not know it, and acknowledges what only itself has; then it follows node 2.
    nodes.acked(1, 20.0, 1, 1, read=False)
    nodes.truncate(1)
    with (nodes.folders[1] / KEY / f"{0:020d}.log").open("rb") as file:
        file.seek(SIZE)
        (nodes.folders[0] / KEY / f"{0:020d}.log").open("ab").write(file.read())
    judged = judge_ops(nodes.history())
    assert judged.findings.strict["zombie-ack"] == 1, judged.findings.kept
    (found,) = [one for one in judged.findings.kept if one.anomaly == "zombie-ack"]
    assert "epoch 1 after one of epoch 2" in found.note
    assert judged.keys[KEY]["epochs_known"] == judged.keys[KEY]["leaders_known"] == 3


def test_two_who_led_in_one_epoch_are_found(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    nodes.metadata((1, 1))
    nodes.acked(0, 0.0, 1, 1, 2)
    nodes.acked(1, 10.0, 1, 1, read=False)
    nodes.truncate(1)
    nodes.acked(1, 20.0, 1, 1, 2)
    notes = [one.note for one in judge_ops(nodes.history()).findings.kept if one.anomaly == "zombie-ack"]
    assert len(notes) == 1 and "both acknowledged in epoch 1" in notes[0]


def test_two_leaders_of_one_epoch_in_the_metadata_are_found(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    nodes.metadata((1, 1), (1, 2))
    nodes.acked(0, 0.0, 1, 1, 2)
    assert set(judge_ops(nodes.history()).findings.strict) == {"zombie-ack"}


def test_what_was_truncated_and_sent_again_is_no_anomaly(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    nodes.metadata((1, 1), (2, 2))
    nodes.acked(0, 0.0, 1, 1, 2)
    value, record = nodes.values.make()
    nodes.append(1, 1, 1, record)
    nodes.truncate(1)
    for node in (2, 1):
        nodes.append(node, 1, 2, record)
    nodes.ops.append(Op("send", "ok", 7, 5.0, 9.0, [["send", KEY, [1, value]]]))
    nodes.log.append([1, value])
    assert nodes.tail.gone[KEY], "the follower of the files has seen it go"
    judged = judge_ops(nodes.history())
    assert not judged.findings.found and judged.valid and judged.keys[KEY]["leaders_known"] == 2


def test_a_batch_that_is_written_in_part_counts_when_it_is_whole(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    path = nodes.folders[0] / KEY / f"{0:020d}.log"
    whole = one_batch(0, 3)
    path.write_bytes(whole[:-2])
    nodes.tail.look()
    path.write_bytes(whole + one_batch(3, 1)[:30])
    nodes.tail.look()
    path.write_bytes(b"")
    nodes.tail.look()
    assert not nodes.tail.gone[KEY], "none of it is a record of the loads"
    value, record = nodes.values.make()
    nodes.append(1, 0, 4, record)
    path.unlink()
    nodes.tail.look()
    assert [(one.value, one.batch.epoch, one.node) for one in nodes.tail.gone[KEY]] == [(value, 4, 1)]


def test_the_sends_of_a_client_that_was_killed_are_known(tmp_path: Path) -> None:
    history = History(tmp_path / "load-1.jsonl", 7)
    first, second = (Value(7, 100).make()[0] + number for number in range(2))
    t = history.begin(first, 0)
    history.write("send", "ok", 7, t, [["send", KEY, [0, first]]])
    history.begin(second, 1)
    history.close()
    with (tmp_path / "load-1.jsonl").open("ab") as file:
        file.write(b'{"f":"send","type":"o')
    load = Load.__new__(Load)
    load.history = tmp_path / "load-1.jsonl"
    assert load.whole_lines() == {first}
    assert load.history.read_bytes().count(b"\n") == 1
    assert [(one.value, one.partition) for one in begun(load.history)] == [(first, 0), (second, 1)]


class Unborn:
    """A cluster of which only the folders are asked for."""

    def __init__(self, folder: Path) -> None:
        self.nodes, self._folder = [1], folder

    def folder_of(self, node: int, key: str) -> Path:
        return self._folder / str(node) / key


@pytest.mark.parametrize(("lost", "valid"), [(False, "unknown"), (True, False)])
def test_a_run_that_does_not_come_to_its_end_is_told_with_its_cause(tmp_path: Path, lost: bool, valid: Any) -> None:
    cluster: Any = Unborn(tmp_path)
    run = Run(cluster, tmp_path, "t", 1)
    chaos = Chaos(cluster, run, seed=3)
    run.history.write("send", "ok", 7, time.monotonic(), [["send", KEY, [0, 1]]])
    run.history.write("poll", "ok", 8, time.monotonic(), [["poll", {KEY: [[0, 2 if lost else 1]]}]])
    run.end()
    outcome = chaos.failed(AssertionError("not healthy within 60.0 s: node 2"))
    assert outcome.valid == valid and outcome.acked == 1
    assert outcome.notes[0] == "ended by the start: not healthy within 60.0 s: node 2"


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
