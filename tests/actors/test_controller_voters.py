"""Who votes, written down for those who do not."""

from __future__ import annotations

from pathlib import Path

from logeion.actors.controller import voters
from logeion.actors.metadata import BrokerRegistered, ConfigChanged, MetadataImage


def image_of(*nodes: int) -> MetadataImage:
    image = MetadataImage()
    for node in nodes:
        image.apply(
            BrokerRegistered(
                node=node,
                incarnation="a",
                directory_id="d",
                host="h",
                port=1,
                broker_epoch=node,
                cluster_host=f"fe80::{node}",
                cluster_port=9645,
            )
        )
    return image


def test_the_log_says_who_votes_where_once_and_again_when_it_changes() -> None:
    image = image_of(1, 2, 3)
    first = voters.changes(image, (1, 2))
    image.apply_all(first)
    assert image.voters == {1: ("fe80::1", 9645), 2: ("fe80::2", 9645)}
    assert voters.changes(image, (1, 2)) == []
    image.apply_all(voters.changes(image, (2, 3)))
    assert image.voters == {2: ("fe80::2", 9645), 3: ("fe80::3", 9645)}
    assert image.restored(image.records()).voters == image.voters, "a snapshot keeps it"


def test_a_voter_that_is_not_registered_stays_where_it_was() -> None:
    image = image_of(1)
    image.apply(ConfigChanged(resource="quorum", name="2", key="address", value="elsewhere:1"))
    assert voters.changes(image, (1, 2)) == [
        ConfigChanged(resource="quorum", name="1", key="address", value="fe80::1:9645")
    ]


def test_they_are_found_again_at_the_next_start_and_a_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    assert voters.load(tmp_path) == {}
    known = {2: ("10.0.0.2", 9645), 11: ("fe80::b", 1)}
    voters.save(tmp_path, known)
    assert voters.load(tmp_path) == known
    for damage in ("", "{", '{"x": ["a", 1]}', "[]"):
        (tmp_path / voters.NAME).write_text(damage)
        assert voters.load(tmp_path) == {}
    voters.save(tmp_path / "not there", known)
