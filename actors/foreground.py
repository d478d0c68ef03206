"""The command's process: one Thespian tree, watched, restarted as a whole, stopped in order.

Single-threaded and without asyncio, because everything else is forked from here.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from logeion.wire.errors import ConfigError

from .claim import Claim, StartError, claim, clear_run, free_port, settle_ports
from .config import Config, load
from .restarts import Policy, Restarts
from .runtime import FAILURE, ActorSpec
from .thespian_traps import become_subreaper, forget_system, keep_open, own_logging
from .thespian_traps import install as install_traps

log = logging.getLogger(__name__)

THESPIAN_ADDRESS = "127.0.0.1"
CREATE_S = 5.0
READY_S = 30.0
STOP_S = 15.0
# More trees than this, and another one is no help.
TREES = Policy(intensity=10, period_s=30.0)
EXIT_FAILED = 1


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The flags; None where none was given. ``tied_to_fd`` is an inherited pipe whose end of file means: stop."""

    port: int | None = None
    admin_port: int | None = None
    bind: list[str] | None = None
    advertise: str | None = None
    data: Path | None = None
    fresh: bool = False
    ready_file: Path | None = None
    tied_to_fd: int | None = None
    config_file: Path | None = None


def run(options: Options) -> int:
    """Run a node until it is told to stop; the command's exit code."""
    try:
        if options.tied_to_fd is not None:
            os.fstat(options.tied_to_fd)
    except OSError:
        return _complain(f"no descriptor {options.tied_to_fd} was inherited", "leave --tied-to-fd to logeion.testing")
    try:
        config = _config(options)
        directory = Path(config.node.data_dir).absolute()
        held = claim(directory, options.fresh)
        config = settle_ports(config)
    except (ConfigError, StartError) as error:
        return _complain(str(error), getattr(error, "hint", "logeion config show --origin says where values come from"))
    config = msgspec.structs.replace(config, node=msgspec.structs.replace(config.node, data_dir=str(directory)))
    own_logging(config.log, f"command/{config.node.id}")
    logging.getLogger("Thespian").setLevel(logging.WARNING)
    try:
        return Command(config, directory, held, options.ready_file, options.tied_to_fd).run()
    finally:
        held.release()


def _config(options: Options) -> Config:
    flags: dict[str, object] = {
        "listeners.port": options.port,
        "listeners.bind": options.bind,
        "listeners.advertise": options.advertise,
        "http.port": options.admin_port,
        "node.data_dir": None if options.data is None else str(options.data),
    }
    return load(options.config_file, os.environ, flags).config


def _complain(cause: str, hint: str) -> int:
    print(f"logeion: {cause}", file=sys.stderr)
    print(f"try: {hint}", file=sys.stderr)
    return EXIT_FAILED


