"""What a node keeps at the root of its data directory, and what it puts aside there."""

from __future__ import annotations

from pathlib import Path

import pytest

from logeion.actors.node import cleanliness, directories, identity
from logeion.errors import ConfigError, StorageError
from logeion.log.checkpoints import encode_topic_id

ONE, TWO = "1" * 32, "2" * 32


def partition(data_dir: Path, name: str, topic_id: str) -> Path:
    path = data_dir / name
    path.mkdir()
    (path / "partition.metadata").write_bytes(encode_topic_id(topic_id))
    (path / f"{0:020d}.log").write_bytes(b"x")
    return path


def test_an_identity_is_made_once_and_joins_one_cluster(tmp_path: Path) -> None:
    made = identity.load(tmp_path, 1, "d1")
    assert made == identity.Identity(node=1, directory_id="d1")
    joined = identity.joined(tmp_path, made, "c")
    assert identity.load(tmp_path, 1, "other") == joined == identity.Identity(node=1, directory_id="d1", cluster_id="c")
    with pytest.raises(ConfigError, match="cluster c"):
        identity.joined(tmp_path, joined, "another")


def test_the_data_of_another_node_is_refused(tmp_path: Path) -> None:
    identity.load(tmp_path, 1, "d1")
    with pytest.raises(ConfigError, match="node 1"):
        identity.load(tmp_path, 2, "d2")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("version=1\ncluster.id=c\nnode.id=1\ndirectory.id=d\n", ConfigError),
        ("version=1\nnode.id=1\ndirectory.id=d\nlogeion.format=2\n", ConfigError),
        ("version=0\nbroker.id=1\n", StorageError),
        ("", StorageError),
    ],
)
def test_data_of_another_broker_or_a_newer_release_is_refused(tmp_path: Path, text: str, kind: type[Exception]) -> None:
    (tmp_path / "meta.properties").write_text(text)
    with pytest.raises(kind, match=r"meta\.properties"):
        identity.load(tmp_path, 1, "d")


def test_a_deleted_partition_is_put_aside_and_removed(tmp_path: Path) -> None:
    partition(tmp_path, "orders-0", ONE)
    aside = directories.put_aside(tmp_path, "orders", ONE, 0)
    assert aside is not None and aside.is_dir()
    assert not (tmp_path / "orders-0").exists()
    assert directories.leftovers(tmp_path) == [aside]
    directories.remove(aside)
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_new_topic_of_that_name_is_left_alone(tmp_path: Path) -> None:
    path = partition(tmp_path, "orders-0", TWO)
    assert directories.put_aside(tmp_path, "orders", ONE, 0) is None
    assert directories.put_aside(tmp_path, "orders", ONE, 1) is None
    assert path.is_dir()


def test_strays_are_found_by_their_topic_and_keep_their_bytes(tmp_path: Path) -> None:
    path = partition(tmp_path, "a-b-7", ONE)
    (tmp_path / "run").mkdir()
    (tmp_path / "notes-1").mkdir()
    partition(tmp_path, "__cluster_metadata-0", TWO)
    [found] = directories.partitions(tmp_path)
    assert found == directories.Found(path, ONE, 7)
    directories.set_strays_aside([found])
    assert not path.exists()
    assert (tmp_path / f"{ONE}-7.stray" / f"{0:020d}.log").read_bytes() == b"x"


def test_a_failed_directory_is_kept_under_another_name_and_the_next_replaces_it(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        partition(tmp_path, "orders-0", ONE).joinpath("note").write_bytes(content)
        aside = directories.put_aside(tmp_path, "orders", ONE, 0, directories.FAILED)
        assert aside is not None and aside.name == f"{ONE}-0.failed"
        assert aside.joinpath("note").read_bytes() == content
    assert not directories.leftovers(tmp_path), "nothing of it is deleted at the next start"


def test_a_clean_stop_is_told_once_and_only_of_this_directory(tmp_path: Path) -> None:
    assert not cleanliness.take(tmp_path, "d1")
    cleanliness.leave(tmp_path, "d1")
    assert cleanliness.take(tmp_path, "d1")
    assert not cleanliness.take(tmp_path, "d1"), "a crash after this start is no clean stop"
    cleanliness.leave(tmp_path, "d2")
    assert not cleanliness.take(tmp_path, "d1"), "that was another's"
