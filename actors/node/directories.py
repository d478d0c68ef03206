"""The directories of partitions that are gone: put aside by a rename, deleted at leisure. Blocking: not for the loop.

A directory is touched only if its ``partition.metadata`` names the topic that is meant: a new topic of the same name
uses the same directory name. What is deleted is first ``<topic id>-<partition>.deleted``; what cannot be used any more
and may be of use to a person is ``<topic id>-<partition>.failed``.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from logeion.log.checkpoints import LIMIT, decode_topic_id
from logeion.log.files import Files
from logeion.log.names import DELETED, METADATA
from logeion.wire.errors import MalformedError

log: logging.Logger = logging.getLogger(__name__)

STRAY, FAILED = ".stray", ".failed"
_PARTITION = re.compile(r"([a-zA-Z0-9._-]{1,249})-(\d{1,9})", re.ASCII)
_OURS = frozenset(("__cluster_metadata-0",))


class Found(NamedTuple):
    """A partition's directory."""

    path: Path
    topic_id: str
    partition: int


def put_aside(data_dir: Path, topic: str, topic_id: str, partition: int, suffix: str = DELETED) -> Path | None:
    """Rename a partition's directory; None if there is none of that topic. Raises ``OSError``."""
    path = data_dir / f"{topic}-{partition}"
    if not path.is_dir() or _topic_id(path) not in (topic_id, None):
        return None
    aside = data_dir / f"{topic_id}-{partition}{suffix}"
    if aside.exists():
        remove(aside)
    path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Delete a directory that was put aside; what cannot be deleted is logged, and tried again at the next start."""
    try:
        shutil.rmtree(path)
    except OSError as error:
        log.warning("%s: cannot be deleted: %s", path, error)


def leftovers(data_dir: Path) -> list[Path]:
    """Directories that were put aside by a predecessor."""
    return [path for path in data_dir.glob("*" + DELETED) if path.is_dir()]


def partitions(data_dir: Path) -> list[Found]:
    """All directories of partitions that say whose they are."""
    found = []
    for path in data_dir.iterdir():
        match = _PARTITION.fullmatch(path.name)
        if match is None or path.name in _OURS or not path.is_dir():
            continue
        topic_id = _topic_id(path)
        if topic_id is not None:
            found.append(Found(path, topic_id, int(match[2])))
    return found


def set_strays_aside(strays: Iterable[Found]) -> None:
    """Directories of topics that the cluster does not know: their names are freed, their bytes are kept."""
    for path, topic_id, partition in strays:
        aside = path.parent / f"{topic_id}-{partition}{STRAY}"
        try:
            path.rename(aside)
        except OSError as error:
            log.warning("%s: belongs to no topic, and cannot be set aside: %s", path, error)
        else:
            log.warning("%s: belongs to no topic of this cluster; set aside as %s", path, aside.name)


def _topic_id(path: Path) -> str | None:
    try:
        return decode_topic_id(Files().read_file(str(path / METADATA), LIMIT))
    except (OSError, MalformedError):
        return None
