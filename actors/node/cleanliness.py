"""Whether the last stop of this host was an orderly one, with all that was written on the disk. Blocking, but short.

The file ``clean-shutdown`` is left by the last act of a stop and taken away, durably, by the next start, before
anything is written: whoever finds it knows that not even a power cut has cost this directory anything.
"""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

from logeion.log.files import Files

log: logging.Logger = logging.getLogger(__name__)

NAME = "clean-shutdown"
_LIMIT = 4_096


def take(data_dir: Path, directory_id: str) -> bool:
    """Whether the stop before this start was clean. Asked again, the answer is no."""
    files, path = Files(), data_dir / NAME
    try:
        found = files.read_file(str(path), _LIMIT).decode("ascii", "replace").strip()
        path.unlink()
        files.sync_dir(str(data_dir))
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("%s: cannot be taken away: %s", path, error)
        return False
    return found == directory_id


def leave(data_dir: Path, directory_id: str) -> None:
    """All actors have ended well: sync what they wrote, and say so."""
    path = data_dir / NAME
    try:
        _sync_file_system(data_dir)
        files = Files()
        files.replace_file(str(path), f"{directory_id}\n".encode(), durable=True)
        files.sync_dir(str(data_dir))
    except OSError as error:
        log.warning("%s: cannot be written: %s", path, error)


def _sync_file_system(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)
