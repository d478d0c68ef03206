"""The metadata log of a quorum of one: committed is synced, a restart reads it back, a snapshot trims it."""

from __future__ import annotations

from pathlib import Path

import pytest

from logeion.actors.controller.alone import DIRECTORY, QuorumOfOne
from logeion.actors.controller.quorum import Commit
from logeion.actors.metadata import ClusterCreated, MetadataImage, MetadataRecord, ProducerIdsReserved, TopicCreated
from logeion.errors import StorageError
from logeion.log.files import Files


def quorum(tmp_path: Path, snapshot_bytes: int = 10_000_000, files: Files | None = None) -> QuorumOfOne:
    return QuorumOfOne(tmp_path, now_ms=lambda: 1_700_000_000_000, snapshot_bytes=snapshot_bytes, files=files)


def propose(log: QuorumOfOne, *records: MetadataRecord) -> Commit:
    commits: list[Commit] = []
    log.propose(records, commits.append)
    [commit] = commits
    return commit


def topic(number: int) -> TopicCreated:
    return TopicCreated(topic_id=f"{number:032x}", name=f"topic-{number}")


def replayed(commits: list[Commit]) -> MetadataImage:
    image = MetadataImage()
    for commit in commits:
        image.apply_all(commit.records)
    return image


def test_what_was_committed_is_read_back_in_order(tmp_path: Path) -> None:
    log = quorum(tmp_path)
    assert log.open() == []
    assert propose(log, ClusterCreated(cluster_id="c")) == Commit(0, [ClusterCreated(cluster_id="c")], 1)
    assert propose(log, topic(1), topic(2)).next_offset == 3
    assert log.committed == log.end_offset == 3
    log.close()
    again = quorum(tmp_path)
    assert again.open() == [Commit(0, [ClusterCreated(cluster_id="c"), topic(1), topic(2)], 3)]
    assert propose(again, topic(3)).offset == 3
    again.close()


def test_each_start_has_a_leader_epoch_of_its_own(tmp_path: Path) -> None:
    epochs = []
    for number in range(3):
        log = quorum(tmp_path)
        log.open()
        epochs.append(log.log.epoch)
        propose(log, topic(number))
        log.close()
    assert epochs == sorted(set(epochs))


def test_two_controllers_cannot_have_one_log(tmp_path: Path) -> None:
    log = quorum(tmp_path)
    log.open()
    with pytest.raises(StorageError):
        quorum(tmp_path).open()
    log.close()


def test_a_snapshot_trims_the_log_and_a_start_reads_both(tmp_path: Path) -> None:
    log = quorum(tmp_path, snapshot_bytes=20_000)
    log.open()
    image = MetadataImage()
    taken = 0
    for number in range(600):
        image.apply_all(propose(log, topic(number), ProducerIdsReserved(next_id=number + 1)).records)
        taken += log.compact(image.records)
    assert taken > 1
    assert log.log.size < 20_000 + 1_000
    assert len(list((tmp_path / DIRECTORY).glob("*.checkpoint"))) == 1
    log.close()
    again = quorum(tmp_path)
    commits = again.open()
    assert commits[0].snapshot and commits[0].next_offset == commits[1].offset
    assert commits[-1].next_offset == 1200
    assert replayed(commits).records() == image.records()
    again.close()


def test_a_crash_between_the_snapshot_and_the_trim_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    class Disk(Files):
        stopping = False

        def sync_dir(self, path: str) -> None:
            super().sync_dir(path)
            if self.stopping:
                raise Stopped

    disk = Disk()
    log = quorum(tmp_path, snapshot_bytes=1, files=disk)
    log.open()
    image = MetadataImage()
    for number in range(5):
        image.apply_all(propose(log, topic(number)).records)
    disk.stopping = True
    with pytest.raises(Stopped):
        log.compact(image.records)
    disk.stopping = False
    log.log.close(clean=False)
    again = quorum(tmp_path)
    commits = again.open()
    assert [commit.snapshot for commit in commits] == [True]
    assert replayed(commits).records() == image.records()
    assert again.end_offset == 5
    again.close()


def test_a_snapshot_that_is_gone_is_missed(tmp_path: Path) -> None:
    log = quorum(tmp_path, snapshot_bytes=1)
    log.open()
    propose(log, topic(1))
    assert log.compact(lambda: [topic(1)])
    log.close()
    [snapshot] = (tmp_path / DIRECTORY).glob("*.checkpoint")
    snapshot.unlink()
    with pytest.raises(StorageError, match="snapshot"):
        quorum(tmp_path).open()


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    log = quorum(tmp_path, snapshot_bytes=1)
    log.open()
    propose(log, topic(1))
    assert log.compact(lambda: [topic(1)])
    log.close()
    [snapshot] = (tmp_path / DIRECTORY).glob("*.checkpoint")
    data = bytearray(snapshot.read_bytes())
    data[-1] ^= 1
    snapshot.write_bytes(data)
    with pytest.raises(StorageError, match="checkpoint"):
        quorum(tmp_path).open()


def test_a_torn_last_proposal_is_cut_whole(tmp_path: Path) -> None:
    log = quorum(tmp_path)
    log.open()
    propose(log, topic(1))
    propose(log, topic(2), topic(3))
    log.log.close(clean=False)
    [file] = (tmp_path / DIRECTORY).glob("*.log")
    with file.open("r+b") as segment:
        segment.truncate(file.stat().st_size - 3)
    again = quorum(tmp_path)
    assert again.open() == [Commit(0, [topic(1)], 1)]
    again.close()


def test_a_sync_that_fails_is_never_committed(tmp_path: Path) -> None:
    class Disk(Files):
        failing = False

        def fdatasync(self, fd: int) -> None:
            if self.failing:
                raise OSError(5, "Input/output error")
            super().fdatasync(fd)

    disk = Disk()
    log = quorum(tmp_path, files=disk)
    log.open()
    propose(log, topic(1))
    disk.failing = True
    commits: list[Commit] = []
    with pytest.raises(StorageError):
        log.propose([topic(2)], commits.append)
    assert commits == []
