"""What the command takes before it starts anything: the data directory. The ports are in ``ports.py``."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path

from logeion.wire.errors import LogeionError

META = "meta.properties"
# In the directory that holds the directories of several nodes, in META's place.
NODES = "nodes.json"
# Held by the command alone, and by every process of its tree.
LOCK, TREE_LOCK = ".lock", ".tree"

# How long the processes of a command that was killed may take to end.
REMAINS_S = 5.0


class StartError(LogeionError):
    """The node cannot start; the message says why, ``hint`` what to try."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Claim:
    """The locks on a data directory; both end with their last holder, however it ends.

    ``tree`` is inherited by every process of the tree: who has it knows that nothing of an earlier tree still runs.
    """

    lock: int
    tree: int

    def __init__(self, lock: int, tree: int) -> None:
        self.lock, self.tree = lock, tree

    def release(self) -> None:
        """Give the directory up."""
        os.close(self.tree)
        os.close(self.lock)


def claim(directory: Path, fresh: bool, mark: str = META) -> Claim:
    """The data directory, made if need be, erased if ``fresh``, with an empty ``run/``. Raises ``StartError``.

    ``mark`` is the file by which one of this kind is known: META for a node's, NODES for that of several.
    """
    if not fresh and (directory / (NODES if mark == META else META)).exists():
        raise StartError(
            f"{directory} holds the data of {'several nodes' if mark == META else 'a single node'}",
            f"logeion up {'with the same -n' if mark == META else 'without -n'}, name another --data, or --fresh "
            "to erase what is there",
        )
    if fresh and directory.is_dir() and not any((directory / name).exists() for name in (META, NODES)):
        foreign = sorted(entry.name for entry in directory.iterdir() if entry.name not in (LOCK, TREE_LOCK, "run"))
        if foreign:
            raise StartError(
                f"{directory} has no {mark}, but {foreign[0]}: it is not a data directory of Logeion",
                "name another --data, or remove the directory yourself",
            )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _open(directory / LOCK)
        tree = _open(directory / TREE_LOCK)
    except OSError as error:
        raise StartError(
            f"{error.filename}: {error.strerror}", "name a --data directory that this user can write"
        ) from error
    if not _lock(lock):
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        raise StartError(
            f"{directory} is in use by another logeion (pid {holder or 'unknown'})",
            "stop that one, or name another --data",
        )
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    deadline = time.monotonic() + REMAINS_S
    while not _lock(tree):
        if time.monotonic() > deadline:
            raise StartError(
                f"{directory}: processes of an earlier run do not end", f"fuser -v {directory / TREE_LOCK} names them"
            )
        time.sleep(0.002)
    try:
        _prepare(directory, fresh)
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}", "make it writable for this user") from error
    return Claim(lock, tree)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _prepare(directory: Path, fresh: bool) -> None:
    if fresh:
        # The file that makes the directory ours goes last: an interrupted erasure can be repeated.
        for entry in sorted(directory.iterdir(), key=lambda one: one.name in (META, NODES)):
            if entry.name in (LOCK, TREE_LOCK):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    run_dir = directory / "run"
    run_dir.mkdir(mode=0o700, exist_ok=True)
    run_dir.chmod(0o700)
    clear_run(run_dir)


def clear_run(run_dir: Path) -> None:
    """Remove the sockets, notes and scratch folders of a tree that is gone."""
    for stale in run_dir.iterdir():
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink(missing_ok=True)
