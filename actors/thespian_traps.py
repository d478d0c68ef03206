"""What Thespian does that we cannot live with, each put right in one place (design section 2).

Everything here touches a private name of thespian 4.0; ``tests/actors/test_thespian_traps.py`` fails when one changes.
``install`` runs in the command before the first ``ActorSystem``; forked processes inherit it.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

# Read by thespian when it is first imported. A message to a stuck peer must neither live long nor stop all others.
os.environ.setdefault("THESPIAN_TRANSMIT_TIMEOUT_PERIOD", "0:05")
os.environ.setdefault("THESPIAN_MAX_PENDING_TRANSMITS", "500")

import thespian.system.admin.adminCore as admin_core
import thespian.system.multiprocCommon as multiproc
import thespian.system.systemBase as system_base
import thespian.system.utilis as thespian_log
from thespian.actors import Actor

if TYPE_CHECKING:
    from .config import LogSection

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FAULT_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
EXIT_ORPHAN = 71
REPARENT_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)
_command = 0
_root, _manager = logging.root, logging.Logger.manager


def become_subreaper() -> None:
    """Orphans of this process's tree become its children: Thespian's admin detaches itself by a double fork."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int | None = None) -> None:
    """From now on this process is killed when its parent ends; if that has happened already, it exits here.

    Only for main threads whose parent's forking thread never ends: the signal comes with the end of that thread.
    """
    expected = os.getppid() if parent is None else parent
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != expected:
        os._exit(EXIT_ORPHAN)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def restore_fault_signals() -> None:
    """Thespian catches all signals in Python; a real fault would then run the faulting instruction again for ever."""
    for number in FAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def own_logging(section: LogSection, actor: str) -> None:
    """Log lines go to standard error by ourselves: Thespian's logger costs 0.2 ms a line and its queue."""
    # Thespian has put its forwarder in the root's place; the loggers of our modules hang below the original one.
    logging.root = logging.Logger.root = _root
    logging.Logger.manager = _manager
    _root.setLevel(section.level.upper())
    for old in list(_root.handlers):
        _root.removeHandler(old)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(section.format, actor))
    _root.addHandler(handler)


def formatter(kind: str, actor: str) -> logging.Formatter:
    """One line an event: text for people, JSON for machines."""
    if kind == "json":
        return _JsonFormatter(actor)
    return logging.Formatter(f"%(asctime)s %(levelname)-7s {actor} %(message)s")


class _JsonFormatter(logging.Formatter):
    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        line: dict[str, Any] = {
            "ts": round(record.created, 6),
            "level": record.levelname.lower(),
            "actor": self._actor,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _quiet_standard_streams() -> None:
    """Nobody but the command reads or prints; a pipe that an actor held open would hang its reader."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if null > 2:
        os.close(null)


def _start_child(*arguments: Any) -> None:
    """``startChild``, in a process that ends with its parent."""
    parent = multiprocessing.parent_process()
    die_with_parent(parent.pid if parent is not None else None)
    _quiet_standard_streams()
    _original_start_child(*arguments)


def _start_logger(*arguments: Any) -> None:
    """``startupASLogger``, in a process that ends with its parent."""
    parent = multiprocessing.parent_process()
    die_with_parent(parent.pid if parent is not None else None)
    _quiet_standard_streams()
    _original_start_logger(*arguments)


class _Admin(multiproc.MultiProcAdmin):  # type: ignore[misc]
    """The admin, which has detached itself and now belongs to the command, its subreaper; it ends with that."""

    def __init__(self, *arguments: Any) -> None:
        deadline = time.monotonic() + REPARENT_S
        while os.getppid() != _command:
            if time.monotonic() > deadline:
                os._exit(EXIT_ORPHAN)
            time.sleep(0.0005)
        die_with_parent(_command)
        _quiet_standard_streams()
        restore_fault_signals()
        super().__init__(*arguments)


_original_start_child = multiproc.startChild
_original_start_logger = multiproc.startupASLogger


def install() -> None:
    """Put everything right for all Thespian processes that this one, the command, will start."""
    global _command
    _command = os.getpid()
    multiproc.startChild = _start_child
    multiproc.startupASLogger = _start_logger
    multiproc.MultiProcAdmin = _Admin
    # A dead logger is replaced; without this name its replacement fails and takes the admin along.
    admin_core.AdminCore.logDefs = property(lambda admin: admin.logdefs)
    system_base.MAX_SYSTEM_SHUTDOWN_DELAY = system_base.timedelta(seconds=3)
    # Thespian's own log file in the temporary directory: nobody reads it, and it would stay behind.
    thespian_log.thesplog_control(logging.CRITICAL, False, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))


def newest_child_pid(actor: Actor) -> int:
    """The process of the child that this actor created last."""
    return int(actor._myRef._child_procs[-1].childProc.pid)


def living_children(actor: Actor) -> set[int]:
    """The processes of this actor's children that have not ended; those that have are reaped."""
    return {
        int(child.childProc.pid) for child in actor._myRef._child_procs if child.childProc.is_alive()
    }
