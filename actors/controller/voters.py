"""Who votes and where, for those without a vote: as records of the metadata log, and in a file for the next start.

The quorum keeps its voters in entries of its own, which only voters read, and without addresses. The others find voters
by ``cluster.voters``, which may be years old: all of its nodes may have been replaced one by one. So whoever leads
writes the set into the metadata log once it has been changed, and every node keeps what it read last in a file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from logeion.log.files import Files

from ..metadata import ADDRESS, QUORUM, ConfigChanged, MetadataImage

log: logging.Logger = logging.getLogger(__name__)

NAME = "quorum-voters"
_LIMIT = 65_536

Addresses = dict[int, tuple[str, int]]


def changes(image: MetadataImage, voters: Sequence[int]) -> list[ConfigChanged]:
    """What the metadata log does not say yet of these voters and of the addresses that they have registered."""
    now = {
        voter: (broker.cluster_host, broker.cluster_port)
        for voter in sorted(voters)
        if (broker := image.brokers.get(voter)) is not None and broker.cluster_port
    }
    found = [
        ConfigChanged(resource=QUORUM, name=str(voter), key=ADDRESS, value=f"{host}:{port}")
        for voter, (host, port) in now.items()
        if image.voters.get(voter) != (host, port)
    ]
    # One that votes and is not registered any more is still where it was.
    gone = [voter for voter in sorted(image.voters) if voter not in voters]
    return found + [ConfigChanged(resource=QUORUM, name=str(voter), key=ADDRESS, value=None) for voter in gone]


def to_follow(me: int, known: Iterable[int], configured: Iterable[int], registered: Iterable[int]) -> list[int]:
    """Whom a node without a vote asks for the metadata log: who votes as far as it knows, who did at first, then all.

    All of the first two kinds may have been replaced while it was away for a moment; who has no vote refuses at once.
    """
    return [node for node in dict.fromkeys((*known, *configured, *sorted(registered))) if node != me]


def load(data_dir: Path, files: Files | None = None) -> Addresses:
    """What was saved last; nothing if there is no such file, or it is damaged: ``cluster.voters`` is left."""
    path = data_dir / NAME
    try:
        found = msgspec.json.decode((files or Files()).read_file(str(path), _LIMIT), type=dict[str, tuple[str, int]])
        return {int(voter): address for voter, address in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s: cannot be read, and only cluster.voters is known: %s", path, error)
        return {}


def save(data_dir: Path, voters: Mapping[int, tuple[str, int]], files: Files | None = None) -> None:
    """For the next start. A disk that refuses costs only this."""
    path = data_dir / NAME
    try:
        text = msgspec.json.encode({str(voter): address for voter, address in sorted(voters.items())})
        (files or Files()).replace_file(str(path), text, durable=True)
    except OSError as error:
        log.warning("%s: cannot be written: %s", path, error)
