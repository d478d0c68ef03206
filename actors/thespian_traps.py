"""What Thespian does that we cannot live with, each put right in one place (design section 2).

Everything here touches a private name of thespian 4.0; ``tests/actors/test_thespian_traps.py`` fails when one changes.
``install`` runs in the command before the first ``ActorSystem``; forked processes inherit it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

# Read by thespian when it is first imported. A message to a stuck peer must neither live long nor stop all others.
os.environ.setdefault("THESPIAN_TRANSMIT_TIMEOUT_PERIOD", "0:05")
os.environ.setdefault("THESPIAN_MAX_PENDING_TRANSMITS", "500")


def _import_quietly() -> None:
    """Thespian asks the resolver for this host's names when it is imported: seconds, where none answers."""
    asked = socket.gethostname, socket.getfqdn, socket.getaddrinfo
    socket.gethostname = socket.getfqdn = lambda *_: "localhost"
    socket.getaddrinfo = lambda *_, **__: []
    try:
        import thespian.system.multiprocTCPBase  # noqa: F401
    finally:
        socket.gethostname, socket.getfqdn, socket.getaddrinfo = asked


_import_quietly()

import thespian.system.admin.adminCore as admin_core  # noqa: E402
import thespian.system.logdirector as logdirector  # noqa: E402
import thespian.system.multiprocCommon as multiproc  # noqa: E402
import thespian.system.utilis as thespian_log  # noqa: E402
from setproctitle import setproctitle  # noqa: E402
from thespian.actors import Actor  # noqa: E402

if TYPE_CHECKING:
    from .config import LogSection

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FAULT_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
EXIT_ORPHAN = 71

_libc = ctypes.CDLL(None, use_errno=True)
_node = 0
_kept: set[int] = set()
_root, _manager = logging.root, logging.Logger.manager


def become_subreaper() -> None:
    """Orphans of this process's tree become its children, so that it can end them."""
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
    handler = _Handler(sys.stderr)
    handler.setFormatter(formatter(section.format, actor))
    _root.addHandler(handler)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """A line that cannot be written must not become another one, nor an error."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def formatter(kind: str, actor: str) -> logging.Formatter:
    """One line an event: text for people, JSON for machines."""
    if kind == "json":
        return _JsonFormatter(actor)
    return _TextFormatter(actor)


def printable(text: str) -> str:
    """Names that peers chose, with nothing in them that ends a line, steers a terminal or cuts a C string short."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _TextFormatter(logging.Formatter):
    def __init__(self, actor: str) -> None:
        super().__init__("%(asctime)s %(levelname)-7s ")
        self._actor = actor

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record) + printable(f"{self._actor} {record.message}")


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


def _enter(title: str) -> None:
    """What comes first in a forked process, before anything of Thespian's: nothing of the parent's is left in it."""
    parent = multiprocessing.parent_process()
    die_with_parent(None if parent is None else parent.pid)
    # The parent's handlers would act on the parent's behalf: write to its eventfd, stop its children.
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, *FAULT_SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    _close_inherited()
    _quiet_standard_streams()
    setproctitle(title)


def _close_inherited() -> None:
    """Listeners and lanes of the parent would go on accepting after its end, and its locks would stay taken.

    The objects that believe to own these descriptors are never freed: they hang on the stack that forked, which ends
    by ``os._exit`` only.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    last = 2
    for kept in sorted(_kept):
        os.closerange(last + 1, kept)
        last = kept
    os.closerange(last + 1, limit)


def _start_child(*arguments: Any) -> None:
    """``startChild``, in a process that ends with its parent; the actor gives itself a better title."""
    _enter(f"logeion[{_node}] actor")
    _original_start_child(*arguments)
    os._exit(0)


def _start_logger(*arguments: Any) -> None:
    """``startupASLogger``, in a process that ends with its parent."""
    _enter(f"logeion[{_node}] logger")
    _original_start_logger(*arguments)
    os._exit(0)


def _start_admin(*arguments: Any) -> None:
    """``startAdmin``, without the fork by which it would leave its parent: it ends with the command."""
    _enter(f"logeion[{_node}] admin")
    # It says on the root logger that it has started.
    logging.getLogger().setLevel(logging.WARNING)
    fork = os.fork

    def stay() -> int:
        os.fork = fork
        return 0

    os.fork = stay
    _original_start_admin(*arguments)
    os._exit(0)


_original_start_admin = multiproc.startAdmin
_original_start_child = multiproc.startChild
_original_start_logger = multiproc.startupASLogger


def keep_open(descriptor: int) -> None:
    """Let all processes of the tree inherit this descriptor, and no other."""
    _kept.add(descriptor)


@contextlib.contextmanager
def inherited(descriptor: int) -> Iterator[None]:
    """Let those that are forked meanwhile inherit this descriptor too."""
    _kept.add(descriptor)
    try:
        yield
    finally:
        _kept.discard(descriptor)


def forget_system(system: Any) -> None:
    """Close this process's own end of an actor system: its listener and its connections."""
    with contextlib.suppress(Exception):
        system._systemBase.transport.close()


def install(node: int) -> None:
    """Put everything right for all Thespian processes that this one, the command, will start."""
    global _node
    _node = node
    multiproc.startAdmin = _start_admin
    multiproc.startChild = _start_child
    multiproc.startupASLogger = _start_logger
    # It would replace the titles by its own.
    multiproc.setProcName = logdirector.setProcName = lambda *_: None
    # A dead logger is replaced; without this name its replacement fails and takes the admin along.
    admin_core.AdminCore.logDefs = property(lambda admin: admin.logdefs)
    # Thespian's own log file in the temporary directory: nobody reads it, and it would stay behind.
    thespian_log.thesplog_control(logging.CRITICAL, False, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))


def newest_child(actor: Actor) -> Any:
    """The ``multiprocessing.Process`` of the child that this actor created last."""
    return actor._myRef._child_procs[-1].childProc
