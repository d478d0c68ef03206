"""What the command takes before it starts anything: the data directory, and the ports."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import socket
import time
from pathlib import Path

import msgspec

from logeion.wire.errors import ConfigError, LogeionError

from .config import Config, show_address
from .gateway.listening import bind

META = "meta.properties"
# In the directory that holds the directories of several nodes, in META's place.
NODES = "nodes.json"
# Held by the command alone, and by every process of its tree.
LOCK, TREE_LOCK = ".lock", ".tree"

# How long the processes of a command that was killed may take to end.
REMAINS_S = 5.0

# Ports for those who ask for "any" lie below what the kernel gives to outgoing connections: nobody takes them by
# chance while the one who listens there restarts.
PORT_MIN, PORT_TRIES = 15_000, 200


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
    """Remove the sockets and notes of a tree that is gone."""
    for stale in run_dir.iterdir():
        stale.unlink(missing_ok=True)


def settle_ports(config: Config) -> Config:
    """The configuration with ports that were just now proved free, by an exclusive bind of all addresses.

    Settled here and not where they are served, so that a restart of the whole tree comes back where clients look for
    it. Raises ``ConfigError`` that names the address and what to do.
    """
    listeners = msgspec.structs.replace(config.listeners, port=_free(config.listeners.bind, config.listeners.port))
    http = msgspec.structs.replace(
        config.http, port=_free(config.http.bind, config.http.port, but=(listeners.port,), setting="--admin-port")
    )
    taken = (listeners.port, http.port)
    cluster = config.cluster
    if cluster.voters:
        cluster = msgspec.structs.replace(
            cluster, port=_free([cluster.bind], cluster.port, but=taken, setting="cluster.port")
        )
    return msgspec.structs.replace(config, listeners=listeners, http=http, cluster=cluster)


def _free(addresses: list[str], port: int, *, but: tuple[int, ...] = (), setting: str = "--port") -> int:
    if port:
        if port in but:
            raise ConfigError(f"port {port} is meant for two purposes; choose another {setting}")
        _probe(addresses, port)
        return port
    top = _first_ephemeral()
    for _ in range(PORT_TRIES):
        candidate = random.randrange(min(PORT_MIN, top - 1000), top)
        if candidate in but:
            continue
        try:
            _probe(addresses, candidate)
        except ConfigError:
            continue
        return candidate
    # Either everything is taken, or the addresses are not ours; the ordinary attempt says which.
    _probe(addresses, 0)
    raise ConfigError(f"found no port that is free on all of {', '.join(addresses)}; choose one with {setting}")


def _probe(addresses: list[str], port: int) -> None:
    for sock in bind(addresses, port):
        sock.close()


def _first_ephemeral() -> int:
    """The lowest port that the kernel gives to outgoing connections."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768


def consecutive(addresses: list[str], port: int, count: int, but: set[int], setting: str) -> list[int]:
    """So many ports in a row from ``port`` on (0: from anywhere), each free on all addresses and none of ``but``.

    Raises ``ConfigError``.
    """
    if port:
        for number in range(port, port + count):
            if number > 65_535 or number in but:
                raise ConfigError(
                    f"port {number}, one of {count} from {port} on, cannot be used; choose another {setting}"
                )
            _probe(addresses, number)
        return list(range(port, port + count))
    top = _first_ephemeral() - count
    for _ in range(PORT_TRIES):
        first = random.randrange(min(PORT_MIN, top - 1000), top)
        if any(number in but for number in range(first, first + count)):
            continue
        try:
            return consecutive(addresses, first, count, but, setting)
        except ConfigError:
            continue
    raise ConfigError(f"found no {count} ports in a row that are free on all of {', '.join(addresses)}")


def free_port(address: str) -> int:
    """A port for Thespian's admin on this address."""
    for _ in range(PORT_TRIES):
        top = _first_ephemeral()
        port = random.randrange(min(PORT_MIN, top - 1000), top)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise StartError(f"no port is free on {show_address(address, 0)}", "end what holds them")