class Command:
    """The tree and its watch."""

    def __init__(
        self, config: Config, directory: Path, held: Claim, ready_file: Path | None, tied_to_fd: int | None
    ) -> None:
        self.config = config
        self.directory = directory
        self.ready_file = ready_file
        self.began = time.monotonic()
        self._stop_signals = 0
        # Whoever started this has the other end: its end, even by SIGKILL, is a signal to stop.
        self._tie = tied_to_fd
        self._watch: dict[int, str] = {}
        self._supervisor = 0
        self._admin = 0
        self._system: Any = None
        keep_open(held.tree)
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        if self.ready_file is not None:
            # What an earlier run wrote would tell a waiting test the wrong addresses.
            for path in (self.ready_file, _details(self.ready_file)):
                path.unlink(missing_ok=True)
        become_subreaper()
        install_traps(self.config.node.id)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_out)
        _preload()
        gc.collect()
        gc.freeze()
        trees = Restarts(TREES)
        served = False
        while True:
            cause = self._start()
            if not cause:
                cause = self._await_ready(served)
                served = served or not cause
            if not cause:
                cause = self._watch_tree()
            if not cause:
                self._stop_tree()
                return 0
            self._kill_tree()
            if self._stopped():
                return 0
            cause = self._explained(cause)
            if not served:
                return _complain(cause, "the log lines above have the details")
            pause = trees.exited(time.monotonic())
            if pause is None:
                return _complain(
                    f"{trees.cause('the tree of processes')}; last: {cause}", "the log lines above say more"
                )
            log.error("tree ended, starting another cause=%s", cause)
            clear_run(self.directory / "run")
            self._rest(pause)

    def _on_signal(self, *_: object) -> None:
        self._stop_signals += 1

    def _ties(self) -> list[int]:
        return [] if self._tie is None else [self._tie]

    def _stopped(self) -> bool:
        """Whether to stop: by a signal, or because who started this has let go of the pipe."""
        if self._tie is not None and select.select([self._tie], [], [], 0)[0]:
            self._tie = None
            self._stop_signals += 1
        return self._stop_signals > 0

    # Starting

    def _start(self) -> str:
        """Start admin and supervisor; the cause if that failed."""
        from thespian.actors import ActorSystem, ActorSystemException

        from . import seal
        from .supervisor import Supervisor

        node = self.config.node.id
        seal.install(os.urandom(32), THESPIAN_ADDRESS)
        spec = ActorSpec(
            actor=f"supervisor/{node}",
            kind="supervisor",
            node=node,
            incarnation=time.time_ns(),
            data_dir=str(self.directory),
            config=self.config.encode(),
        )
        known = set(_children(os.getpid()))
        try:
            self._system = ActorSystem(
                "multiprocTCPBase",
                {"Admin Port": free_port(THESPIAN_ADDRESS)},
                logDefs={"version": 1},
                transientUnique=True,
            )
            supervisor = self._system.createActor(Supervisor, targetActorRequirements={"spec": spec.encode()})
            self._supervisor = self._system.ask(supervisor, "start", CREATE_S) or 0
        except (ActorSystemException, OSError) as error:
            return f"Thespian did not start: {error}"
        if not self._supervisor:
            return f"the supervisor did not answer within {CREATE_S:.0f} s"
        # All that is left to say is said by signals.
        forget_system(self._system)
        self._system = None
        self._reap()
        admins = [pid for pid in _children(os.getpid()) if pid not in known]
        if len(admins) != 1:
            return f"expected one Thespian admin, found {len(admins)}"
        self._admin = admins[0]
        try:
            self._watch = {
                os.pidfd_open(self._admin): "Thespian's admin ended",
                os.pidfd_open(self._supervisor): "the supervisor ended",
            }
        except ProcessLookupError:
            return "the supervisor ended as soon as it had started"
        return ""

    def _rest(self, seconds: float) -> None:
        """Wait, unless a signal comes."""
        if seconds and not self._stopped():
            select.select([self._wake_in, *self._ties()], [], [], seconds)

    def _explained(self, cause: str) -> str:
        """The cause, with what the Supervisor or an actor left behind to explain its end."""
        with contextlib.suppress(OSError):
            cause += ": " + (self.directory / "run" / FAILURE).read_text(errors="replace").strip()
        return cause

    def _await_ready(self, announced: bool) -> str:
        """Until Node says so; the cause if the tree ended first or it takes too long."""
        deadline = time.monotonic() + READY_S
        while not self._stopped():
            try:
                ready = _ask_ready(self.directory / "run", self._events_until(deadline))
            except _Interrupted:
                return "" if self._stopped() else self._ended()
            if ready is not None:
                if not announced:
                    self._announce(ready)
                self._write_ready(ready)
                return ""
            if time.monotonic() > deadline:
                return f"the node was not ready within {READY_S:.0f} s"
        return ""

    def _events_until(self, deadline: float) -> Iterator[float]:
        """Seconds that may be waited for, again and again; raises ``_Interrupted`` when something else is to do."""
        while True:
            if self._stopped() or self._ended():
                raise _Interrupted
            yield min(0.05, max(0.001, deadline - time.monotonic()))

    def _announce(self, ready: Any) -> None:
        took = time.monotonic() - self.began
        lines = (
            f"logeion: node {ready.node} ready in {took:.2f} s (Ctrl-C stops, data is kept)",
            f"  Kafka  {', '.join(ready.listeners)}",
            f"  Admin  {', '.join('http://' + a for a in ready.admin)}",
            f"  Data   {self.directory}",
        )
        with contextlib.suppress(BrokenPipeError):
            print("\n".join(lines), flush=True)

    def _write_ready(self, ready: Any) -> None:
        if self.ready_file is not None:
            details = {
                "cluster_id": ready.cluster_id,
                "nodes": [
                    {
                        "node": ready.node,
                        "listeners": ready.listeners,
                        "admin": ready.admin,
                        "pid": os.getpid(),
                        "admin_pid": self._admin,
                        "supervisor_pid": self._supervisor,
                        "actors": [{"id": a.actor, "kind": a.kind, "pid": a.pid} for a in ready.actors],
                    }
                ],
            }
            _write(_details(self.ready_file), json.dumps(details, indent=1) + "\n")
            _write(self.ready_file, "".join(f"{address}\n" for address in ready.listeners))

    # Watching

    def _ended(self) -> str:
        """Why the tree is not whole any more; empty while it is."""
        readable = select.select(list(self._watch), [], [], 0)[0]
        return self._watch[readable[0]] if readable else ""

    def _watch_tree(self) -> str:
        """Until a signal (empty) or the end of admin or supervisor (the cause)."""
        poll = select.poll()
        for descriptor in (*self._watch, self._wake_in, *self._ties()):
            poll.register(descriptor, select.POLLIN)
        reader = _standard_output_pipe()
        if reader is not None:
            # No event is asked for; an error is told all the same, once nobody can read any more.
            poll.register(reader, 0)
        while True:
            events = poll.poll()
            if any(descriptor == reader and event & select.POLLERR for descriptor, event in events):
                return self._reader_left()
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_in, 4096)
            self._reap()
            if self._stopped():
                return ""
            cause = self._ended()
            if cause:
                return cause

    def _reader_left(self) -> str:
        """``logeion up | head -1``: whoever read our output has enough, so this ends like any command would."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return ""

    def _reap(self) -> None:
        """Collect orphans and the admin's starters; the exits that matter are seen by their pidfds."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    # Stopping

    def _stop_tree(self) -> None:
        """Let the supervisor stop all in order; a second signal, or the deadline, kills what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._supervisor, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        supervisor = [fd for fd, what in self._watch.items() if "supervisor" in what]
        while self._stop_signals < 2 and time.monotonic() < deadline:
            if select.select([*supervisor, self._wake_in], [], [], 0.1)[0]:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_in, 4096)
            if not supervisor or select.select(supervisor, [], [], 0)[0]:
                break
        self._kill_tree()
        shutil.rmtree(self.directory / "run", ignore_errors=True)

    def _kill_tree(self) -> None:
        """End every process below this one, however deep, and wait for them."""
        deadline = time.monotonic() + 5.0
        while True:
            children = _children(os.getpid())
            for pid in _descendants(children):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            if not _children(os.getpid()) or time.monotonic() > deadline:
                break
            time.sleep(0.002)
        for descriptor in self._watch:
            os.close(descriptor)
        self._watch.clear()
        if self._system is not None:
            forget_system(self._system)
            self._system = None


class _Interrupted(Exception):
    """A signal came, or the tree is not whole any more."""


def _preload() -> None:
    """Load what the children run, so that they share its memory and fork ready."""
    from .supervisor import actor_class

    for kind in ("controller", "node", "gateway", "partition"):
        actor_class(kind)
    from logeion.wire import apis

    assert apis.APIS


def _standard_output_pipe() -> int | None:
    """Standard output, if it is a pipe or a socket that somebody reads."""
    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _ask_ready(run_dir: Path, waits: Iterator[float]) -> Any:
    """Node's ``Ready``, or None when Node could not be asked this time."""
    from .lanes import BlockingLane
    from .messages import AwaitReady, Ready

    try:
        lane = BlockingLane(run_dir / "node.sock", "command")
    except OSError:
        time.sleep(next(waits) / 10)
        return None
    with lane:
        try:
            answer = lane.ask(AwaitReady(), waits)
        except (OSError, EOFError):
            return None
    return answer if isinstance(answer, Ready) else None


def _children(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _descendants(pids: list[int]) -> list[int]:
    found = list(pids)
    for pid in found:
        found += _children(pid)
    return found


def _details(ready_file: Path) -> Path:
    """Where the details stand, beside the ready file."""
    return ready_file.with_name(ready_file.name + ".json")


def _write(path: Path, text: str) -> None:
    """The file, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)
